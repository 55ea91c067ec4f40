//! Another encoder's vectors, made beside the old ones while those are searched, and switched to when complete.
//!
//! The new vectors lie in the other slot. What was written since a pass over all records is told by the store's own
//! commits, so that the switch has no more to do than those; the graphs of the partitions in memory are built before it,
//! so that the first searches after it wait for none.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::encoder::{EncoderId, Encoders, Slotted, vector_slots};
use super::graphs::Graphs;
use super::resident::unsave_slot;
use super::{CHUNK, Embedded, record_of};
use crate::backend::vector::check_vector;
use crate::embedder::{Embedder, Side};
use crate::error::Result;
use crate::record::{Record, RecordId};
use crate::store::batch::Op;
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::value;
use crate::store::view::View;

/// What the store committed since some moment.
type Commits = Receiver<Arc<Vec<Op>>>;
/// A record's place.
type Name = (PartitionId, RecordId);

/// A record that lacks its new vector.
struct Waiting {
    partition: PartitionId,
    record: Record,
}

/// One run of embedding anew.
pub struct Reembedding<'a> {
    memory: &'a Embedded,
    embedder: &'a dyn Embedder,
    encoder: EncoderId,
    slot: Slot,
    batch: usize,
    done: u64,
    /// Commits since before the last pass, and graphs as of that pass; there once a pass came to its end.
    complete: Option<(Commits, Graphs)>,
    /// One run at a time: two would fill the same slot.
    _alone: MutexGuard<'a, ()>,
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
        let Some(mut run) = self.begin_reembed(embedder, batch)? else { return Ok(0) };
        let mut go_on = |done| {
            progress(done);
            ControlFlow::Continue(())
        };
        let _whole = run.embed(&mut go_on)?;
        run.switch()
    }

    /// Begins to embed every record with `embedder`, or goes on where that was interrupted; `None` if its vectors are
    /// those in use. Waits for a run that is under way.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin_reembed<'a>(&'a self, embedder: &'a dyn Embedder, batch: usize) -> Result<Option<Reembedding<'a>>> {
        let alone = self.reembedding.lock().unwrap_or_else(PoisonError::into_inner);
        let encoder = EncoderId { name: embedder.name().to_owned(), dim: embedder.dim() };
        let encoders = Encoders::of_tree(&self.store.tree())?;
        if encoders.active.as_ref() == Some(&encoder) {
            return Ok(None);
        }
        let slot = vector_slots().find(|&slot| slot != encoders.active_slot).unwrap_or(0);
        if encoders.pending.is_none_or(|pending| pending.encoder != encoder) {
            // Those of an encoder that was not finished, or is not in use any more.
            self.store.write(|view| {
                view.remove(keys::REEMBED.to_vec());
                Ok(())
            })?;
            self.clear_slot(slot)?;
            let pending = Slotted { encoder: encoder.clone(), slot };
            self.store.write(move |view| {
                view.set_json(keys::REEMBED.to_vec(), &pending);
                Ok(())
            })?;
        }
        let batch = batch.max(1);
        Ok(Some(Reembedding { memory: self, embedder, encoder, slot, batch, done: 0, complete: None, _alone: alone }))
    }

    /// Removes the vectors that a switch left behind, if it was killed before it could.
    pub(super) fn clear_left_over(&self, encoders: &Encoders) -> Result<()> {
        if encoders.pending.is_some() || self.read_only() {
            return Ok(());
        }
        vector_slots().filter(|&slot| slot != encoders.active_slot).try_for_each(|slot| self.clear_slot(slot))
    }

    /// Removes a slot's vectors, and the graphs that are kept of them.
    fn clear_slot(&self, slot: Slot) -> Result<()> {
        unsave_slot(&self.store, slot);
        loop {
            let tree = self.store.tree();
            let keys: Vec<Vec<u8>> = tree
                .scan(&[b'v', slot], &[])
                .take(CHUNK)
                .map(|pair| pair.map(|(key, _)| key.to_vec()))
                .collect::<std::result::Result<_, _>>()?;
            if keys.is_empty() {
                return Ok(());
            }
            self.store.write(move |view| {
                keys.into_iter().for_each(|key| view.remove(key));
                Ok(())
            })?;
        }
    }
}

