//! What a put, a change or a forget changes in the store. Plans run on the writer's thread, one after another.

use std::ops::ControlFlow;

use super::encoder::{Encoders, vector_slots};
use crate::backend::{Change, CompiledSelection, Stored, Written};
use crate::error::{MemoryError, Result};
use crate::record::{Record, RecordId, Timestamp, content_hash};
use crate::scope::Partition;
use crate::store::keys::{self, PartitionId};
use crate::store::value;
use crate::store::view::View;

/// The number of a partition; `None` if nothing was ever kept there.
pub fn find_partition(view: &View<'_>, partition: &Partition) -> Result<Option<PartitionId>> {
    Ok(view.get_json(&keys::partition_name(partition))?)
}

/// The number of a partition, given now if it has none.
fn number_partition(view: &mut View<'_>, partition: &Partition) -> Result<PartitionId> {
    if let Some(number) = find_partition(view, partition)? {
        return Ok(number);
    }
    let number: PartitionId = view.get_json(keys::NEXT_PARTITION)?.unwrap_or(0);
    view.set_json(keys::NEXT_PARTITION.to_vec(), &(number + 1));
    view.set_json(keys::partition_name(partition), &number);
    view.set_json(keys::partition(number), partition);
    Ok(number)
}

/// Writes one record: again if its content is there already, else as a new one.
pub fn put(view: &mut View<'_>, stored: Stored, now: Timestamp) -> Result<Written> {
    let partition = number_partition(view, &stored.record.scope.partition)?;
    let hash = content_id(&stored.record);
    if let Some(holder) = view.get_json::<RecordId>(&keys::content(partition, hash))?
        && let Some(mut record) = view.get_json::<Record>(&keys::record(partition, holder))?
    {
        if !record.expired(now) {
            let before = record.clone();
            record.seen = record.seen.saturating_add(1);
            record.expires = record.expires.and_then(|old| stored.record.expires.map(|new| old.max(new)));
            set_record(view, partition, &record, Some(&before));
            return Ok(Written::SeenAgain(record));
        }
        remove(view, partition, holder)?;
    }
    let mut record = stored.record;
    record.content_hash = content_hash(&record.content);
    record.id = free_id(view, partition, &record, now)?;
    create(view, partition, &record, &stored.vector)?;
    Ok(Written::Created(record))
}

/// Writes a record that is not there under its own id, with its superseded versions: an import.
/// False if a record of that id or of that content is there.
pub fn import(view: &mut View<'_>, stored: &Stored, history: &[Record]) -> Result<bool> {
    let record = &stored.record;
    let partition = number_partition(view, &record.scope.partition)?;
    let held = view.get(&keys::content(partition, content_id(record)))?.is_some();
    if held || view.get(&keys::record(partition, record.id))?.is_some() {
        return Ok(false);
    }
    create(view, partition, record, &stored.vector)?;
    for old in history {
        view.set_json(keys::version(partition, record.id, old.version), old);
    }
    Ok(true)
}

fn create(view: &mut View<'_>, partition: PartitionId, record: &Record, vector: &[f32]) -> Result<()> {
    set_record(view, partition, record, None);
    view.set_json(keys::content(partition, content_id(record)), &record.id);
    set_vector(view, Encoders::read(view)?.active_slot, partition, record.id, vector);
    count(view, partition, record, 1)
}

/// The first id of `record`'s content that no other record holds.
fn free_id(view: &mut View<'_>, partition: PartitionId, record: &Record, now: Timestamp) -> Result<RecordId> {
    for salt in 0.. {
        let id = RecordId::of(&record.scope, record.kind, &record.content, salt);
        match view.get_json::<Record>(&keys::record(partition, id))? {
            None => return Ok(id),
            Some(holder) if holder.expired(now) => {
                remove(view, partition, id)?;
                return Ok(id);
            }
            Some(_) => {}
        }
    }
    Err(MemoryError::TooLarge { what: "records of one first content", size: usize::MAX, limit: u32::MAX as usize })
}

/// Changes one record. New content or metadata make a new version and keep the old one.
pub fn change(
    view: &mut View<'_>,
    partition: &Partition,
    id: RecordId,
    change: Change,
    now: Timestamp,
) -> Result<Record> {
    let number = find_partition(view, partition)?.ok_or(MemoryError::NotFound(id))?;
    let before: Record = view.get_json(&keys::record(number, id))?.ok_or(MemoryError::NotFound(id))?;
    if before.expired(now) {
        return Err(MemoryError::NotFound(id));
    }
    let mut record = before.clone();
    let slot = Encoders::read(view)?.active_slot;
    let content = change.content.filter(|(text, _)| *text != before.content);
    if content.is_some() || change.metadata.is_some() {
        keep_version(view, number, &before, slot)?;
        record.version = record.version.saturating_add(1);
        record.updated = now.max(before.updated);
    }
    if let Some(metadata) = change.metadata {
        record.metadata = metadata;
    }
    if let Some((text, vector)) = content {
        record.content_hash = content_hash(&text);
        record.content = text;
        move_content(view, number, &before, &record)?;
        vector_slots().filter(|&other| other != slot).for_each(|other| view.remove(keys::vector(other, number, id)));
        set_vector(view, slot, number, id, &vector);
    }
    record.expires = change.expires.unwrap_or(record.expires);
    record.pinned = change.pinned.unwrap_or(record.pinned);
    record.provenance = change.provenance.unwrap_or(record.provenance);
    if let Some(feedback) = change.feedback {
        record.feedback.useful = record.feedback.useful.saturating_add(feedback.useful);
        record.feedback.wrong = record.feedback.wrong.saturating_add(feedback.wrong);
    }
    set_record(view, number, &record, Some(&before));
    Ok(record)
}

