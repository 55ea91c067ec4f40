//! The candidates of one walk, nearest first, in one sorted array; and which points were seen.

/// A candidate as one number: score in the high half, larger for nearer, then the point. Sorted by it.
///
/// The lowest bit of the score half is not touched; the point's top bit says that it was expanded.
const EXPANDED: u64 = 1 << 31;

/// At most `ef` candidates, nearest first.
///
/// An array, since `ef` is some hundreds at most and moving that many numbers takes less than a heap's jumps; it also
/// is the result, so one list serves for what HNSW's paper keeps in two.
#[derive(Debug, Default)]
pub(super) struct Beam {
    sorted: Vec<u64>,
    ef: usize,
    /// All before it are expanded.
    next: usize,
}

/// A float's bits in an order that integers keep, nearest (largest) first.
#[inline(always)]
fn rank(score: f32) -> u64 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!ascending) << 32
}

#[inline(always)]
fn score_of(key: u64) -> f32 {
    let ascending = !((key >> 32) as u32);
    f32::from_bits(if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending })
}

impl Beam {
    /// Empty, for `ef` candidates.
    pub(super) fn reset(&mut self, ef: usize) {
        self.sorted.clear();
        self.sorted.reserve(ef + 1);
        (self.ef, self.next) = (ef, 0);
    }

    /// Takes a candidate in if it is near enough.
    #[inline(always)]
    pub(super) fn offer(&mut self, point: u32, score: f32) {
        let key = rank(score) | u64::from(point);
        if self.sorted.len() == self.ef {
            if self.sorted.last().is_none_or(|&worst| key >> 32 >= worst >> 32) {
                return;
            }
            self.sorted.pop();
        }
        let at = self.sorted.partition_point(|&other| other >> 32 <= key >> 32);
        self.sorted.insert(at, key);
        self.next = self.next.min(at);
    }

    /// The nearest that was not expanded yet, and marks it.
    #[inline(always)]
    pub(super) fn expand(&mut self) -> Option<u32> {
        while let Some(key) = self.sorted.get_mut(self.next) {
            self.next += 1;
            if *key & EXPANDED == 0 {
                *key |= EXPANDED;
                return Some(*key as u32 & !(EXPANDED as u32));
            }
        }
        None
    }

    /// The one that would be expanded now, if nothing nearer comes.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<u32> {
        self.sorted.get(self.next..)?.iter().find(|&key| key & EXPANDED == 0).map(|&key| key as u32)
    }

    /// Nearest first, as points and scores.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (u32, f32)> + '_ {
        self.sorted.iter().map(|&key| (key as u32 & !(EXPANDED as u32), score_of(key)))
    }

    /// Whether `score` is too far to be taken in.
    #[inline(always)]
    pub(super) fn refuses(&self, score: f32) -> bool {
        self.sorted.len() == self.ef && self.sorted.last().is_none_or(|&worst| rank(score) >= worst & !0xffff_ffff)
    }
}

/// Which points a walk has seen: a stamp a point, that of an earlier walk means unseen, so nothing is cleared
/// but once in 255 walks. A byte a point keeps 100,000 of them near the core.
#[derive(Debug, Default)]
pub(super) struct Seen {
    stamps: Vec<u8>,
    walk: u8,
}

impl Seen {
    /// A new walk over `points` points.
    pub(super) fn reset(&mut self, points: usize) {
        if self.stamps.len() < points {
            self.stamps.resize(points, 0);
        }
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.stamps.fill(0);
            self.walk = 1;
        }
    }

    /// Whether it is seen for the first time.
    #[inline(always)]
    pub(super) fn first(&mut self, point: u32) -> bool {
        let stamp = &mut self.stamps[point as usize];
        let first = *stamp != self.walk;
        *stamp = self.walk;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_the_nearest_in_order_and_expands_each_once(scores in prop::collection::vec(-1e3f32..1e3, 1..80), ef in 1usize..40) {
            let mut beam = Beam::default();
            beam.reset(ef);
            let mut expanded = Vec::new();
            for (point, &score) in scores.iter().enumerate() {
                beam.offer(point as u32, score);
                if point % 3 == 0 {
                    let peeked = beam.peek();
                    let one = beam.expand();
                    prop_assert_eq!(peeked, one);
                    expanded.extend(one);
                }
            }
            while let Some(point) = beam.expand() { expanded.push(point); }
            let mut sorted: Vec<_> = (0u32..).zip(scores).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(ef);
            let held: Vec<_> = beam.iter().collect();
            prop_assert_eq!(held.iter().map(|one| one.1).collect::<Vec<_>>(), sorted.iter().map(|one| one.1).collect::<Vec<_>>());
            for (point, _) in held { prop_assert!(expanded.contains(&point)); }
            let all = expanded.len();
            expanded.sort_unstable();
            expanded.dedup();
            prop_assert_eq!(expanded.len(), all);
        }
    }

    #[test]
    fn stamps_last_one_walk() {
        let mut seen = Seen::default();
        for walk in 0..600 {
            seen.reset(10);
            assert!(seen.first(walk % 10) && !seen.first(walk % 10));
        }
    }
}