impl Reembedding<'_> {
    /// Makes the vectors that are missing, all but those of the last writes, and the graphs of what is in memory.
    ///
    /// `go_on` is told after each batch how many were embedded by this run, and may end it: then `false` comes back, what
    /// was done stays, and the next run goes on from there.
    ///
    /// # Errors
    /// Those of the encoder and of the disk; what was done stays.
    pub fn embed(&mut self, go_on: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<bool> {
        let commits = self.memory.store.mirror()?;
        let (mut after, mut written) = (keys::RECORDS.to_vec(), BTreeSet::new());
        loop {
            let waiting = self.waiting(&mut after)?;
            if waiting.is_empty() {
                break;
            }
            self.embed_some(waiting)?;
            // Taken off the queue as they come: this run's own vectors are among them.
            written.append(&mut written_by(&commits, self.slot, &Graphs::default()));
            if go_on(self.done).is_break() {
                return Ok(false);
            }
        }
        let graphs = self.memory.resident.graphs(&self.memory.store, self.slot, self.encoder.dim)?;
        // What was written during the pass and the builds is done here, so that little is left for the switch.
        written.append(&mut written_by(&commits, self.slot, &graphs));
        let waiting = self.read(written)?;
        self.complete = Some((commits, graphs));
        for some in batches(waiting, self.batch) {
            self.embed_some(some)?;
            if go_on(self.done).is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Embeds what was written since [`Reembedding::embed`], and then searches with the new vectors. How many were
    /// embedded by this run.
    ///
    /// It is quick where nobody writes with the old encoder meanwhile, and goes on for as long as somebody does: the
    /// caller keeps those waiting.
    ///
    /// # Errors
    /// Those of the encoder and of the disk; the old vectors are searched then, and what was done stays.
    pub fn switch(mut self) -> Result<u64> {
        let (mut commits, graphs) = match self.complete.take() {
            Some(complete) => complete,
            None => {
                let _whole = self.embed(&mut |_| ControlFlow::Continue(()))?;
                return self.switch();
            }
        };
        let Self { memory, slot, .. } = self;
        memory.resident.prepare(graphs.clone());
        let mut candidates = BTreeSet::new();
        loop {
            let graphs = graphs.clone();
            let plan = move |view: &mut View<'_>| {
                candidates.append(&mut written_by(&commits, slot, &graphs));
                candidates.extend(view.changed(keys::RECORDS).filter_map(keys::parse_id));
                let lacking = lacking(view, slot, candidates)?;
                if lacking.is_empty() {
                    take_over(view)?;
                }
                Ok((commits, lacking))
            };
            let lacking = match memory.store.write(plan) {
                Ok((back, lacking)) => {
                    commits = back;
                    lacking
                }
                Err(error) => {
                    memory.resident.prepare(Graphs::default());
                    return Err(error);
                }
            };
            if lacking.is_empty() {
                memory.use_encoder(self.encoder);
                // They are searched no more; what is not removed now is at the next open.
                for other in vector_slots().filter(|&other| other != slot) {
                    let _ = memory.clear_slot(other);
                }
                return Ok(self.done);
            }
            candidates = lacking.clone();
            let waiting = self.read(lacking)?;
            batches(waiting, self.batch).try_for_each(|some| self.embed_some(some))?;
        }
    }

    fn embed_some(&mut self, waiting: Vec<Waiting>) -> Result<()> {
        let texts: Vec<&str> = waiting.iter().map(|waiting| waiting.record.content.as_str()).collect();
        let vectors = self.embedder.embed(&texts, Side::Document)?;
        vectors.iter().try_for_each(|vector| check_vector(self.encoder.dim, vector))?;
        self.done += waiting.len() as u64;
        let slot = self.slot;
        self.memory.store.write(move |view| set_vectors(view, slot, &waiting, &vectors))
    }

    /// The next records from `after` on that have no vector in the slot; `after` moves behind them.
    fn waiting(&self, after: &mut Vec<u8>) -> Result<Vec<Waiting>> {
        let tree = self.memory.store.tree();
        let mut found = Vec::new();
        for pair in tree.scan(keys::RECORDS, after) {
            let (key, sealed) = pair?;
            let Some((partition, id)) = keys::parse_id(&key) else { continue };
            if tree.get(&keys::vector(self.slot, partition, id))?.is_none() {
                found.push(Waiting { partition, record: record_of(&tree, &key, &sealed)? });
            }
            if found.len() == self.batch {
                *after = [&key[..], &[0]].concat();
                return Ok(found);
            }
        }
        *after = b"s".to_vec();
        Ok(found)
    }

    /// Those of `names` that are there and have no vector in the slot.
    fn read(&self, names: BTreeSet<Name>) -> Result<Vec<Waiting>> {
        let tree = self.memory.store.tree();
        let mut found = Vec::new();
        for (partition, id) in names {
            let key = keys::record(partition, id);
            let Some(sealed) = tree.get(&key)? else { continue };
            if tree.get(&keys::vector(self.slot, partition, id))?.is_none() {
                found.push(Waiting { partition, record: record_of(&tree, &key, &sealed)? });
            }
        }
        Ok(found)
    }
}

fn batches(waiting: Vec<Waiting>, batch: usize) -> impl Iterator<Item = Vec<Waiting>> {
    let mut rest = waiting.into_iter();
    std::iter::from_fn(move || {
        let some: Vec<Waiting> = rest.by_ref().take(batch).collect();
        (!some.is_empty()).then_some(some)
    })
}

/// Records that were written by `commits`, and may lack their new vector; what the commits say of new vectors is noted
/// in `graphs`.
fn written_by(commits: &Commits, slot: Slot, graphs: &Graphs) -> BTreeSet<Name> {
    let mut written = BTreeSet::new();
    for ops in commits.try_iter() {
        for op in ops.iter() {
            graphs.note(slot, op);
            if op.0.starts_with(keys::RECORDS) && op.1.is_some() {
                written.extend(keys::parse_id(&op.0));
            }
        }
    }
    written
}

/// Those of `names` that are there and have no vector in `slot`.
fn lacking(view: &View<'_>, slot: Slot, names: BTreeSet<Name>) -> Result<BTreeSet<Name>> {
    let mut found = BTreeSet::new();
    for (partition, id) in names {
        let there = view.get(&keys::record(partition, id))?.is_some();
        if there && view.get(&keys::vector(slot, partition, id))?.is_none() {
            found.insert((partition, id));
        }
    }
    Ok(found)
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

/// Makes the pending encoder the one whose vectors are searched.
fn take_over(view: &mut View<'_>) -> Result<()> {
    let Some(pending) = view.get_json::<Slotted>(keys::REEMBED)? else { return Ok(()) };
    view.set_json(keys::ENCODER.to_vec(), &pending);
    view.remove(keys::REEMBED.to_vec());
    // Superseded versions' are no longer of the encoder that is asked.
    let mut old = Vec::new();
    view.scan(keys::VERSION_VECTORS, |key, _| {
        old.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    old.into_iter().for_each(|key| view.remove(key));
    Ok(())
}

#[cfg(test)]
#[path = "reembed_tests.rs"]
mod tests;