/// Removes those of `ids` that are there and, if a selection is given, still in it; history and all. How many went.
pub fn forget(
    view: &mut View<'_>,
    partition: PartitionId,
    ids: &[RecordId],
    selection: Option<&CompiledSelection>,
) -> Result<u64> {
    let mut gone = 0;
    for &id in ids {
        let Some(record) = view.get_json::<Record>(&keys::record(partition, id))? else { continue };
        if selection.is_none_or(|selection| selection.matches(&record)) {
            remove(view, partition, id)?;
            gone += 1;
        }
    }
    if gone > 0 {
        view.purge();
    }
    Ok(gone)
}

/// Removes a partition's names once it holds no record; its number is not given again.
pub fn forget_partition(view: &mut View<'_>, number: PartitionId, partition: &Partition) -> Result<()> {
    let mut empty = true;
    view.scan(&keys::all(b'r', number), |_, _| {
        empty = false;
        Ok(ControlFlow::Break(()))
    })?;
    if empty {
        view.remove(keys::partition_name(partition));
        view.remove(keys::partition(number));
        for key in keys_under(view, &keys::all(b'n', number))? {
            view.remove(key);
        }
        view.purge();
    }
    Ok(())
}

/// Removes those of `ids` that are past their time at `now`. How many went.
pub fn expire(view: &mut View<'_>, ids: &[(PartitionId, RecordId)], now: Timestamp) -> Result<u64> {
    let mut gone = 0;
    for &(partition, id) in ids {
        let record = view.get_json::<Record>(&keys::record(partition, id))?;
        if record.is_some_and(|record| record.expired(now)) {
            remove(view, partition, id)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Removes everything that belongs to a record.
fn remove(view: &mut View<'_>, partition: PartitionId, id: RecordId) -> Result<()> {
    let Some(record) = view.get_json::<Record>(&keys::record(partition, id))? else { return Ok(()) };
    release_content(view, partition, &record)?;
    if let Some(key) = expiry_key(partition, &record) {
        view.remove(key);
    }
    vector_slots().for_each(|slot| view.remove(keys::vector(slot, partition, id)));
    if record.version > 1 {
        for letter in [b'h', b'x'] {
            for key in keys_under(view, &keys::versions(letter, partition, id))? {
                view.remove(key);
            }
        }
    }
    view.remove(keys::record(partition, id));
    count(view, partition, &record, -1)
}

fn keep_version(view: &mut View<'_>, partition: PartitionId, record: &Record, slot: u8) -> Result<()> {
    view.set_json(keys::version(partition, record.id, record.version), record);
    let from = keys::vector(slot, partition, record.id);
    if let Some(sealed) = view.get(&from)? {
        let bytes = value::unseal(&from, &sealed).ok_or_else(|| view.damaged(&from))?;
        let to = keys::version_vector(partition, record.id, record.version);
        let sealed = value::seal(&to, bytes);
        view.set(to, sealed);
    }
    Ok(())
}

/// Sets a record and keeps the queue of expiry in step; `before` is what stood there.
fn set_record(view: &mut View<'_>, partition: PartitionId, record: &Record, before: Option<&Record>) {
    let old = before.and_then(|before| expiry_key(partition, before));
    let new = expiry_key(partition, record);
    if old != new {
        if let Some(key) = old {
            view.remove(key);
        }
        if let Some(key) = new {
            let sealed = value::seal(&key, &[]);
            view.set(key, sealed);
        }
    }
    view.set_json(keys::record(partition, record.id), record);
}

fn set_vector(view: &mut View<'_>, slot: u8, partition: PartitionId, id: RecordId, vector: &[f32]) {
    let key = keys::vector(slot, partition, id);
    let sealed = value::seal_vector(&key, vector);
    view.set(key, sealed);
}

/// The content moves from one record's old text to its new one; a record that holds the new text already keeps it.
fn move_content(view: &mut View<'_>, partition: PartitionId, before: &Record, after: &Record) -> Result<()> {
    release_content(view, partition, before)?;
    let key = keys::content(partition, content_id(after));
    if view.get(&key)?.is_none() {
        view.set_json(key, &after.id);
    }
    Ok(())
}

fn release_content(view: &mut View<'_>, partition: PartitionId, record: &Record) -> Result<()> {
    let key = keys::content(partition, content_id(record));
    if view.get_json::<RecordId>(&key)? == Some(record.id) {
        view.remove(key);
    }
    Ok(())
}

/// Under which content a record is found again.
pub fn content_id(record: &Record) -> RecordId {
    RecordId::of(&record.scope, record.kind, &record.content, 0)
}

/// Where a record stands in the queue of expiry; pinned ones do not.
pub fn expiry_key(partition: PartitionId, record: &Record) -> Option<Vec<u8>> {
    let at = record.expires.filter(|_| !record.pinned)?;
    Some(keys::expiry(at.0, partition, record.id))
}

fn count(view: &mut View<'_>, partition: PartitionId, record: &Record, by: i64) -> Result<()> {
    let key = keys::count(partition, record.kind.as_str());
    let before: u64 = view.get_json(&key)?.unwrap_or(0);
    view.set_json(key, &before.saturating_add_signed(by));
    Ok(())
}

fn keys_under(view: &View<'_>, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    view.scan(prefix, |key, _| {
        found.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
