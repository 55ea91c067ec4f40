//! Writing, changing and forgetting, each in one transaction.

use std::collections::HashSet;

use postgres::Transaction;

use super::Fault;
use super::row::{self, Columns, KEPT, STORED};
use super::sql::{Sql, millis};
use crate::backend::{Change, Forget, Stored, Written};
use crate::error::{MemoryError, Result};
use crate::record::{Record, RecordId, Timestamp, content_hash};
use crate::scope::Partition;

/// Rows of one `INSERT`: 16 parameters each, of the 65,535 that the protocol allows.
pub(super) const ROWS: usize = 256;

/// Writes records, one outcome each, in order.
pub(super) fn put(
    transaction: &mut Transaction<'_>,
    records: &[Stored],
    now: Timestamp,
) -> Result<Vec<Written>, Fault> {
    let mut written: Vec<Option<Written>> = vec![None; records.len()];
    // In the order of their keys, so that two writers of the same records do not wait for each other in turn.
    let mut places: Vec<usize> = (0..records.len()).collect();
    places.sort_by_key(|&place| order(&records[place]));
    for places in places.chunks(ROWS) {
        let chunk: Vec<Stored> = places.iter().map(|&place| records[place].clone()).collect();
        let mut created = insert_new(transaction, &chunk)?;
        for (&place, stored) in places.iter().zip(&chunk) {
            let key = (stored.record.scope.partition.clone(), stored.record.id);
            written[place] = Some(if created.remove(&key) {
                Written::Created(stored.record.clone())
            } else {
                again(transaction, stored, now)?
            });
        }
    }
    Ok(written.into_iter().flatten().collect())
}

fn order(stored: &Stored) -> (&Partition, RecordId) {
    (&stored.record.scope.partition, stored.record.id)
}

/// Inserts those whose place is free; which ones.
fn insert_new(transaction: &mut Transaction<'_>, records: &[Stored]) -> Result<HashSet<(Partition, RecordId)>, Fault> {
    let mut sql = Sql::default();
    row::insert(&mut sql, records)?;
    sql.push(" ON CONFLICT DO NOTHING RETURNING tenant, domain, id");
    let rows = transaction.query(&sql.text, &sql.parameters())?;
    let place = |row: &postgres::Row| {
        let partition = Partition {
            tenant: crate::scope::Name::new("tenant", row.get::<_, &str>(0))?,
            domain: crate::scope::Name::new("domain", row.get::<_, &str>(1))?,
        };
        Ok((partition, row::id(row.get(2))))
    };
    rows.iter().map(place).collect::<Result<_>>().map_err(Fault::Ours)
}

/// A record whose id is taken: by the same content, by one that is past its time, or by another content,
/// where the next salt is tried.
fn again(transaction: &mut Transaction<'_>, stored: &Stored, now: Timestamp) -> Result<Written, Fault> {
    let mut stored = stored.clone();
    let mut salt = 0;
    loop {
        let partition = stored.record.scope.partition.clone();
        match locked(transaction, &partition, stored.record.id)? {
            Some(held) if held.record.expired(now) => remove(transaction, &partition, stored.record.id)?,
            Some(held) if held.record.content_hash == stored.record.content_hash => {
                let mut record = held.record;
                record.seen = record.seen.saturating_add(1);
                record.expires = later(record.expires, stored.record.expires);
                save_body(transaction, &record)?;
                return Ok(Written::SeenAgain(record));
            }
            Some(_) => {
                salt += 1;
                let Record { scope, kind, content, .. } = &stored.record;
                stored.record.id = RecordId::of(scope, *kind, content, salt);
            }
            None if !insert_new(transaction, std::slice::from_ref(&stored))?.is_empty() => {
                return Ok(Written::Created(stored.record));
            }
            // Somebody wrote it in between: look again.
            None => {}
        }
    }
}

