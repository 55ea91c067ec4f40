//! Neighbour lists of one stride in one array.

use std::sync::atomic::{AtomicU32, Ordering};

use engram_kernels::distance;

/// Ends a list that is not full.
const NONE: u32 = u32::MAX;

/// For each point up to `stride` neighbours.
///
/// Entries are atomic so that walks read while a build writes: one that meets a list half rewritten sees neighbours of
/// before and after, all of them points, which a search by chance along edges can do with. Writers of one list
/// exclude each other by a lock of theirs.
#[derive(Debug, Default)]
pub(super) struct Links {
    lists: Vec<AtomicU32>,
    stride: usize,
}

impl Clone for Links {
    fn clone(&self) -> Self {
        let lists = self.lists.iter().map(|entry| AtomicU32::new(entry.load(Ordering::Relaxed))).collect();
        Self { lists, stride: self.stride }
    }
}

impl Links {
    pub(super) fn new(points: usize, stride: usize) -> Self {
        let mut links = Self { lists: Vec::new(), stride };
        links.grow(points);
        links
    }

    /// From what [`Links::entries`] gave. The caller has checked that neighbours are points.
    pub(super) fn from_entries(entries: impl Iterator<Item = u32>, stride: usize) -> Self {
        Self { lists: entries.map(AtomicU32::new).collect(), stride }
    }

    /// Every entry, list after list, `u32::MAX` past a list's end.
    pub(super) fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter().map(|entry| entry.load(Ordering::Relaxed))
    }

    /// Makes lists, empty ones, for `points` points in all.
    pub(super) fn grow(&mut self, points: usize) {
        let entries = points * self.stride;
        self.lists.reserve_exact(entries.saturating_sub(self.lists.len()));
        self.lists.resize_with(entries, || AtomicU32::new(NONE));
    }

    pub(super) fn bytes(&self) -> usize {
        self.lists.capacity() * 4
    }

    /// Points that have a list.
    pub(super) fn points(&self) -> usize {
        self.lists.len() / self.stride.max(1)
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    #[inline(always)]
    fn list(&self, point: u32) -> &[AtomicU32] {
        &self.lists[point as usize * self.stride..][..self.stride]
    }

    /// Asks for a point's list.
    #[inline(always)]
    pub(super) fn prefetch(&self, point: u32) {
        distance::prefetch(self.list(point));
    }

    /// A point's neighbours.
    #[inline(always)]
    pub(super) fn of(&self, point: u32) -> impl Iterator<Item = u32> + '_ {
        self.list(point).iter().map(|entry| entry.load(Ordering::Relaxed)).take_while(|&neighbour| neighbour != NONE)
    }

    /// Replaces a list by the first of `neighbours`, as many as it holds.
    pub(super) fn set(&self, point: u32, neighbours: impl IntoIterator<Item = u32>) {
        let mut neighbours = neighbours.into_iter();
        for entry in self.list(point) {
            entry.store(neighbours.next().unwrap_or(NONE), Ordering::Relaxed);
        }
    }

    /// Appends a neighbour; `false` where the list is full.
    pub(super) fn push(&self, point: u32, neighbour: u32) -> bool {
        let free = self.list(point).iter().find(|entry| entry.load(Ordering::Relaxed) == NONE);
        free.inspect(|entry| entry.store(neighbour, Ordering::Relaxed)).is_some()
    }
}
