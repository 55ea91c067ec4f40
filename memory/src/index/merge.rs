//! Builds beside the searches: what waits goes into a longer graph, tombstones go out of a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::batch::Batch;
use super::dead::Dead;
use super::segment::Segment;
use super::{Inner, View, read};

/// Rows that may wait, in thresholds, before a writer builds itself instead of leaving it to the background.
const PATIENCE: usize = 8;

/// Merges on a thread of its own, unless one is at it; on this one where writers are far ahead of it.
pub(super) fn in_background(inner: &Arc<Inner>, waiting: usize) {
    /// A build that ends, however, is no longer under way.
    struct UnderWay<'a>(&'a AtomicBool);

    impl Drop for UnderWay<'_> {
        fn drop(&mut self) {
            self.0.store(false, Ordering::Release);
        }
    }

    if waiting >= PATIENCE * inner.params.recent {
        return inner.merge();
    }
    if inner.merging.swap(true, Ordering::AcqRel) {
        return;
    }
    let shared = Arc::clone(inner);
    let thread = std::thread::Builder::new().name("engram-index".into()).spawn(move || {
        let _under_way = UnderWay(&shared.merging);
        shared.merge();
    });
    if thread.is_err() {
        let _under_way = UnderWay(&inner.merging);
        inner.merge();
    }
}

impl Inner {
    /// Gives writers a new last batch; those before it change no more. The build's lock is held.
    pub(super) fn seal(&self) -> Arc<View> {
        let writer = self.lock_writer();
        let mut view = View::clone(&self.view.load());
        if view.waiting.last().is_none_or(|open| read(open).len() > 0) {
            view.waiting.push(Arc::new(RwLock::new(Batch::new(writer.next, self.dim))));
        }
        let view = Arc::new(view);
        self.view.store(Arc::clone(&view));
        view
    }

    pub(super) fn merge(&self) {
        let _one_build = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.seal();
        let Some((_, sealed)) = view.waiting.split_last() else { return };
        if sealed.is_empty() {
            return;
        }
        let mut graph = Segment::clone(&view.graph);
        let first = graph.len();
        sealed.iter().for_each(|batch| graph.append(read(batch).rows()));
        graph.link(first, &view.dead, self.params, self.dim);
        // Slots are the same as before, so whatever was written meanwhile stays as it is.
        let _writer = self.lock_writer();
        let now = self.view.load_full();
        let waiting = now.waiting.iter().skip(sealed.len()).cloned().collect();
        self.view.store(Arc::new(View { graph: Arc::new(graph), waiting, dead: Arc::clone(&now.dead) }));
    }

    pub(super) fn compact(&self) {
        let _one_build = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.seal();
        let sealed = view.waiting.len() - 1;
        let mut graph = Segment::empty(self.dim, self.params);
        let mut old_slots = Vec::new();
        let in_graph = (0..view.graph.len()).map(|slot| (view.graph.ids[slot], view.graph.vectors.row(slot as u32)));
        append_live(&mut graph, &mut old_slots, 0, in_graph, &view.dead);
        for batch in &view.waiting[..sealed] {
            let batch = read(batch);
            append_live(&mut graph, &mut old_slots, batch.first, batch.rows(), &view.dead);
        }
        graph.link(0, &Dead::default(), self.params, self.dim);
        self.put_in_place(graph, old_slots, sealed);
    }

    /// Publishes a graph whose slot `i` was `old_slots[i]`; batches after the sealed ones move down. What was removed or
    /// replaced during the build is a tombstone of the new graph.
    fn put_in_place(&self, graph: Segment, mut old_slots: Vec<u32>, sealed: usize) {
        let mut writer = self.lock_writer();
        let now = self.view.load_full();
        let mut ids = graph.ids.clone();
        let mut waiting = Vec::new();
        for batch in &now.waiting[sealed..] {
            // A copy: searches of the old view go on with the old slots.
            let batch = read(batch);
            let mut moved = Batch::new(ids.len() as u32, self.dim);
            batch.rows().for_each(|(id, row)| moved.push(id, row));
            old_slots.extend(batch.first..batch.first + batch.len() as u32);
            ids.extend(&batch.ids);
            waiting.push(Arc::new(RwLock::new(moved)));
        }
        let dead = Dead::default().grown(ids.len());
        let mut slots = std::collections::HashMap::with_capacity(ids.len());
        for (slot, (id, old)) in (0u32..).zip(ids.iter().zip(&old_slots)) {
            if writer.slots.get(id) == Some(old) {
                slots.insert(*id, slot);
            } else {
                dead.set(slot);
            }
        }
        writer.slots = slots;
        writer.next = ids.len() as u32;
        self.view.store(Arc::new(View { graph: Arc::new(graph), waiting, dead: Arc::new(dead) }));
    }
}

/// Appends the live rows of slots `first ..`, and notes their slots.
fn append_live<'a>(
    graph: &mut Segment,
    old_slots: &mut Vec<u32>,
    first: u32,
    rows: impl Iterator<Item = (u128, &'a [f32])>,
    dead: &Dead,
) {
    let live = (first..).zip(rows).filter(|&(slot, _)| !dead.has(slot));
    let (slots, rows): (Vec<u32>, Vec<_>) = live.unzip();
    graph.append(rows.into_iter());
    old_slots.extend(slots);
}
