//! Writing, changing and forgetting without transactions.
//!
//! Each write of a point gives it a new random stamp. A write that builds on what it read is done only where the
//! stamp is still the one that was read (`update_filter`), a new point only where there is none (`insert_only`),
//! and a change never brings a forgotten point back (`update_only`). Qdrant does not say which points it wrote,
//! so they are read again: a stamp in the point's trail was written.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Session;
use super::filter::{dead, equal, wall};
use super::point::{Answered, Held, fields, uuid};
use super::search::{self, PAGE};
use crate::backend::{Change, Forget, Stored, Written};
use crate::error::{MemoryError, Result};
use crate::record::{Record, RecordId, Timestamp, content_hash};
use crate::scope::Partition;

/// Rounds of a write that meets others.
const TRIES: u32 = 64;

/// Longest body of a request, bytes; Qdrant takes 32 MiB by default. A larger point goes alone.
const MAX_BODY: usize = 8 << 20;

/// A record that is not yet written.
struct Waiting {
    place: usize,
    stored: Stored,
    salt: u32,
}

/// A write that was sent.
struct Sent {
    waiting: Waiting,
    outcome: Written,
    held: Held,
}

/// Writes records, one outcome each, in order.
pub(super) fn put(
    session: &mut Session<'_>,
    points: &str,
    records: Vec<Stored>,
    now: Timestamp,
) -> Result<Vec<Written>> {
    let mut written: Vec<Option<Written>> = vec![None; records.len()];
    let mut open: Vec<Waiting> =
        records.into_iter().enumerate().map(|(place, stored)| Waiting { place, stored, salt: 0 }).collect();
    for round in 0..TRIES {
        if open.is_empty() {
            return Ok(written.into_iter().flatten().collect());
        }
        yield_to_others(round);
        // Of records with one id the first goes first, the others see it.
        let mut ids = HashSet::new();
        let (mut first, mut later): (Vec<Waiting>, Vec<Waiting>) =
            open.into_iter().partition(|waiting| ids.insert(waiting.stored.record.id));
        while !first.is_empty() {
            let rest = first.split_off(first.len().min(PAGE));
            later.extend(put_page(session, points, first, now, &mut written)?);
            first = rest;
        }
        later.sort_by_key(|waiting| waiting.place);
        open = later;
    }
    Err(contended(session, open.len()))
}

/// Tries records with ids of their own; those that must be tried again.
fn put_page(
    session: &mut Session<'_>,
    points: &str,
    page: Vec<Waiting>,
    now: Timestamp,
    written: &mut [Option<Written>],
) -> Result<Vec<Waiting>> {
    let ids: Vec<RecordId> = page.iter().map(|waiting| waiting.stored.record.id).collect();
    let mut there = search::held(session, points, &ids)?;
    let (mut again, mut created, mut updated) = (Vec::new(), Vec::new(), Vec::new());
    for waiting in page {
        match there.remove(&waiting.stored.record.id) {
            None => {
                let held = Held::new(waiting.stored.clone()).stamped(stamp());
                created.push(Sent { outcome: Written::Created(waiting.stored.record.clone()), waiting, held });
            }
            Some(held) => match take_place(held, &waiting.stored, now) {
                Ok((before, outcome, held)) => updated.push((before, Sent { waiting, outcome, held })),
                Err(()) => again.push(next_salt(waiting)),
            },
        }
    }
    insert(session, points, &created)?;
    let before: Vec<i64> = updated.iter().map(|(before, _)| *before).collect();
    let updated: Vec<Sent> = updated.into_iter().map(|(_, sent)| sent).collect();
    update(session, points, &updated.iter().map(|sent| &sent.held).collect::<Vec<_>>(), &before)?;

    let sent: Vec<Sent> = created.into_iter().chain(updated).collect();
    let ids: Vec<RecordId> = sent.iter().map(|sent| sent.held.stored.record.id).collect();
    let trails = trails(session, points, &ids)?;
    for Sent { waiting, outcome, held } in sent {
        let done = trails.get(&held.stored.record.id).is_some_and(|trail| trail.contains(&held.stamp));
        if done {
            written[waiting.place] = Some(outcome);
        } else {
            again.push(waiting);
        }
    }
    Ok(again)
}

