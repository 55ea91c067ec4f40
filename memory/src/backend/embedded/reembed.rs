//! Another encoder's vectors, made beside the old ones while those are searched, and switched to when complete.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::encoder::{EncoderId, Encoders, Slotted, vector_slots};
use super::{CHUNK, Embedded, record_of};
use crate::embedder::{Embedder, Side};
use crate::error::Result;
use crate::record::{Record, RecordId};
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::value;
use crate::store::view::View;

/// A record that lacks its new vector.
struct Waiting {
    partition: PartitionId,
    record: Record,
}

impl Embedded {
    /// Embeds every record with `embedder`, `batch` at a time, and then searches with its vectors.
    ///
    /// Searches and writes go on meanwhile with the old encoder; records that are written or changed are embedded as
    /// well before the switch. If it is interrupted, the next call goes on where it stopped. `progress` is told how many
    /// are done. Returns how many were embedded; 0 if this encoder is in use already. Vectors of superseded versions
    /// are not made anew: a search of the past finds those by word only.
    ///
    /// # Errors
    /// Those of `embedder` and of the disk; what was done stays.
    pub fn reembed(&self, embedder: &dyn Embedder, batch: usize, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let encoder = EncoderId { name: embedder.name().to_owned(), dim: embedder.dim() };
        let encoders = Encoders::of_tree(&self.store.tree())?;
        if encoders.active.as_ref() == Some(&encoder) {
            return Ok(0);
        }
        let slot = self.begin(&encoders, &encoder)?;
        let mut done = 0;
        loop {
            done += self.embed_waiting(embedder, encoder.dim, slot, batch.max(1), &mut |now| progress(done + now))?;
            // Records that were written during the last pass make another one.
            if self.store.write(move |view| switch(view, slot))? {
                self.use_encoder(encoder);
                return Ok(done);
            }
        }
    }

    /// Goes on with this encoder's vectors, or drops those of another that was not finished. The slot they go to.
    fn begin(&self, encoders: &Encoders, encoder: &EncoderId) -> Result<Slot> {
        let slot = vector_slots().find(|&slot| slot != encoders.active_slot).unwrap_or(0);
        if encoders.pending.as_ref().is_some_and(|pending| pending.encoder == *encoder) {
            return Ok(slot);
        }
        let pending = Slotted { encoder: encoder.clone(), slot };
        self.store.write(move |view| {
            remove_under(view, &[b'v', slot])?;
            view.set_json(keys::REEMBED.to_vec(), &pending);
            Ok(slot)
        })
    }

    fn embed_waiting(
        &self,
        embedder: &dyn Embedder,
        dim: usize,
        slot: Slot,
        batch: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let (mut done, mut after) = (0, keys::RECORDS.to_vec());
        loop {
            let waiting = self.waiting(slot, batch, &mut after)?;
            if waiting.is_empty() {
                return Ok(done);
            }
            let texts: Vec<&str> = waiting.iter().map(|waiting| waiting.record.content.as_str()).collect();
            let vectors = embedder.embed(&texts, Side::Document)?;
            vectors.iter().try_for_each(|vector| self.check_vector(dim, vector))?;
            done += waiting.len() as u64;
            self.store.write(move |view| set_vectors(view, slot, &waiting, &vectors))?;
            progress(done);
        }
    }

    /// The next records from `after` on that have no vector in `slot`; `after` moves behind them.
    fn waiting(&self, slot: Slot, most: usize, after: &mut Vec<u8>) -> Result<Vec<Waiting>> {
        let tree = self.store.tree();
        let mut found = Vec::new();
        for pair in tree.scan(keys::RECORDS, after) {
            let (key, sealed) = pair?;
            let Some((partition, id)) = keys::parse_id(&key) else { continue };
            if tree.get(&keys::vector(slot, partition, id))?.is_none() {
                found.push(Waiting { partition, record: record_of(&tree, &key, &sealed)? });
            }
            if found.len() == most {
                *after = [&key[..], &[0]].concat();
                return Ok(found);
            }
        }
        *after = b"s".to_vec();
        Ok(found)
    }
}

/// Sets the vectors of those records whose content is still what was embedded.
fn set_vectors(view: &mut View<'_>, slot: Slot, waiting: &[Waiting], vectors: &[Vec<f32>]) -> Result<()> {
    for (Waiting { partition, record }, vector) in waiting.iter().zip(vectors) {
        let now: Option<Record> = view.get_json(&keys::record(*partition, record.id))?;
        if now.is_some_and(|now| now.content_hash == record.content_hash) {
            let key = keys::vector(slot, *partition, record.id);
            let sealed = value::seal_vector(&key, vector);
            view.set(key, sealed);
        }
    }
    Ok(())
}

/// Makes `slot` the one that is searched if every record has its vector there; whether it did.
fn switch(view: &mut View<'_>, slot: Slot) -> Result<bool> {
    let mut embedded: HashSet<(PartitionId, RecordId)> = HashSet::new();
    view.scan(&[b'v', slot], |key, _| {
        embedded.extend(keys::parse_vector(key).map(|(_, partition, id)| (partition, id)));
        Ok(ControlFlow::Continue(()))
    })?;
    let mut complete = true;
    view.scan(keys::RECORDS, |key, _| {
        complete = keys::parse_id(key).is_some_and(|name| embedded.contains(&name));
        Ok(if complete { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let Some(pending) = view.get_json::<Slotted>(keys::REEMBED)?.filter(|_| complete) else { return Ok(false) };
    view.set_json(keys::ENCODER.to_vec(), &pending);
    view.remove(keys::REEMBED.to_vec());
    // The old vectors, and those of superseded versions, were made by an encoder that nobody asks any more.
    for other in vector_slots().filter(|&other| other != slot) {
        remove_under(view, &[b'v', other])?;
    }
    remove_under(view, b"x")?;
    Ok(true)
}

fn remove_under(view: &mut View<'_>, prefix: &[u8]) -> Result<()> {
    let mut found = Vec::with_capacity(CHUNK);
    view.scan(prefix, |key, _| {
        found.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    found.into_iter().for_each(|key| view.remove(key));
    Ok(())
}
