//! Records to rows and back.

use postgres::Row;
use postgres::types::Json;

use super::filter::facts;
use super::sql::{Sql, millis};
use crate::backend::Stored;
use crate::backend::terms::{Numbering, names, word_counts};
use crate::error::{MemoryError, Result};
use crate::record::{Record, RecordId};
use crate::scope::Partition;

/// What [`Row`]s are read from, in this order.
pub(super) const STORED: &str = "body, content, embedding::real[]";

/// Columns of a record that its history has too.
pub(super) const KEPT: &str =
    "tenant, domain, id, project, session, kind, updated, expires, pinned, content, body, facts, embedding";

/// Reads a row of [`STORED`].
pub(super) fn stored(row: &Row) -> Result<Stored> {
    Ok(Stored { record: record(row)?, vector: row.get(2) })
}

/// Reads the record of a row of [`STORED`], or of its first two columns.
pub(super) fn record(row: &Row) -> Result<Record> {
    let damaged = |what: String| MemoryError::Backend {
        backend: super::NAME,
        message: format!("a row of `records` is damaged: {what}"),
        retryable: false,
    };
    let mut record: Record = serde_json::from_str(row.get(0)).map_err(|error| damaged(error.to_string()))?;
    record.content = String::from_utf8(row.get(1)).map_err(|error| damaged(error.to_string()))?;
    Ok(record)
}

/// The key of a record.
pub(super) fn key(id: RecordId) -> Vec<u8> {
    id.0.to_be_bytes().to_vec()
}

/// An id from a key.
pub(super) fn id(key: &[u8]) -> RecordId {
    let mut bytes = [0; 16];
    bytes[16 - key.len().min(16)..].copy_from_slice(&key[..key.len().min(16)]);
    RecordId(u128::from_be_bytes(bytes))
}

/// Appends ` WHERE` the row of a record.
pub(super) fn at(sql: &mut Sql, partition: &Partition, record: RecordId) {
    sql.push(" WHERE ").partition(partition).push(" AND id = ").bind(key(record), "bytea");
}

/// What columns hold of one record.
pub(super) struct Columns {
    pub(super) body: String,
    pub(super) facts: Json<serde_json::Value>,
    pub(super) terms: Vec<i64>,
    pub(super) counts: Vec<i32>,
    pub(super) length: i32,
}

impl Columns {
    /// Makes them of a record.
    pub(super) fn of(record: &Record) -> Result<Self> {
        let numbers = Numbering::of(&record.scope.partition);
        let (terms, counts): (Vec<i64>, Vec<i32>) = word_counts(&record.content)
            .iter()
            .map(|(word, count)| (numbers.word(word), i32::try_from(*count).unwrap_or(i32::MAX)))
            .unzip();
        let length = counts.iter().fold(0_i32, |sum, count| sum.saturating_add(*count));
        // Names of the symbol have numbers but no count: BM25 does not see them.
        let named = names(record.provenance.symbol.as_deref()).into_iter().map(|name| numbers.word(&name));
        let terms = terms.into_iter().chain(named).collect();
        Ok(Self { body: body(record)?, facts: Json(facts(record)), terms, counts, length })
    }
}

/// The record as JSON, without its content, which has a column of its own.
pub(super) fn body(record: &Record) -> Result<String> {
    let bare = Record { content: String::new(), ..record.clone() };
    serde_json::to_string(&bare).map_err(|error| MemoryError::Invalid {
        field: "record".to_owned(),
        message: format!("cannot be written as JSON: {error}"),
    })
}

/// Appends `INSERT INTO records .. VALUES (..), (..)`.
pub(super) fn insert(sql: &mut Sql, records: &[Stored]) -> Result<()> {
    sql.push(&format!("INSERT INTO records ({KEPT}, terms, counts, length) VALUES "));
    for (i, Stored { record, vector }) in records.iter().enumerate() {
        let columns = Columns::of(record)?;
        let scope = &record.scope;
        let name = |name: &Option<crate::scope::Name>| name.as_ref().map(|name| name.as_str().to_owned());
        sql.push(if i == 0 { "(" } else { ", (" });
        sql.bind(scope.partition.tenant.as_str().to_owned(), "text").push(", ");
        sql.bind(scope.partition.domain.as_str().to_owned(), "text").push(", ");
        sql.bind(key(record.id), "bytea").push(", ");
        sql.bind(name(&scope.project), "text").push(", ").bind(name(&scope.session), "text").push(", ");
        sql.bind(record.kind.as_str(), "text").push(", ").bind(millis(record.updated), "bigint").push(", ");
        sql.bind(record.expires.map(millis), "bigint").push(", ").bind(record.pinned, "bool").push(", ");
        sql.bind(record.content.clone().into_bytes(), "bytea").push(", ").bind(columns.body, "text").push(", ");
        sql.bind(columns.facts, "jsonb").push(", ").bind(vector.clone(), "real[]::vector").push(", ");
        sql.bind(columns.terms, "bigint[]").push(", ").bind(columns.counts, "int[]").push(", ");
        sql.bind(columns.length, "int").push(")");
    }
    Ok(())
}
