//! The partitions that are in memory, at most so many; the one asked longest ago makes room.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::encoder::{Encoders, Slotted, vector_slots};
use super::graphs::Graphs;
use super::part::{Graph, Params, Part, catch_up};
use crate::error::{MemoryError, Result};
use crate::index::VectorIndex;
use crate::record::Record;
use crate::store::Store;
use crate::store::batch::Op;
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::value;

/// A partition's place: empty until it is loaded. Searches share it; the writer takes it alone for a commit.
type Place = Arc<RwLock<Option<Part>>>;

/// A graph is written again while serving when one in so many of its vectors is not in the file yet.
const MUCH: usize = 8;
/// Writing graphs takes at most one part in so many of a thread's time.
const REST: u32 = 20;

/// Partitions in memory.
pub struct Resident {
    /// Held for a look-up only, never while a partition loads.
    places: Mutex<Places>,
    most: usize,
    params: Params,
    /// Rises with every forget: a graph that was being written meanwhile may hold what is gone.
    forgotten: AtomicU64,
    /// When graphs may be written again; held while they are, so that one thread does.
    rests_until: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Places {
    by_id: HashMap<PartitionId, (Place, u64)>,
    clock: u64,
    slot: Slot,
    /// What takes the place of the graphs when the slot changes.
    prepared: Graphs,
}

impl Resident {
    /// Room for `most` partitions, at least one.
    pub fn new(most: usize, params: Params) -> Self {
        let (forgotten, rests_until) = (AtomicU64::default(), Mutex::default());
        Self { places: Mutex::default(), most: most.max(1), params, forgotten, rests_until }
    }

    /// Calls `read` with the partition, loading it from `store` if need be.
    ///
    /// The place is locked before the store is read, so a commit made meanwhile waits for the load and is then noted:
    /// nothing falls between.
    pub fn with<T>(&self, store: &Store, id: PartitionId, read: impl FnOnce(&Part) -> Result<T>) -> Result<T> {
        let place = self.place(id);
        let guard = place.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = &*guard {
            return read(part);
        }
        drop(guard);
        let mut guard = place.write().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            let tree = store.tree();
            let encoders = Encoders::of_tree(&tree)?;
            let encoder = encoders.active.ok_or(MemoryError::Closed)?;
            let saved = saved(store, id, encoders.active_slot);
            *guard = Some(Part::load(&tree, id, &encoder, encoders.active_slot, self.params, &saved)?);
        }
        match &*std::sync::RwLockWriteGuard::downgrade(guard) {
            Some(part) => read(part),
            None => Err(MemoryError::Closed),
        }
    }

    /// Writes graphs of the loaded partitions beside the store, so that the next open need not build them: those for which
    /// `due` holds, given how many of their vectors the file lacks or has too many, and how many they are. They hold nothing
    /// that the store does not, so a failure costs time only. Searches and writes go on.
    ///
    /// # Errors
    /// The first refusal of the disk.
    pub fn save(&self, store: &Store, due: impl Fn(usize, usize) -> bool) -> Result<()> {
        let slot = self.lock().slot;
        let mut graphs: Vec<(PartitionId, Graph)> = Vec::new();
        // Small ones are quicker built than read.
        self.each_loaded(|id, part| {
            let len = part.vectors.len();
            if len > self.params.index.exact_below && due(part.graph().unsaved(), len) {
                graphs.push((id, part.graph()));
            }
        });
        let mut outcome = Ok(());
        for (id, graph) in graphs {
            let path = saved(store, id, slot);
            let before = self.forgotten.load(Ordering::SeqCst);
            let written = graph.save(&path);
            if self.forgotten.load(Ordering::SeqCst) != before {
                // It may have begun before the forget and taken its name after it.
                let _ = std::fs::remove_file(&path);
                graph.lost();
            }
            outcome = outcome.and(written);
        }
        outcome
    }

    /// The same for graphs that changed much, unless that was done a moment ago.
    ///
    /// # Errors
    /// As [`Resident::save`].
    pub fn save_now_and_then(&self, store: &Store) -> Result<()> {
        let Ok(mut rests_until) = self.rests_until.try_lock() else { return Ok(()) };
        let begun = Instant::now();
        if rests_until.is_some_and(|until| begun < until) {
            return Ok(());
        }
        let outcome = self.save(store, |unsaved, len| unsaved * MUCH >= len);
        *rests_until = begun.elapsed().checked_mul(REST).and_then(|rest: Duration| Instant::now().checked_add(rest));
        outcome
    }

