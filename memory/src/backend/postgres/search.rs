//! Reading: by id, in order, by vector, by word and by name.

use std::collections::BTreeMap;

use postgres::Transaction;

use super::row::{self, STORED};
use super::sql::{Sql, millis};
use super::{Fault, PostgresConfig};
use crate::backend::terms::{Numbering, any_case, exact_name, literals, word_counts};
use crate::backend::{BackendStats, Candidate, Selection, Stored};
use crate::error::Result;
use crate::record::{Record, RecordId, Timestamp};
use crate::scope::Partition;

/// BM25's saturation and length weight. Robertson and Zaragoza, *The Probabilistic Relevance Framework*, 2009.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Words of a query at most, the first ones.
const MAX_WORDS: usize = 64;

/// The record at `as_of`, or now.
pub(super) fn get(
    transaction: &mut Transaction<'_>,
    (partition, id): (&Partition, RecordId),
    as_of: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<Record>, Fault> {
    let Some(then) = as_of else {
        let mut sql = Sql::new(&format!("SELECT {STORED} FROM records"));
        row::at(&mut sql, partition, id);
        sql.alive(now);
        let row = transaction.query_opt(&sql.text, &sql.parameters())?;
        return Ok(row.as_ref().map(row::record).transpose()?);
    };
    let mut sql = Sql::default();
    stood(&mut sql, then, |sql, _| {
        row::at(sql, partition, id);
        Ok(())
    })?;
    let row = transaction.query_opt(&sql.text, &sql.parameters())?;
    Ok(row.as_ref().map(row::record).transpose()?)
}

/// Appends a query of the rows that stood at `then`, of those that `choose` appends as ` WHERE ..`.
fn stood(sql: &mut Sql, then: Timestamp, choose: impl Fn(&mut Sql, &str) -> Result<()>) -> Result<()> {
    for table in ["records", "history"] {
        let columns = if table == "records" { "SELECT" } else { " UNION ALL SELECT" };
        sql.push(&format!("{columns} {STORED}, id FROM {table}"));
        choose(sql, table)?;
        sql.alive(then).push(" AND updated <= ").bind(millis(then), "bigint");
        if table == "history" {
            sql.push(" AND until > ").bind(millis(then), "bigint");
        }
    }
    Ok(())
}

/// Those that are there, in the order asked.
pub(super) fn get_many(
    transaction: &mut Transaction<'_>,
    partition: &Partition,
    ids: &[RecordId],
    now: Timestamp,
) -> Result<Vec<Stored>, Fault> {
    let keys: Vec<Vec<u8>> = ids.iter().map(|id| row::key(*id)).collect();
    let mut sql = Sql::new(&format!("SELECT {STORED} FROM records JOIN unnest("));
    sql.bind(keys, "bytea[]").push(") WITH ORDINALITY AS asked (asked_id, place) ON id = asked_id WHERE ");
    sql.partition(partition).alive(now).push(" ORDER BY place");
    let rows = transaction.query(&sql.text, &sql.parameters())?;
    Ok(rows.iter().map(row::stored).collect::<Result<_>>()?)
}

/// A page of what is selected, by id.
pub(super) fn scan(
    transaction: &mut Transaction<'_>,
    selection: &Selection,
    (as_of, now): (Option<Timestamp>, Timestamp),
    after: Option<RecordId>,
    limit: usize,
) -> Result<Vec<Stored>, Fault> {
    let choose = |sql: &mut Sql, _: &str| {
        sql.push(" WHERE ").selected(selection)?;
        if let Some(after) = after {
            sql.push(" AND id > ").bind(row::key(after), "bytea");
        }
        Ok(())
    };
    let mut sql = Sql::default();
    match as_of {
        Some(then) => stood(&mut sql, then, choose)?,
        None => {
            sql.push(&format!("SELECT {STORED}, id FROM records"));
            choose(&mut sql, "records")?;
            sql.alive(now);
        }
    }
    sql.push(" ORDER BY id LIMIT ").bind(places(limit), "bigint");
    let rows = transaction.query(&sql.text, &sql.parameters())?;
    Ok(rows.iter().map(row::stored).collect::<Result<_>>()?)
}

fn places(k: usize) -> i64 {
    i64::try_from(k).unwrap_or(i64::MAX)
}

fn candidates(transaction: &mut Transaction<'_>, sql: &Sql) -> Result<Vec<Candidate>, Fault> {
    let rows = transaction.query(&sql.text, &sql.parameters())?;
    let candidate = |row: &postgres::Row| Candidate { id: row::id(row.get(0)), score: row.get::<_, f64>(1) as f32 };
    Ok(rows.iter().map(candidate).collect())
}

/// The `k` nearest: by the index where many are selected, exactly where few are or the index gave too few.
pub(super) fn nearest(
    transaction: &mut Transaction<'_>,
    selection: &Selection,
    vector: &[f32],
    (k, now): (usize, Timestamp),
    config: &PostgresConfig,
) -> Result<Vec<Candidate>, Fault> {
    let exact = i64::from(config.exact_rows);
    let mut count = Sql::new("SELECT count(*) FROM (SELECT FROM records WHERE ");
    count.selected(selection)?.alive(now).push(" LIMIT ").bind(exact.saturating_add(1), "bigint").push(") AS selected");
    let selected: i64 = transaction.query_one(&count.text, &count.parameters())?.get(0);
    if selected > exact {
        // The scan goes on until `k` rows have passed the filter, in exact order of distance.
        let ef = config.ef_search.max(u32::try_from(k).unwrap_or(u32::MAX)).clamp(1, 1000);
        transaction
            .batch_execute(&format!("SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL hnsw.ef_search = {ef}"))?;
        let found = by_distance(transaction, selection, vector, Some(vector.len()), (k, now))?;
        if found.len() >= k {
            return Ok(found);
        }
    }
    by_distance(transaction, selection, vector, None, (k, now))
}

/// `indexed` names the dimension of the expression that the index is on; without it no index fits the order.
fn by_distance(
    transaction: &mut Transaction<'_>,
    selection: &Selection,
    vector: &[f32],
    indexed: Option<usize>,
    (k, now): (usize, Timestamp),
) -> Result<Vec<Candidate>, Fault> {
    let mut sql = Sql::default();
    let place = sql.place(vector.to_vec(), "real[]::vector");
    let column = indexed.map_or("embedding".to_owned(), |dim| format!("embedding::vector({dim})"));
    sql.push(&format!("SELECT id, -(({column}) <#> {place}) FROM records WHERE "));
    sql.selected(selection)?.alive(now);
    // pgvector's index gives equal distances in no order; where all are compared, ids decide.
    let ties = if indexed.is_some() { "" } else { ", id" };
    sql.push(&format!(" ORDER BY ({column}) <#> {place}{ties} LIMIT ")).bind(places(k), "bigint");
    candidates(transaction, &sql)
}

/// BM25 over the partition's own statistics.
pub(super) fn lexical(
    transaction: &mut Transaction<'_>,
    selection: &Selection,
    text: &str,
    k: usize,
    now: Timestamp,
) -> Result<Vec<Candidate>, Fault> {
    let partition = &selection.scope.partition;
    let numbers = Numbering::of(partition);
    let words: Vec<i64> = word_counts(text).keys().take(MAX_WORDS).map(|word| numbers.word(word)).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Sql::default();
    let terms = sql.place(words, "bigint[]");
    sql.push("WITH everything AS (SELECT count(*)::float8 AS n, avg(length)::float8 AS mean FROM records WHERE ");
    sql.partition(partition);
    sql.push("), weights AS (SELECT term, (SELECT count(*)::float8 FROM records WHERE terms @> ARRAY[term] AND ");
    sql.partition(partition);
    sql.push(&format!(") AS df FROM unnest({terms}) AS term) SELECT id, score FROM (SELECT id, (SELECT sum("));
    sql.push(&format!(
        "ln(1 + (n - df + 0.5) / (df + 0.5)) * count * {up} / (count + {K1} * ({rest} + {B} * length / mean))) \
         FROM (SELECT df, counts[array_position(terms, term)] AS count FROM weights) AS matched WHERE count > 0)",
        up = K1 + 1.0,
        rest = 1.0 - B,
    ));
    sql.push(&format!(" AS score FROM records, everything WHERE terms && {terms} AND "));
    sql.selected(selection)?.alive(now);
    sql.push(") AS scored ORDER BY score DESC, id LIMIT ").bind(places(k), "bigint");
    candidates(transaction, &sql)
}

/// Definitions first (3, or 2 in another case), one more for each literal that the content holds.
pub(super) fn literal(
    transaction: &mut Transaction<'_>,
    selection: &Selection,
    text: &str,
    k: usize,
    now: Timestamp,
) -> Result<Vec<Candidate>, Fault> {
    let numbers = Numbering::of(&selection.scope.partition);
    let literals = literals(text);
    if literals.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Sql::default();
    let (mut scores, mut narrow) = (Vec::new(), Vec::new());
    for literal in &literals {
        let exact = sql.place(vec![numbers.word(&exact_name(literal))], "bigint[]");
        let any = sql.place(vec![numbers.word(&any_case(literal))], "bigint[]");
        let words: Vec<i64> = word_counts(literal).keys().map(|word| numbers.word(word)).collect();
        let words = sql.place(words, "bigint[]");
        let bytes = sql.place(literal.clone().into_bytes(), "bytea");
        scores.push(format!(
            "CASE WHEN terms @> {exact} THEN 3 WHEN terms @> {any} THEN 2 ELSE 0 END + \
             CASE WHEN terms @> {words} AND position({bytes} IN content) > 0 THEN 1 ELSE 0 END"
        ));
        narrow.push(format!("terms @> {any} OR terms @> {words}"));
    }
    sql.push(&format!("SELECT id, score FROM (SELECT id, ({})::float8 AS score", scores.join(" + ")));
    sql.push(&format!(" FROM records WHERE ({}) AND ", narrow.join(" OR ")));
    sql.selected(selection)?.alive(now);
    sql.push(") AS scored WHERE score > 0 ORDER BY score DESC, id LIMIT ").bind(places(k), "bigint");
    candidates(transaction, &sql)
}

/// Sizes; those of tables and indexes are of all partitions together.
pub(super) fn stats(
    transaction: &mut Transaction<'_>,
    partition: Option<&Partition>,
    now: Timestamp,
) -> Result<BackendStats, Fault> {
    let mut sql = Sql::new("SELECT kind, count(*) FROM records WHERE ");
    match partition {
        Some(partition) => sql.partition(partition),
        None => sql.push("true"),
    };
    sql.alive(now).push(" GROUP BY kind");
    let rows = transaction.query(&sql.text, &sql.parameters())?;
    let size = |value: i64| u64::try_from(value).unwrap_or(0);
    let records: BTreeMap<String, u64> = rows.iter().map(|row| (row.get(0), size(row.get(1)))).collect();
    let sizes = transaction.query_one(
        "SELECT coalesce(pg_relation_size(to_regclass('records_nearest')), 0), \
         pg_total_relation_size('records') + pg_total_relation_size('history'), \
         coalesce(pg_stat_get_dead_tuples('records'::regclass), 0)",
        &[],
    )?;
    let vectors = records.values().sum();
    Ok(BackendStats {
        records,
        tombstones: size(sizes.get(2)),
        vectors,
        index_bytes: size(sizes.get(0)),
        disk_bytes: size(sizes.get(1)),
        pool: None,
    })
}
