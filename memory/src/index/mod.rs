//! The nearest vectors to a vector: an HNSW graph in a flat layout, searched on int8 codes, ranked by the f32 vectors.
//!
//! A point has a slot, its number in the order of arrival. The graph holds the first slots (`Segment`); those after
//! wait in batches that every search looks at whole, so a point is found as soon as `insert` returns. When enough wait, a
//! copy of the graph's lists is grown by them, in the background, and put in the old one's place: a search never waits for
//! a build. What is removed is a tombstone until [`VectorIndex::compact`].

mod batch;
mod beam;
mod dead;
mod file;
mod hubs;
mod insert;
mod links;
mod merge;
mod params;
mod segment;
mod vectors;
mod walk;

pub use params::IndexParams;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;
use engram_kernels::distance;

use self::batch::Batch;
use self::dead::Dead;
use self::segment::{Segment, Wanted};
use crate::error::{MemoryError, Result};
use crate::exact::TopK;

/// Vectors by id, searched by cosine. Shared by threads: many search beside one that writes.
#[derive(Debug)]
pub struct VectorIndex {
    inner: Arc<Inner>,
}

/// What the background's thread shares.
#[derive(Debug)]
struct Inner {
    dim: usize,
    params: IndexParams,
    /// What searches see; replaced whole.
    view: ArcSwap<View>,
    /// One writer at a time; held for a map's entry and a row's copy, or the swap at a build's end.
    writer: Mutex<Writer>,
    /// One build at a time, so that what it started from is what it replaces. Taken before `writer`.
    building: Mutex<()>,
    /// A build in the background is under way or about to begin.
    merging: AtomicBool,
}

/// A state of the index, complete.
#[derive(Debug, Clone)]
struct View {
    graph: Arc<Segment>,
    /// Rows after the graph's; only the last grows. A lock because a search reads it while a row is appended: the
    /// writer holds it for one row's copy.
    waiting: Vec<Arc<RwLock<Batch>>>,
    dead: Arc<Dead>,
}

/// What only writers need.
#[derive(Debug, Default)]
struct Writer {
    /// Slot of each live id.
    slots: HashMap<u128, u32>,
    /// The next slot.
    next: u32,
}

impl VectorIndex {
    /// Most slots, tombstones included: a bit of 32 says something else.
    pub const MAX_SLOTS: usize = 1 << 30;

    /// An empty one for vectors of `dim` values.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] if `dim` is 0 or above 65,536.
    pub fn new(dim: usize, params: IndexParams) -> Result<Self> {
        if dim == 0 || dim > 1 << 16 {
            return Err(invalid("dim", format!("is {dim}, an index takes 1 to 65536 dimensions")));
        }
        let params = params.sane();
        Ok(Self::of(Segment::empty(dim, params), Dead::default(), Writer::default(), dim, params))
    }

    fn of(graph: Segment, dead: Dead, writer: Writer, dim: usize, params: IndexParams) -> Self {
        let open = Arc::new(RwLock::new(Batch::new(graph.len() as u32, dim)));
        let view = View { graph: Arc::new(graph), waiting: vec![open], dead: Arc::new(dead) };
        Self {
            inner: Arc::new(Inner {
                dim,
                params,
                view: ArcSwap::from_pointee(view),
                writer: Mutex::new(writer),
                building: Mutex::new(()),
                merging: AtomicBool::new(false),
            }),
        }
    }

    /// Values of a vector.
    pub fn dim(&self) -> usize {
        self.inner.dim
    }

    /// Vectors that can be found.
    pub fn len(&self) -> usize {
        self.inner.lock_writer().slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Vectors that were removed or replaced and still take room.
    pub fn tombstones(&self) -> usize {
        self.inner.view.load().dead.count()
    }

    /// Vectors that are not in the graph yet and are looked at one by one.
    pub fn waiting(&self) -> usize {
        self.inner.view.load().waiting.iter().map(|batch| read(batch).len()).sum()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let view = self.inner.view.load();
        let waiting: usize = view.waiting.iter().map(|batch| read(batch).bytes()).sum();
        // A hash map's entry is its key and value, padded, and a byte of its own.
        let map = self.inner.lock_writer().slots.capacity() * (size_of::<(u128, u32)>() + 1);
        view.graph.bytes() + waiting + view.dead.bytes() + map
    }

    /// Whether there is a vector of this id.
    pub fn contains(&self, id: u128) -> bool {
        self.inner.lock_writer().slots.contains_key(&id)
    }

    /// Puts a vector in, in place of one of the same id. Searches that begin after it returned find it.
    ///
    /// It is kept at length 1: scores are cosines.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a vector of another length, of zeros, or with a value that is not finite;
    /// [`MemoryError::TooLarge`] past [`VectorIndex::MAX_SLOTS`].
    pub fn insert(&self, id: u128, vector: &[f32]) -> Result<()> {
        let vector = self.inner.unit(vector)?;
        let waiting = {
            let mut writer = self.inner.lock_writer();
            self.inner.append(&mut writer, &[(id, &vector)])?
        };
        if waiting >= self.inner.params.recent {
            merge::in_background(&self.inner, waiting);
        }
        Ok(())
    }

    /// Puts many in; all are found when it returns, and where they are many they are in the graph, built on
    /// [`IndexParams::build_threads`] threads. Of two with one id the later counts.
    ///
    /// # Errors
    /// As [`VectorIndex::insert`]; then none was put in.
    pub fn insert_many(&self, rows: &[(u128, &[f32])]) -> Result<()> {
        let units: Vec<Vec<f32>> = rows.iter().map(|(_, row)| self.inner.unit(row)).collect::<Result<_>>()?;
        let rows: Vec<(u128, &[f32])> = rows.iter().zip(&units).map(|(&(id, _), unit)| (id, unit.as_slice())).collect();
        let waiting = {
            let mut writer = self.inner.lock_writer();
            self.inner.append(&mut writer, &rows)?
        };
        drop(units);
        if waiting >= self.inner.params.recent {
            self.inner.merge();
        }
        Ok(())
    }

    /// Removes a vector; `false` if there was none. Searches that begin after it returned do not find it.
    pub fn remove(&self, id: u128) -> bool {
        let mut writer = self.inner.lock_writer();
        let slot = writer.slots.remove(&id);
        if let Some(slot) = slot {
            self.inner.bury(slot);
        }
        slot.is_some()
    }

    /// The vector of an id, `[dim]`, length 1.
    pub fn vector(&self, id: u128) -> Option<Vec<f32>> {
        // The lock stays: slots are those of this view until it goes.
        let writer = self.inner.lock_writer();
        let slot = *writer.slots.get(&id)?;
        self.inner.view.load().row(slot)
    }

    /// The `k` nearest to `query` by cosine, best first, with their cosines.
    ///
    /// `ef` candidates are kept on the way: more find more and take longer. `accept` says by id what may be found; it
    /// is asked for every point on the way, or for every point there is where it lets few through, so it should be quick, and
    /// it must not write to this index. Recall does not fall with what it refuses.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] as for [`VectorIndex::insert`].
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        accept: Option<&dyn Fn(u128) -> bool>,
    ) -> Result<Vec<(u128, f32)>> {
        let vector = self.inner.unit(query)?;
        let view = self.inner.view.load();
        let k = k.min(Self::MAX_SLOTS);
        let wanted = Wanted { vector: &vector, k, ef, accept, dead: &view.dead, params: &self.inner.params };
        let mut best = TopK::new(k);
        // Newest first: where an id is just being replaced, its new row is named, and the old is told by its slot.
        view.waiting.iter().rev().for_each(|batch| read(batch).search(&wanted, &mut best));
        view.graph.search(&wanted, &mut best);
        Ok(best.into_vec().into_iter().map(|((_, id), score)| (id, score)).collect())
    }

