//! The best records for some words, without looking at most of the others: MaxScore.
//!
//! Turtle & Flood, "Query evaluation: strategies and optimizations" (1995). Words are ordered by the most they can
//! add. Once `k` records are known, words that together cannot lift a record past the worst of these no longer
//! propose records; they are only looked up for those that the other words propose.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::postings::{Posting, Postings};
use super::{Bm25, LexicalIndex};
use crate::backend::Candidate;
use crate::record::RecordId;

/// Scores are summed in another order than their bounds, so a bound must fall short by more than rounding can do.
const ROUNDING: f32 = 1.000_01;

/// One word of the query, somewhere in its postings.
struct Cursor<'a> {
    postings: &'a [Posting],
    at: usize,
    /// Its rarity times its count in the query.
    weight: f32,
    /// The most it can add.
    most: f32,
}

/// A record among the best; the greatest is the worst, so that a heap gives it up first.
struct Kept {
    score: f32,
    id: RecordId,
}

impl Cursor<'_> {
    fn slot(&self) -> u32 {
        self.postings.get(self.at).map_or(u32::MAX, |posting| posting.slot)
    }

    /// Moves to the first posting at or behind `slot`, by doubling steps and then by halves.
    fn seek(&mut self, slot: u32) {
        let rest = &self.postings[self.at..];
        if rest.first().is_none_or(|posting| posting.slot >= slot) {
            return;
        }
        let mut step = 1;
        while rest.get(step).is_some_and(|posting| posting.slot < slot) {
            step *= 2;
        }
        let (low, high) = (step / 2, rest.len().min(step + 1));
        self.at += low + rest[low..high].partition_point(|posting| posting.slot < slot);
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Kept {}

/// The `k` best so far.
struct Best {
    k: usize,
    heap: BinaryHeap<Kept>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024) + 1) }
    }

    /// What a record must reach to get in; equal scores are then decided by id.
    fn threshold(&self) -> f32 {
        if self.heap.len() < self.k { 0.0 } else { self.heap.peek().map_or(0.0, |worst| worst.score) }
    }

    fn offer(&mut self, score: f32, id: RecordId) {
        self.heap.push(Kept { score, id });
        if self.heap.len() > self.k {
            self.heap.pop();
        }
    }

    fn into_sorted(self) -> Vec<Candidate> {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|Kept { score, id }| Candidate { id, score }).collect()
    }
}

impl LexicalIndex {
    /// The `k` best by BM25 among those that `accept` takes, best first, ties by id.
    ///
    /// `terms` are tokens with their count in the query; those not in the index count for nothing.
    pub(super) fn best(&self, terms: &[(String, u32)], k: usize, accept: &dyn Fn(RecordId) -> bool) -> Vec<Candidate> {
        let bm25 = self.bm25();
        let mut cursors = self.cursors(terms, &bm25);
        cursors.sort_by(|a, b| a.most.total_cmp(&b.most));
        // most[i]: the most that words 0..=i add together.
        let most: Vec<f32> = cursors
            .iter()
            .scan(0.0, |sum, cursor| {
                *sum += cursor.most;
                Some(*sum)
            })
            .collect();
        let mut best = Best::new(k);
        let mut first = 0;
        while first < cursors.len() && k > 0 {
            let slot = cursors[first..].iter().map(Cursor::slot).min().unwrap_or(u32::MAX);
            if slot == u32::MAX {
                break;
            }
            let Some(score) = score(&mut cursors, first, slot, &most, best.threshold(), &bm25) else { continue };
            let Some(id) = self.living(slot).filter(|&id| accept(id)) else { continue };
            best.offer(score, id);
            while first < cursors.len() && most[first] * ROUNDING < best.threshold() {
                first += 1;
            }
        }
        best.into_sorted()
    }

    /// The `k` best by BM25 among those that hold every one of `terms`.
    pub(super) fn best_with_all(
        &self,
        terms: &[(String, u32)],
        k: usize,
        accept: &dyn Fn(RecordId) -> bool,
    ) -> Vec<Candidate> {
        let bm25 = self.bm25();
        let mut cursors = self.cursors(terms, &bm25);
        if cursors.is_empty() || cursors.len() < terms.len() || k == 0 {
            return Vec::new();
        }
        cursors.sort_by_key(|cursor| cursor.postings.len());
        let mut best = Best::new(k);
        let mut slot = cursors[0].slot();
        while slot != u32::MAX {
            let mut furthest = slot;
            for cursor in &mut cursors {
                cursor.seek(furthest);
                furthest = furthest.max(cursor.slot());
            }
            if furthest != slot {
                slot = furthest;
                continue;
            }
            if let Some(id) = self.living(slot).filter(|&id| accept(id)) {
                let add = |cursor: &Cursor<'_>| cursor.weight * bm25.saturation(cursor.postings[cursor.at]);
                let score = cursors.iter().map(add).sum();
                if score >= best.threshold() {
                    best.offer(score, id);
                }
            }
            slot = slot.saturating_add(1);
        }
        best.into_sorted()
    }

    fn cursors<'a>(&'a self, terms: &[(String, u32)], bm25: &Bm25) -> Vec<Cursor<'a>> {
        let cursor = |(term, count): &(String, u32)| {
            let postings: &Postings = self.postings_of(term)?;
            let weight = bm25.rarity(postings.live) * *count as f32;
            let most = postings.bounds().iter().map(|bound| bm25.most(*bound)).fold(0.0, f32::max) * weight;
            Some(Cursor { postings: postings.all(), at: 0, weight, most })
        };
        terms.iter().filter_map(cursor).collect()
    }
}

/// The score of `slot`, which a word from `first` on proposes, or `None` if it cannot reach `threshold`. Those words
/// are moved past it.
fn score(
    cursors: &mut [Cursor<'_>],
    first: usize,
    slot: u32,
    most: &[f32],
    threshold: f32,
    bm25: &Bm25,
) -> Option<f32> {
    let (lookups, proposing) = cursors.split_at_mut(first);
    let mut score = 0.0;
    for cursor in proposing {
        if cursor.slot() == slot {
            score += cursor.weight * bm25.saturation(cursor.postings[cursor.at]);
            cursor.at += 1;
        }
    }
    for (cursor, most) in lookups.iter_mut().zip(most).rev() {
        if (score + most) * ROUNDING < threshold {
            return None;
        }
        cursor.seek(slot);
        if cursor.slot() == slot {
            score += cursor.weight * bm25.saturation(cursor.postings[cursor.at]);
        }
    }
    (score >= threshold).then_some(score)
}
