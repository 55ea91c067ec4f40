//! Which records hold a word, and how often.

/// One word in one record, 8 bytes; the record's length stands here so that scoring reads nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting {
    /// Place of the record in the index.
    pub slot: u32,
    /// Weighted count of the word.
    pub tf: u16,
    /// Weighted length of the record, in words, capped at 65,535.
    pub len: u16,
}

/// What no posting of a block exceeds: the most counts in the shortest record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub tf: u16,
    pub len: u16,
}

/// The postings of one word, by rising slot.
#[derive(Debug, Clone, Default)]
pub(super) struct Postings {
    all: Vec<Posting>,
    /// One a block of [`Postings::BLOCK`].
    bounds: Vec<Bound>,
    /// Those whose record lives; the others wait for the next compaction.
    pub live: u32,
}

impl Postings {
    /// Postings under one bound.
    pub const BLOCK: usize = 128;

    /// Adds a record behind all others.
    pub fn push(&mut self, posting: Posting) {
        if self.all.is_empty() {
            // Most words stand in one record only.
            self.all.reserve_exact(1);
            self.bounds.reserve_exact(1);
        }
        match self.bounds.last_mut() {
            Some(bound) if !self.all.len().is_multiple_of(Self::BLOCK) => {
                bound.tf = bound.tf.max(posting.tf);
                bound.len = bound.len.min(posting.len);
            }
            _ => self.bounds.push(Bound { tf: posting.tf, len: posting.len }),
        }
        self.all.push(posting);
        self.live += 1;
    }

    /// All postings, dead ones too.
    pub fn all(&self) -> &[Posting] {
        &self.all
    }

    /// The blocks' bounds.
    pub fn bounds(&self) -> &[Bound] {
        &self.bounds
    }

    /// The same without dead records; `moved[slot]` is a living record's new slot, in the same order.
    pub fn compacted(&self, moved: &[Option<u32>]) -> Self {
        let mut kept = Self::default();
        for posting in &self.all {
            if let Some(slot) = moved[posting.slot as usize] {
                kept.push(Posting { slot, ..*posting });
            }
        }
        kept
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<Posting>() + self.bounds.capacity() * size_of::<Bound>()
    }
}