/// The later of two expiries; `None` is never.
fn later(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// The record as it stands, held against other writers until the transaction ends.
fn locked(transaction: &mut Transaction<'_>, partition: &Partition, id: RecordId) -> Result<Option<Stored>, Fault> {
    let mut sql = Sql::new(&format!("SELECT {STORED} FROM records"));
    row::at(&mut sql, partition, id);
    sql.push(" FOR UPDATE");
    let row = transaction.query_opt(&sql.text, &sql.parameters())?;
    row.as_ref().map(row::stored).transpose().map_err(Fault::Ours)
}

/// Writes what changes without a new version.
fn save_body(transaction: &mut Transaction<'_>, record: &Record) -> Result<(), Fault> {
    let mut sql = Sql::new("UPDATE records SET body = ");
    sql.bind(row::body(record)?, "text");
    sql.push(", expires = ").bind(record.expires.map(millis), "bigint");
    sql.push(", pinned = ").bind(record.pinned, "bool");
    sql.push(", facts = jsonb_set(facts, '{pinned}', to_jsonb(").bind(record.pinned, "bool").push("))");
    row::at(&mut sql, &record.scope.partition, record.id);
    transaction.execute(&sql.text, &sql.parameters())?;
    Ok(())
}

fn remove(transaction: &mut Transaction<'_>, partition: &Partition, id: RecordId) -> Result<(), Fault> {
    for table in ["history", "records"] {
        let mut sql = Sql::new(&format!("DELETE FROM {table}"));
        row::at(&mut sql, partition, id);
        transaction.execute(&sql.text, &sql.parameters())?;
    }
    Ok(())
}

/// Changes a record; new content or metadata leaves the old version in the history.
pub(super) fn change(
    transaction: &mut Transaction<'_>,
    (partition, id): (&Partition, RecordId),
    change: &Change,
    now: Timestamp,
) -> Result<Record, Fault> {
    let held = locked(transaction, partition, id)?.filter(|held| !held.record.expired(now));
    let Some(Stored { mut record, mut vector }) = held else {
        return Err(MemoryError::NotFound(id).into());
    };
    if let Some(expires) = change.expires {
        record.expires = expires;
    }
    if let Some(pinned) = change.pinned {
        record.pinned = pinned;
    }
    if let Some(more) = change.feedback {
        record.feedback.useful = record.feedback.useful.saturating_add(more.useful);
        record.feedback.wrong = record.feedback.wrong.saturating_add(more.wrong);
    }
    if let Some(provenance) = &change.provenance {
        record.provenance.clone_from(provenance);
    }
    if change.content.is_none() && change.metadata.is_none() {
        // Filters and names are made of the provenance; the version and its time stay.
        match change.provenance {
            Some(_) => save_version(transaction, &record, vector)?,
            None => save_body(transaction, &record)?,
        }
        return Ok(record);
    }
    // A clock that went back must not reorder versions.
    let until = now.max(record.updated);
    archive(transaction, partition, (id, record.version), until)?;
    if let Some((content, embedding)) = &change.content {
        record.content_hash = content_hash(content);
        record.content.clone_from(content);
        vector.clone_from(embedding);
    }
    if let Some(metadata) = &change.metadata {
        record.metadata.clone_from(metadata);
    }
    record.version = record.version.saturating_add(1);
    record.updated = until;
    save_version(transaction, &record, vector)?;
    Ok(record)
}

/// Copies the row as it stands into the history.
fn archive(
    transaction: &mut Transaction<'_>,
    partition: &Partition,
    (id, version): (RecordId, u32),
    until: Timestamp,
) -> Result<(), Fault> {
    let mut sql = Sql::new(&format!("INSERT INTO history ({KEPT}, version, until) SELECT {KEPT}, "));
    sql.bind(i32::try_from(version).unwrap_or(i32::MAX), "int").push(", ").bind(millis(until), "bigint");
    sql.push(" FROM records");
    row::at(&mut sql, partition, id);
    transaction.execute(&sql.text, &sql.parameters())?;
    Ok(())
}

/// Writes every column that follows from the record.
fn save_version(transaction: &mut Transaction<'_>, record: &Record, vector: Vec<f32>) -> Result<(), Fault> {
    let columns = Columns::of(record)?;
    let mut sql = Sql::new("UPDATE records SET body = ");
    sql.bind(columns.body, "text");
    sql.push(", updated = ").bind(millis(record.updated), "bigint");
    sql.push(", expires = ").bind(record.expires.map(millis), "bigint");
    sql.push(", pinned = ").bind(record.pinned, "bool");
    sql.push(", content = ").bind(record.content.clone().into_bytes(), "bytea");
    sql.push(", facts = ").bind(columns.facts, "jsonb");
    sql.push(", terms = ").bind(columns.terms, "bigint[]");
    sql.push(", counts = ").bind(columns.counts, "int[]");
    sql.push(", length = ").bind(columns.length, "int");
    sql.push(", embedding = ").bind(vector, "real[]::vector");
    row::at(&mut sql, &record.scope.partition, record.id);
    transaction.execute(&sql.text, &sql.parameters())?;
    Ok(())
}

/// Deletes records with their history; how many records.
pub(super) fn forget(transaction: &mut Transaction<'_>, what: &Forget) -> Result<u64, Fault> {
    let mut gone = Sql::default();
    match what {
        Forget::Ids(partition, ids) => {
            let keys: Vec<Vec<u8>> = ids.iter().map(|id| row::key(*id)).collect();
            gone.partition(partition).push(" AND id = ANY(").bind(keys, "bytea[]").push(")");
        }
        Forget::Matching(selection) => {
            gone.selected(selection)?;
        }
        Forget::Tenant(tenant) => {
            gone.push("tenant = ").bind(tenant.as_str().to_owned(), "text");
        }
    }
    delete(transaction, &gone)
}

/// Deletes what expired before `now`; how many records.
pub(super) fn expire(transaction: &mut Transaction<'_>, now: Timestamp) -> Result<u64, Fault> {
    let mut gone = Sql::new("NOT pinned AND expires <= ");
    gone.bind(millis(now), "bigint");
    delete(transaction, &gone)
}

/// The history goes in a second statement, whose snapshot is newer: it sees the version that a `change` wrote
/// while the first one waited for its lock.
fn delete(transaction: &mut Transaction<'_>, gone: &Sql) -> Result<u64, Fault> {
    let statement = format!("DELETE FROM records WHERE {} RETURNING tenant, domain, id", gone.text);
    let rows = transaction.query(&statement, &gone.parameters())?;
    let texts = |column: usize| rows.iter().map(|row| row.get(column)).collect::<Vec<String>>();
    let keys: Vec<Vec<u8>> = rows.iter().map(|row| row.get(2)).collect();
    transaction.execute(
        "DELETE FROM history USING unnest($1::text[], $2::text[], $3::bytea[]) AS gone (tenant, domain, id) \
         WHERE history.tenant = gone.tenant AND history.domain = gone.domain AND history.id = gone.id",
        &[&texts(0), &texts(1), &keys],
    )?;
    Ok(rows.len() as u64)
}