/// What becomes of a point whose id a record wants: it is seen again, or it was past its time and is replaced.
/// `Err`: it is another record's.
fn take_place(held: Held, stored: &Stored, now: Timestamp) -> Result<(i64, Written, Held), ()> {
    let before = held.stamp;
    let there = &held.stored.record;
    // An id takes in the partition; one that was made elsewhere may still be another's here.
    if there.scope.partition != stored.record.scope.partition {
        return Err(());
    }
    if there.expired(now) {
        let trail = held.trail;
        let held = Held { trail, ..Held::new(stored.clone()) }.stamped(stamp());
        return Ok((before, Written::Created(stored.record.clone()), held));
    }
    if there.content_hash != stored.record.content_hash {
        return Err(());
    }
    let mut held = held;
    let record = &mut held.stored.record;
    record.seen = record.seen.saturating_add(1);
    // `None` is never, the latest of all.
    record.expires = record.expires.zip(stored.record.expires).map(|(old, new)| old.max(new));
    let seen = Written::SeenAgain(record.clone());
    Ok((before, seen, held.stamped(stamp())))
}

fn next_salt(mut waiting: Waiting) -> Waiting {
    waiting.salt += 1;
    let Record { scope, kind, content, .. } = &waiting.stored.record;
    waiting.stored.record.id = RecordId::of(scope, *kind, content, waiting.salt);
    waiting
}

/// Changes a record where it stands as it was read.
pub(super) fn change(
    session: &mut Session<'_>,
    points: &str,
    (partition, id): (&Partition, RecordId),
    change: &Change,
    now: Timestamp,
) -> Result<Record> {
    for round in 0..TRIES {
        yield_to_others(round);
        let held = search::held(session, points, &[id])?.remove(&id);
        let alive = |held: &Held| held.stored.record.scope.partition == *partition && !held.stored.record.expired(now);
        let held = held.filter(alive).ok_or(MemoryError::NotFound(id))?;
        let before = held.stamp;
        let held = changed(held, change, now).stamped(stamp());
        update(session, points, &[&held], &[before])?;
        match trails(session, points, &[id])?.get(&id) {
            None => return Err(MemoryError::NotFound(id)),
            Some(trail) if trail.contains(&held.stamp) => return Ok(held.stored.record),
            Some(_) => {}
        }
    }
    Err(contended(session, 1))
}

fn changed(mut held: Held, change: &Change, now: Timestamp) -> Held {
    let content = change.content.as_ref().filter(|(text, _)| *text != held.stored.record.content);
    if content.is_some() || change.metadata.is_some() {
        // A clock that went back must not reorder versions.
        let until = now.max(held.stored.record.updated);
        held.archive(until);
        let Stored { record, vector } = &mut held.stored;
        if let Some((text, embedding)) = content {
            record.content_hash = content_hash(text);
            record.content.clone_from(text);
            vector.clone_from(embedding);
        }
        if let Some(metadata) = &change.metadata {
            record.metadata.clone_from(metadata);
        }
        record.version = record.version.saturating_add(1);
        record.updated = until;
    }
    let record = &mut held.stored.record;
    record.expires = change.expires.unwrap_or(record.expires);
    record.pinned = change.pinned.unwrap_or(record.pinned);
    if let Some(more) = change.feedback {
        record.feedback.useful = record.feedback.useful.saturating_add(more.useful);
        record.feedback.wrong = record.feedback.wrong.saturating_add(more.wrong);
    }
    if let Some(provenance) = &change.provenance {
        record.provenance.clone_from(provenance);
    }
    held
}

