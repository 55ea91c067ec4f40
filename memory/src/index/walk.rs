//! A walk along the edges towards a query: greedy with many candidates (algorithm 2 of HNSW's paper).

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use engram_kernels::distance::{CodeQuery, CodeRows};

use super::beam::{Beam, Seen};
use super::links::Links;

/// What a walk needs besides the graph; one a thread, so that none is made for a search.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) beam: Beam,
    pub(super) query: CodeQuery,
    seen: Seen,
    fresh: Vec<u32>,
    scores: Vec<f32>,
}

thread_local! {
    static WALK: RefCell<Walk> = RefCell::default();
}

impl Walk {
    /// Runs `body` with this thread's walk, or with a new one where a filter of a search searches itself.
    pub(super) fn with<R>(body: impl FnOnce(&mut Self) -> R) -> R {
        WALK.with(|walk| match walk.try_borrow_mut() {
            Ok(mut walk) => body(&mut walk),
            Err(_) => body(&mut Self::default()),
        })
    }

    /// Fills the beam with the `ef` nearest to the query that are found from `start`.
    #[inline]
    pub(super) fn run(&mut self, links: &Links, codes: &CodeRows, start: u32, ef: usize) {
        self.begin(links, codes, start);
        self.beam.reset(ef);
        self.beam.offer(start, self.scores[0]);
        while let Some(point) = self.beam.expand() {
            self.look_around(links, codes, point);
            for (&point, &score) in self.fresh.iter().zip(&self.scores) {
                self.beam.offer(point, score);
            }
            if let Some(next) = self.beam.peek() {
                links.prefetch(next);
            }
        }
    }

    /// Fills the beam with the `ef` nearest that `accept` lets through. The walk passes through the others too, and goes on
    /// until nothing is left that is nearer than the beam's last: the fewer are accepted, the longer it walks.
    pub(super) fn run_accepting(
        &mut self,
        links: &Links,
        codes: &CodeRows,
        start: u32,
        ef: usize,
        mut accept: impl FnMut(u32) -> bool,
    ) {
        self.begin(links, codes, start);
        self.beam.reset(ef);
        // Larger scores are nearer; a score is no NaN, and as bits with the sign folded it is an Ord.
        let mut candidates = BinaryHeap::from([(Ordered(self.scores[0]), Reverse(start))]);
        if accept(start) {
            self.beam.offer(start, self.scores[0]);
        }
        while let Some((Ordered(score), Reverse(point))) = candidates.pop() {
            if self.beam.refuses(score) {
                break;
            }
            self.look_around(links, codes, point);
            for (&point, &score) in self.fresh.iter().zip(&self.scores) {
                if !self.beam.refuses(score) {
                    candidates.push((Ordered(score), Reverse(point)));
                    if accept(point) {
                        self.beam.offer(point, score);
                    }
                }
            }
        }
    }

    /// The nearest to the query by going to the nearest neighbour while it is nearer.
    pub(super) fn greedy(&mut self, links: &Links, codes: &CodeRows, start: u32) -> u32 {
        self.begin(links, codes, start);
        let (mut best, mut at) = (self.scores[0], start);
        loop {
            self.look_around(links, codes, at);
            let nearest = self.fresh.iter().zip(&self.scores).max_by(|a, b| a.1.total_cmp(b.1));
            match nearest {
                Some((&point, &score)) if score > best => (best, at) = (score, point),
                _ => return at,
            }
        }
    }

    fn begin(&mut self, links: &Links, codes: &CodeRows, start: u32) {
        self.seen.reset(links.points());
        self.seen.first(start);
        self.scores.resize(links.stride().max(1), 0.0);
        codes.scores(&self.query, &[start], &mut self.scores);
    }

    /// Scores the neighbours of `point` that were not seen: `fresh` and the first of `scores`.
    #[inline(always)]
    fn look_around(&mut self, links: &Links, codes: &CodeRows, point: u32) {
        self.fresh.clear();
        for neighbour in links.of(point) {
            if self.seen.first(neighbour) {
                self.fresh.push(neighbour);
            }
        }
        codes.scores(&self.query, &self.fresh, &mut self.scores);
    }
}

/// A score that sorts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
