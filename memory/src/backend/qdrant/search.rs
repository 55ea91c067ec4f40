//! Reading: by id, in order, by vector, by word and by name.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Session;
use super::filter::{any, dead, equal, placed, selected, wall};
use super::point::{Answered, Held, MEANING, WORDS, fields, uuid};
use super::words;
use crate::backend::terms::Numbering;
use crate::backend::{BackendStats, Candidate, CompiledSelection, Selection, Stored};
use crate::error::Result;
use crate::lexical::{LexicalIndex, LexicalParams, Words, distinct_tokens};
use crate::literal::{LiteralIndex, Literals};
use crate::record::{Kind, Record, RecordId, Timestamp};
use crate::scope::Partition;

/// Points of one request.
pub(super) const PAGE: usize = 128;

/// Records looked at for one name.
const MAX_NAMED: usize = 1024;

/// Words of a literal that are looked up; what is found is held against the whole.
const MAX_LITERAL_WORDS: usize = 64;

/// Points of an answer.
#[derive(Deserialize)]
struct Points {
    points: Vec<Answered>,
    #[serde(default)]
    next_page_offset: Option<String>,
}

/// Points by id, in no order; missing ones are left out. Where there are replicas, most of them must agree.
pub(super) fn retrieve(
    session: &mut Session<'_>,
    points: &str,
    ids: &[RecordId],
    fields: &Value,
) -> Result<Vec<Answered>> {
    let mut found = Vec::new();
    for ids in ids.chunks(PAGE) {
        let mut body = fields.clone();
        body["ids"] = ids.iter().map(|id| uuid(*id)).collect();
        let result = session.post(&format!("{points}?consistency=majority"), &body)?;
        found.extend(session.read::<Vec<Answered>>(result)?);
    }
    Ok(found)
}

/// Everything that points hold, by id, of whatever partition.
pub(super) fn held(session: &mut Session<'_>, points: &str, ids: &[RecordId]) -> Result<HashMap<RecordId, Held>> {
    let all = fields(&["body", "content", "history", "stamp", "trail"], true);
    let found = retrieve(session, points, ids, &all)?;
    found.into_iter().map(|point| point.held().map(|held| (held.stored.record.id, held))).collect()
}