    /// The `k` nearest among these ids, by looking at each; those that are not here are passed over.
    ///
    /// # Errors
    /// As [`VectorIndex::search`].
    pub fn search_among(&self, query: &[f32], k: usize, ids: &[u128]) -> Result<Vec<(u128, f32)>> {
        let vector = self.inner.unit(query)?;
        let (view, slots): (_, Vec<(u128, u32)>) = {
            let writer = self.inner.lock_writer();
            let slots = ids.iter().filter_map(|id| Some((*id, *writer.slots.get(id)?))).collect();
            (self.inner.view.load_full(), slots)
        };
        let waiting: Vec<_> = view.waiting.iter().map(|batch| read(batch)).collect();
        let rows = slots.iter().filter_map(|&(id, slot)| {
            let in_graph = (slot as usize) < view.graph.len();
            let row = if in_graph {
                view.graph.vectors.row(slot)
            } else {
                waiting.iter().find_map(|batch| batch.row(slot))?
            };
            Some((id, row))
        });
        Ok(crate::exact::nearest(&vector, rows, k))
    }

    /// Brings all that waits into the graph.
    pub fn merge(&self) {
        self.inner.merge();
    }

    /// Builds the graph anew without tombstones. Searches and writes go on meanwhile.
    pub fn compact(&self) {
        self.inner.compact();
    }
}

impl View {
    fn row(&self, slot: u32) -> Option<Vec<f32>> {
        if (slot as usize) < self.graph.len() {
            return Some(self.graph.vectors.row(slot).to_vec());
        }
        self.waiting.iter().find_map(|batch| read(batch).row(slot).map(<[f32]>::to_vec))
    }
}

impl Inner {
    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vector at length 1.
    fn unit(&self, vector: &[f32]) -> Result<Vec<f32>> {
        if vector.len() != self.dim {
            return Err(invalid("vector", format!("has {} values, this index takes {}", vector.len(), self.dim)));
        }
        let length = distance::dot(vector, vector).sqrt();
        if !length.is_finite() || length < f32::MIN_POSITIVE {
            return Err(invalid("vector", format!("has length {length}: it must have values, all finite, not all 0")));
        }
        Ok(vector.iter().map(|value| value / length).collect())
    }

    /// Appends rows to the last batch and makes them findable; how many rows wait now.
    fn append(&self, writer: &mut Writer, rows: &[(u128, &[f32])]) -> Result<usize> {
        let slots = writer.next as usize + rows.len();
        if slots > VectorIndex::MAX_SLOTS {
            return Err(MemoryError::TooLarge { what: "index in vectors", size: slots, limit: VectorIndex::MAX_SLOTS });
        }
        let mut view = self.view.load_full();
        if slots > view.dead.room() {
            let grown = View { dead: Arc::new(view.dead.grown(slots)), ..View::clone(&view) };
            view = Arc::new(grown);
            self.view.store(Arc::clone(&view));
        }
        if let Some(open) = view.waiting.last() {
            for &(id, row) in rows {
                open.write().unwrap_or_else(PoisonError::into_inner).push(id, row);
                if let Some(old) = writer.slots.insert(id, writer.next) {
                    self.bury(old);
                }
                writer.next += 1;
            }
        }
        Ok(writer.next as usize - view.graph.len())
    }

    /// Makes a slot a tombstone; the writer's lock is held.
    fn bury(&self, slot: u32) {
        self.view.load().dead.set(slot);
    }
}

fn read(batch: &RwLock<Batch>) -> RwLockReadGuard<'_, Batch> {
    batch.read().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(field: &str, message: String) -> MemoryError {
    MemoryError::Invalid { field: field.to_owned(), message }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