    /// Removes the graphs that are kept of a partition: they hold vectors of what has just been forgotten.
    pub fn unsave(&self, store: &Store, id: PartitionId) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        for slot in vector_slots() {
            // Most often there is none.
            let _ = std::fs::remove_file(saved(store, id, slot));
        }
        self.each_loaded(|loaded, part| {
            if loaded == id {
                part.graph().lost();
            }
        });
    }

    /// Graphs of another slot's vectors, of the partitions that are loaded; built from what is in the store now.
    pub fn graphs(&self, store: &Store, slot: Slot, dim: usize) -> Result<Graphs> {
        let mut loaded = Vec::new();
        self.each_loaded(|id, _| loaded.push(id));
        let build = |id: PartitionId| {
            let graph = VectorIndex::new(dim, self.params.index)?;
            catch_up(&graph, &store.tree(), &keys::all_vectors(slot, id))?;
            Ok((id, Arc::new(graph)))
        };
        Ok(Graphs::new(loaded.into_iter().map(build).collect::<Result<_>>()?))
    }

    /// When the slot changes next, these take the place of the graphs that are searched.
    pub fn prepare(&self, graphs: Graphs) {
        self.lock().prepared = graphs;
    }

    /// Calls `each` for the partitions that are loaded.
    pub fn each_loaded(&self, mut each: impl FnMut(PartitionId, &Part)) {
        let places: Vec<_> = self.lock().by_id.iter().map(|(&id, (place, _))| (id, place.clone())).collect();
        for (id, place) in places {
            let guard: RwLockReadGuard<'_, Option<Part>> = place.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(part) = &*guard {
                each(id, part);
            }
        }
    }

    /// Notes a commit in the partitions that are loaded; called on the writer's thread before it is acknowledged.
    pub fn note(&self, ops: &[Op]) {
        let encoder = ops.iter().find(|(key, _)| key == keys::ENCODER);
        if let Some(active) = encoder.and_then(|(key, sealed)| value::unseal_json::<Slotted>(key, sealed.as_ref()?)) {
            self.switch(active.slot);
        }
        let mut touched: HashMap<PartitionId, Vec<&Op>> = HashMap::new();
        for op in ops {
            let id = match op.0.first() {
                Some(b'r') => keys::parse_id(&op.0).map(|(id, _)| id),
                Some(b'v') => keys::parse_vector(&op.0).map(|(_, id, _)| id),
                _ => None,
            };
            if let Some(id) = id {
                touched.entry(id).or_default().push(op);
            }
        }
        let slot = self.lock().slot;
        for (id, ops) in touched {
            let Some(place) = self.lock().by_id.get(&id).map(|(place, _)| place.clone()) else { continue };
            let mut guard = place.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(part) = &mut *guard {
                ops.into_iter().for_each(|op| note_op(part, slot, op));
            }
        }
    }

    /// Another slot's vectors are searched from now on. Partitions whose graph of them was prepared go on with that one,
    /// the others are loaded again when they are asked.
    fn switch(&self, slot: Slot) {
        let (places, graphs) = {
            let mut places = self.lock();
            places.slot = slot;
            let all: Vec<_> = places.by_id.iter().map(|(&id, (place, _))| (id, place.clone())).collect();
            (all, std::mem::take(&mut places.prepared))
        };
        for (id, place) in places {
            let mut guard = place.write().unwrap_or_else(PoisonError::into_inner);
            match (&mut *guard, graphs.get(id)) {
                (Some(part), Some(graph)) => part.take_vectors(graph.clone()),
                (part, _) => *part = None,
            }
        }
    }

    /// Which slot's vectors are searched; loaded partitions are dropped if it is another than before.
    pub fn set_slot(&self, slot: Slot) {
        let mut places = self.lock();
        if places.slot != slot {
            places.by_id.clear();
            places.slot = slot;
        }
    }

    fn place(&self, id: PartitionId) -> Place {
        let mut places = self.lock();
        places.clock += 1;
        let clock = places.clock;
        if !places.by_id.contains_key(&id) && places.by_id.len() >= self.most {
            let oldest = places.by_id.iter().min_by_key(|(_, (_, used))| *used).map(|(&id, _)| id);
            oldest.map(|oldest| places.by_id.remove(&oldest));
        }
        let entry = places.by_id.entry(id).or_insert_with(|| (Place::default(), clock));
        entry.1 = clock;
        entry.0.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes all graphs that are kept of a slot's vectors.
pub fn unsave_slot(store: &Store, slot: Slot) {
    for entry in store.dir().read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix("vectors.")?.split_once('.'));
        if of.is_some_and(|(_, of)| of == slot.to_string()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Where a partition's graph is kept.
fn saved(store: &Store, id: PartitionId, slot: Slot) -> PathBuf {
    store.dir().join(format!("vectors.{id}.{slot}"))
}

fn note_op(part: &mut Part, active: Slot, (key, sealed): &Op) {
    match (key.first(), sealed) {
        (Some(b'r'), Some(sealed)) => {
            if let Some(record) = value::unseal_json::<Record>(key, sealed) {
                part.upsert(&record);
            }
        }
        (Some(b'r'), None) => {
            if let Some((_, id)) = keys::parse_id(key) {
                part.remove(id);
            }
        }
        (Some(b'v'), Some(sealed)) => {
            if let Some((slot, _, id)) = keys::parse_vector(key)
                && slot == active
                && let Some(vector) = value::unseal_vector(key, sealed)
            {
                part.set_vector(id, &vector);
            }
        }
        _ => {}
    }
}