/// The record at `as_of`, or now.
pub(super) fn get(
    session: &mut Session<'_>,
    points: &str,
    (partition, id): (&Partition, RecordId),
    as_of: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<Record>> {
    let names = if as_of.is_some() { &["body", "content", "history"][..] } else { &["body", "content"] };
    let Some(point) = retrieve(session, points, &[id], &fields(names, false))?.pop() else { return Ok(None) };
    let held = point.held()?;
    if held.stored.record.scope.partition != *partition {
        return Ok(None);
    }
    match as_of {
        Some(then) => Ok(held.stood(then)?.map(|stored| stored.record)),
        None => Ok(Some(held.stored.record).filter(|record| !record.expired(now))),
    }
}

/// Those that are there, in the order asked.
pub(super) fn get_many(
    session: &mut Session<'_>,
    points: &str,
    partition: &Partition,
    ids: &[RecordId],
    now: Timestamp,
) -> Result<Vec<Stored>> {
    let mut found: HashMap<RecordId, Stored> = HashMap::new();
    for point in retrieve(session, points, ids, &fields(&["body", "content"], true))? {
        let stored = point.held()?.stored;
        if stored.record.scope.partition == *partition && !stored.record.expired(now) {
            found.insert(stored.record.id, stored);
        }
    }
    Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
}

/// Calls `each` with the points that meet `filter`, by id from `after` on, until it says false.
pub(super) fn pages(
    session: &mut Session<'_>,
    points: &str,
    filter: &Value,
    after: Option<RecordId>,
    names: &[&str],
    mut each: impl FnMut(Held) -> Result<bool>,
) -> Result<()> {
    let with_vector = names.contains(&"content");
    let mut from = match after.map(|id| id.0.checked_add(1)) {
        None => None,
        Some(Some(next)) => Some(uuid(RecordId(next))),
        Some(None) => return Ok(()),
    };
    loop {
        let mut body = fields(names, with_vector);
        body["filter"] = filter.clone();
        body["limit"] = PAGE.into();
        if let Some(from) = &from {
            body["offset"] = json!(from);
        }
        let result = session.post(&format!("{points}/scroll"), &body)?;
        let page: Points = session.read(result)?;
        for point in page.points {
            if !each(point.held()?)? {
                return Ok(());
            }
        }
        match page.next_page_offset {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

/// What is selected, expired or not, or more.
pub(super) fn everything(selection: &Selection) -> Value {
    let mut must = placed(selection);
    let numbers = Numbering::of(&selection.scope.partition);
    must.extend(selection.filter.as_ref().and_then(|filter| super::filter::wider(filter, &numbers)));
    json!({"must": must})
}

/// A page of what is selected, by id. In the past other fields may have been met: only the place narrows there.
pub(super) fn scan(
    session: &mut Session<'_>,
    points: &str,
    selection: &Selection,
    (as_of, now): (Option<Timestamp>, Timestamp),
    after: Option<RecordId>,
    limit: usize,
) -> Result<Vec<Stored>> {
    let compiled = selection.compile()?;
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let (filter, names) = match as_of {
        Some(_) => (json!({"must": placed(selection)}), &["body", "content", "history"][..]),
        None => (selected(selection, now), &["body", "content"][..]),
    };
    pages(session, points, &filter, after, names, |held| {
        let stood = match as_of {
            Some(then) => held.stood(then)?,
            None => Some(held.stored).filter(|stored| !stored.record.expired(now)),
        };
        found.extend(stood.filter(|stored| compiled.matches(&stored.record)));
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// How many points meet `filter`, exactly.
pub(super) fn count(session: &mut Session<'_>, points: &str, filter: &Value) -> Result<u64> {
    let result = session.post(&format!("{points}/count"), &json!({"filter": filter, "exact": true}))?;
    result["count"].as_u64().ok_or_else(|| session.failed("unexpected answer: no `count`", false))
}

/// The `k` nearest by the index; where it gives fewer than it was asked for, by comparing all.
pub(super) fn nearest(
    session: &mut Session<'_>,
    points: &str,
    selection: &Selection,
    vector: &[f32],
    (k, now): (usize, Timestamp),
    hnsw_ef: u32,
) -> Result<Vec<Candidate>> {
    let params = |exact: bool, limit: usize| {
        let ef = hnsw_ef.max(u32::try_from(limit).unwrap_or(u32::MAX));
        if exact { json!({"exact": true}) } else { json!({"hnsw_ef": ef, "exact": false}) }
    };
    let query = json!({"query": {"nearest": vector}, "using": MEANING});
    best(session, points, selection, (k, now), |exact, limit| {
        let mut query = query.clone();
        query["params"] = params(exact, limit);
        query
    })
}

/// BM25 over the partition's own counts; of a long query the first words.
pub(super) fn lexical(
    session: &mut Session<'_>,
    points: &str,
    selection: &Selection,
    text: &str,
    (k, now): (usize, Timestamp),
) -> Result<Vec<Candidate>> {
    let partition = &selection.scope.partition;
    let numbers = Numbering::of(partition);
    let mut asked = distinct_tokens(text);
    asked.truncate(LexicalIndex::MAX_TERMS);
    if asked.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let records = count(session, points, &json!({"must": wall(partition)}))? as f32;
    let mut weights = Vec::new();
    for (word, times) in asked {
        let word = numbers.word(&word);
        let mut must = wall(partition);
        must.push(equal("terms", word));
        let holding = count(session, points, &json!({ "must": must }))? as f32;
        if holding > 0.0 {
            let rarity = (1.0 + (records - holding + 0.5).max(0.0) / (holding + 0.5)).ln();
            weights.push((word, rarity * times as f32));
        }
    }
    let Some(sparse) = words::sparse(weights.into_iter()) else { return Ok(Vec::new()) };
    let query = json!({"query": {"nearest": sparse}, "using": WORDS});
    best(session, points, selection, (k, now), |_, _| query.clone())
}

/// The `k` best of a query among the selected. Qdrant's filter may let too many through, so more are asked for
/// until `k` are right or there are no more.
fn best(
    session: &mut Session<'_>,
    points: &str,
    selection: &Selection,
    (k, now): (usize, Timestamp),
    query: impl Fn(bool, usize) -> Value,
) -> Result<Vec<Candidate>> {
    let compiled = selection.compile()?;
    if k == 0 {
        return Ok(Vec::new());
    }
    let filter = selected(selection, now);
    let mut limit = if selection.filter.is_some() { k.saturating_mul(4) } else { k };
    let mut exact = false;
    loop {
        let mut body = query(exact, limit);
        body["filter"] = filter.clone();
        body["limit"] = limit.into();
        body["with_payload"] = json!(["body"]);
        let result = session.post(&format!("{points}/query"), &body)?;
        let found: Points = session.read(result)?;
        let all = found.points.len() < limit;
        let mut kept = Vec::new();
        for point in found.points {
            let score = point.score;
            let record = point.held()?.stored.record;
            if compiled.matches(&record) && !record.expired(now) {
                kept.push(Candidate { id: record.id, score });
            }
        }
        if kept.len() >= k || (all && (exact || body.get("params").is_none())) {
            kept.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
            kept.truncate(k);
            return Ok(kept);
        }
        exact |= all;
        limit = if all { limit } else { limit.saturating_mul(4) };
    }
}

/// Symbols, paths and literals: candidates by Qdrant, judged by the embedded memory's own code.
pub(super) fn literal(
    session: &mut Session<'_>,
    points: &str,
    selection: &Selection,
    text: &str,
    (k, now): (usize, Timestamp),
) -> Result<Vec<Candidate>> {
    let compiled = selection.compile()?;
    let searches = literal_searches(selection, text, now);
    if searches.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let result = session.post(&format!("{points}/query/batch"), &json!({ "searches": searches }))?;
    let found: Vec<Points> = session.read(result)?;
    let mut records: HashMap<RecordId, Record> = HashMap::new();
    for point in found.into_iter().flat_map(|found| found.points) {
        let record = point.held()?.stored.record;
        if meant(&compiled, &record, now) {
            // Found by its name alone it came without its content.
            let known = records.entry(record.id).or_insert_with(|| record.clone());
            if known.content.is_empty() {
                *known = record;
            }
        }
    }
    let (mut lexical, mut literal) = (LexicalIndex::new(LexicalParams::default()), LiteralIndex::default());
    for (id, record) in &records {
        lexical.insert(*id, Words::from(record));
        literal.insert(*id, Words::from(record));
    }
    let content = |id: RecordId| records.get(&id).map(|record| record.content.clone());
    Ok(literal.search(&lexical, text, k, &|_| true, &content))
}

fn meant(compiled: &CompiledSelection, record: &Record, now: Timestamp) -> bool {
    compiled.matches(record) && !record.expired(now)
}

/// For each literal: records of that name, and the best of those that hold all its words.
fn literal_searches(selection: &Selection, text: &str, now: Timestamp) -> Vec<Value> {
    let partition = &selection.scope.partition;
    let numbers = Numbering::of(partition);
    let search = |condition: Vec<Value>, limit: usize, payload: Value| {
        let mut filter = selected(selection, now);
        if let Some(must) = filter["must"].as_array_mut() {
            must.extend(condition);
        }
        json!({"filter": filter, "limit": limit, "with_payload": payload})
    };
    let mut searches = Vec::new();
    for literal in Literals::of(text).all {
        let named = any("terms", &words::names(partition, &literal.text));
        searches.push(search(vec![named], MAX_NAMED, json!(["body"])));
        let mut tokens = distinct_tokens(&literal.text);
        tokens.truncate(MAX_LITERAL_WORDS);
        let held: Vec<i64> = tokens.iter().map(|(word, _)| numbers.word(word)).collect();
        if let Some(sparse) = words::sparse(held.iter().map(|word| (*word, 1.0))) {
            let all = held.iter().map(|word| equal("terms", *word)).collect();
            let mut holding = search(all, LiteralIndex::MAX_VERIFIED, json!(["body", "content"]));
            holding["query"] = json!({ "nearest": sparse });
            holding["using"] = json!(WORDS);
            searches.push(holding);
        }
    }
    searches
}

/// Living records by kind. Qdrant tells no bytes of a collection by this API.
pub(super) fn stats(
    session: &mut Session<'_>,
    points: &str,
    partition: Option<&Partition>,
    now: Timestamp,
) -> Result<BackendStats> {
    let mut stats = BackendStats::default();
    for kind in Kind::ALL {
        let mut must = partition.map(wall).unwrap_or_default();
        must.push(equal("kind", kind.as_str()));
        let records = count(session, points, &json!({"must": must, "must_not": [dead(now)]}))?;
        if records > 0 {
            stats.records.insert(kind.as_str().to_owned(), records);
        }
    }
    stats.vectors = stats.records.values().sum();
    Ok(stats)
}
