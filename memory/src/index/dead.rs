//! Which slots are tombstones.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A bit a slot. Set by one writer at a time, read by searches.
#[derive(Debug, Default)]
pub(super) struct Dead {
    words: Vec<AtomicU64>,
    count: AtomicUsize,
}

impl Dead {
    /// From what [`Dead::words`] gave.
    pub(super) fn from_words(words: impl Iterator<Item = u64>) -> Self {
        let words: Vec<u64> = words.collect();
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words: words.into_iter().map(AtomicU64::new).collect(), count: AtomicUsize::new(count) }
    }

    /// The bits, 64 a word.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().map(|word| word.load(Ordering::Acquire))
    }

    /// The same with room for at least `slots`, twice as many as asked for at most.
    pub(super) fn grown(&self, slots: usize) -> Self {
        let words = slots.div_ceil(64).next_power_of_two().max(self.words.len());
        Self::from_words(self.words().chain(std::iter::repeat(0)).take(words))
    }

    /// Slots it has room for.
    pub(super) fn room(&self) -> usize {
        self.words.len() * 64
    }

    /// Tombstones.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(super) fn has(&self, slot: u32) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word.load(Ordering::Acquire) >> (slot % 64) & 1 == 1)
    }

    /// Makes a live slot a tombstone.
    pub(super) fn set(&self, slot: u32) {
        if let Some(word) = self.words.get(slot as usize / 64) {
            // The bit first: whoever sees a count of none may skip looking at bits.
            word.fetch_or(1 << (slot % 64), Ordering::AcqRel);
            self.count.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * 8
    }
}
