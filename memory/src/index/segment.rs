//! The points that are in the graph: never changed once searches see it, replaced by a longer one.

use engram_kernels::distance::{self, CodeRows};

use super::dead::Dead;
use super::hubs::Hubs;
use super::insert::Insertion;
use super::links::Links;
use super::params::IndexParams;
use super::vectors::Vectors;
use super::walk::Walk;
use crate::exact::TopK;

/// Points `0 .. len`; a point's number is its slot.
#[derive(Debug, Default, Clone)]
pub(super) struct Segment {
    pub(super) ids: Vec<u128>,
    pub(super) vectors: Vectors,
    codes: CodeRows,
    pub(super) base: Links,
    pub(super) hubs: Hubs,
    /// Points there were when the hubs were drawn.
    pub(super) hubs_of: usize,
}

/// What a search wants.
pub(super) struct Wanted<'a> {
    /// Length 1.
    pub(super) vector: &'a [f32],
    pub(super) k: usize,
    pub(super) ef: usize,
    pub(super) accept: Option<&'a dyn Fn(u128) -> bool>,
    pub(super) dead: &'a Dead,
    pub(super) params: &'a IndexParams,
}

impl Wanted<'_> {
    /// Whether a slot may be found.
    #[inline(always)]
    pub(super) fn takes(&self, slot: u32, id: u128) -> bool {
        !self.dead.has(slot) && self.accept.is_none_or(|accept| accept(id))
    }
}

impl Segment {
    pub(super) fn empty(dim: usize, params: IndexParams) -> Self {
        let base = Links::new(0, 2 * params.m);
        Self { vectors: Vectors::new(dim), codes: CodeRows::new(dim), base, ..Self::default() }
    }

    /// From what was saved.
    pub(super) fn restore(
        ids: Vec<u128>,
        vectors: Vectors,
        base: Links,
        hubs: (Vec<u32>, Vec<Links>, usize),
        dim: usize,
    ) -> Self {
        let mut codes = CodeRows::with_capacity(dim, vectors.len());
        (0..vectors.len() as u32).for_each(|row| codes.push(vectors.row(row)));
        let (points, layers, hubs_of) = hubs;
        let hubs = Hubs::restore(points, layers, |point| vectors.row(point), dim);
        Self { ids, vectors, codes, base, hubs, hubs_of }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let rows = self.ids.capacity() * 16 + self.vectors.bytes() + self.codes.bytes();
        rows + self.base.bytes() + self.hubs.bytes()
    }

    /// Takes rows in, without linking them.
    pub(super) fn append<'a>(&mut self, rows: impl ExactSizeIterator<Item = (u128, &'a [f32])>) {
        self.codes.reserve(rows.len());
        self.ids.reserve_exact(rows.len());
        for (id, vector) in rows {
            self.ids.push(id);
            self.vectors.push(vector);
            self.codes.push(vector);
        }
    }

    /// Links the points from `first` on, dead ones left out.
    ///
    /// Hubs are drawn anew where the points have doubled since; the first time they also are what the base layer begins
    /// with.
    pub(super) fn link(&mut self, first: usize, dead: &Dead, params: IndexParams, dim: usize) {
        let alive = |&point: &u32| !dead.has(point);
        let drawn = |point: &u32| Hubs::is_drawn(*point, params.m);
        self.base.grow(self.len());
        let all = 0..self.len() as u32;
        let mut fresh: Vec<u32> = all.clone().skip(first).filter(alive).collect();
        if fresh.is_empty() {
            return;
        }
        let seeding = self.hubs.points.is_empty();
        if seeding || self.len() >= 2 * self.hubs_of {
            let mut hubs: Vec<u32> = all.filter(alive).filter(drawn).collect();
            if hubs.is_empty() {
                hubs.push(fresh[0]);
            }
            if !seeding {
                // Entrances of the new points must be in the base layer already: old hubs serve once more.
                Insertion::new(&self.base, &self.codes, &self.hubs, params).run(&fresh);
                fresh.clear();
            }
            let vectors = &self.vectors;
            self.hubs = Hubs::build(&hubs, |point| vectors.row(point), params.m, params.ef_construction, dim);
            self.hubs_of = self.len();
            if seeding {
                let mut is_hub = vec![false; self.len()];
                hubs.iter().for_each(|&hub| is_hub[hub as usize] = true);
                fresh.retain(|&point| !is_hub[point as usize]);
            }
        }
        let insertion = Insertion::new(&self.base, &self.codes, &self.hubs, params);
        if seeding {
            insertion.seed();
        }
        insertion.run(&fresh);
    }

    /// Offers the nearest that are found to `best`, by their exact scores.
    pub(super) fn search(&self, wanted: &Wanted<'_>, best: &mut TopK<(u32, u128)>) {
        let plain = wanted.accept.is_none() && wanted.dead.count() == 0;
        if self.len() <= wanted.params.recent || (!plain && self.accepted(wanted) < wanted.params.exact_below) {
            return self.scan(wanted, best);
        }
        Walk::with(|walk| {
            walk.query.set(wanted.vector);
            let Some(start) = self.hubs.descend(walk) else { return self.scan(wanted, best) };
            let ef = wanted.ef.max(wanted.k).min(self.len());
            if plain {
                walk.run(&self.base, &self.codes, start, ef);
            } else {
                let takes = |slot: u32| wanted.takes(slot, self.ids[slot as usize]);
                walk.run_accepting(&self.base, &self.codes, start, ef, takes);
            }
            self.rerank(walk, wanted, best);
        });
    }

    /// Scores the nearest by code again, exactly: codes put a neighbour some places off, the more the longer the list is
    /// that was asked for.
    fn rerank(&self, walk: &Walk, wanted: &Wanted<'_>, best: &mut TopK<(u32, u128)>) {
        const SOME: usize = 8;
        const AHEAD: usize = 4;
        let most = (2 * wanted.k + SOME).max(wanted.ef / 3);
        let candidates = || walk.beam.iter().take(most);
        let mut ahead = candidates();
        ahead.by_ref().take(AHEAD).for_each(|(slot, _)| distance::prefetch(self.vectors.row(slot)));
        for (slot, _) in candidates() {
            if let Some((next, _)) = ahead.next() {
                distance::prefetch(self.vectors.row(next));
            }
            best.offer((slot, self.ids[slot as usize]), distance::dot(wanted.vector, self.vectors.row(slot)));
        }
    }

    /// About how many points a search may find: all are asked where they are few, otherwise a sample of even steps.
    fn accepted(&self, wanted: &Wanted<'_>) -> usize {
        const SAMPLE: usize = 1024;
        let step = (self.len() / SAMPLE).max(1);
        let asked = (0..self.len()).step_by(step);
        let taken = asked.clone().filter(|&slot| wanted.takes(slot as u32, self.ids[slot])).count();
        taken * self.len() / asked.len()
    }

    /// Looks at every point that may be found.
    fn scan(&self, wanted: &Wanted<'_>, best: &mut TopK<(u32, u128)>) {
        for (slot, &id) in (0u32..).zip(&self.ids) {
            if wanted.takes(slot, id) {
                best.offer((slot, id), distance::dot(wanted.vector, self.vectors.row(slot)));
            }
        }
    }
}
