//! The partitions that are in memory, at most so many; the one asked longest ago makes room.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::encoder::{Encoders, Slotted, vector_slots};
use super::part::{Params, Part};
use crate::error::{MemoryError, Result};
use crate::record::Record;
use crate::store::Store;
use crate::store::batch::Op;
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::value;

/// A partition's place: empty until it is loaded. Searches share it; the writer takes it alone for a commit.
type Place = Arc<RwLock<Option<Part>>>;

/// Partitions in memory.
pub struct Resident {
    /// Held for a look-up only, never while a partition loads.
    places: Mutex<Places>,
    most: usize,
    params: Params,
}

#[derive(Default)]
struct Places {
    by_id: HashMap<PartitionId, (Place, u64)>,
    clock: u64,
    slot: Slot,
}

impl Resident {
    /// Room for `most` partitions, at least one.
    pub fn new(most: usize, params: Params) -> Self {
        Self { places: Mutex::default(), most: most.max(1), params }
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

    /// Writes the graphs of the loaded partitions beside the store, so that the next open need not build them. They hold
    /// nothing that the store does not, so a failure costs time only.
    ///
    /// # Errors
    /// The first refusal of the disk.
    pub fn save(&self, store: &Store) -> Result<()> {
        let slot = self.lock().slot;
        let mut outcome = Ok(());
        self.each_loaded(|id, part| {
            let saved = part.save(&saved(store, id, slot), self.params);
            outcome = std::mem::replace(&mut outcome, Ok(())).and(saved);
        });
        outcome
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
            let mut places = self.lock();
            places.by_id.clear();
            places.slot = active.slot;
            return;
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

/// Removes the graphs that are kept of a partition: they hold vectors of what has just been forgotten.
pub fn unsave(store: &Store, id: PartitionId) {
    for slot in vector_slots() {
        // Most often there is none.
        let _ = std::fs::remove_file(saved(store, id, slot));
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