/// Deletes points, which hold their past too; how many there were.
pub(super) fn forget(session: &mut Session<'_>, points: &str, what: &Forget) -> Result<u64> {
    match what {
        Forget::Ids(partition, ids) => forget_ids(session, points, partition, ids),
        Forget::Matching(selection) => {
            let compiled = selection.compile()?;
            let mut ids = Vec::new();
            search::pages(session, points, &search::everything(selection), None, &["body"], |held| {
                if compiled.matches(&held.stored.record) {
                    ids.push(held.stored.record.id);
                }
                Ok(true)
            })?;
            forget_ids(session, points, &selection.scope.partition, &ids)
        }
        Forget::Tenant(tenant) => delete(session, points, &json!({"must": [equal("tenant", tenant.as_str())]})),
    }
}

fn forget_ids(session: &mut Session<'_>, points: &str, partition: &Partition, ids: &[RecordId]) -> Result<u64> {
    let mut gone = 0;
    for ids in ids.chunks(PAGE) {
        let mut must = wall(partition);
        must.push(json!({"has_id": ids.iter().map(|id| uuid(*id)).collect::<Vec<_>>()}));
        gone += delete(session, points, &json!({"must": must}))?;
    }
    Ok(gone)
}

/// Deletes what expired before `now`; how many records.
pub(super) fn expire(session: &mut Session<'_>, points: &str, now: Timestamp) -> Result<u64> {
    delete(session, points, &json!({"must": [dead(now)]}))
}

/// Two that delete the same at once may both count it.
fn delete(session: &mut Session<'_>, points: &str, filter: &Value) -> Result<u64> {
    let there = search::count(session, points, filter)?;
    if there > 0 {
        let result = session.post(&format!("{points}/delete?wait=true&ordering=strong"), &json!({"filter": filter}))?;
        applied(session, &result)?;
    }
    Ok(there)
}

fn insert(session: &mut Session<'_>, points: &str, sent: &[Sent]) -> Result<()> {
    let held: Vec<&Held> = sent.iter().map(|sent| &sent.held).collect();
    upsert(session, points, &held, r#""update_mode":"insert_only""#)
}

/// Writes those whose stamp is one of `before`: stamps are random, so each meets its own.
fn update(session: &mut Session<'_>, points: &str, held: &[&Held], before: &[i64]) -> Result<()> {
    let unchanged = json!({"must": [super::filter::any("stamp", before)]});
    upsert(session, points, held, &format!(r#""update_mode":"update_only","update_filter":{unchanged}"#))
}

fn upsert(session: &mut Session<'_>, points: &str, held: &[&Held], how: &str) -> Result<()> {
    let path = format!("{points}?wait=true&ordering=strong");
    let mut bodies: Vec<String> = Vec::new();
    for point in held.iter().map(|held| held.point()) {
        match bodies.last_mut().filter(|body| body.len() + point.len() < MAX_BODY) {
            Some(body) => {
                body.push(',');
                body.push_str(&point);
            }
            None => bodies.push(point),
        }
    }
    for body in bodies {
        let result = session.put(&path, &format!(r#"{{"points":[{body}],{how}}}"#))?;
        applied(session, &result)?;
    }
    Ok(())
}

/// What is only queued is not yet found by searches.
fn applied(session: &Session<'_>, result: &Value) -> Result<()> {
    match result["status"].as_str() {
        Some("completed") => Ok(()),
        status => {
            Err(session.failed(&format!("a write was not applied in time ({})", status.unwrap_or("no status")), true))
        }
    }
}

/// The last writes of points, by id.
fn trails(session: &mut Session<'_>, points: &str, ids: &[RecordId]) -> Result<HashMap<RecordId, Vec<i64>>> {
    let found: Vec<Answered> = search::retrieve(session, points, ids, &fields(&["trail"], false))?;
    found.iter().map(|point| Ok((point.id()?, point.trail().to_vec()))).collect()
}

/// A number that no other write has: 63 random bits.
fn stamp() -> i64 {
    (rand::random::<u64>() >> 1) as i64
}

/// Writers that met go on at different times.
fn yield_to_others(round: u32) {
    if round > 1 {
        std::thread::sleep(Duration::from_micros(rand::random_range(0..u64::from(round) * 500)));
    }
}

/// No failure of the engine: the breaker must not open because we are many.
fn contended(session: &Session<'_>, records: usize) -> MemoryError {
    session.failed(&format!("{records} records were written by others {TRIES} times over: try again"), false)
}
