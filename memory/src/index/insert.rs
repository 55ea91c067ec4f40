//! Insertion into the base layer: find the nearest, pick neighbours that lie apart, link back (algorithms 1 and 4 of
//! HNSW's paper, <https://arxiv.org/abs/1603.09320>). Many threads insert at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use engram_kernels::distance::{CodeQuery, CodeRows};

use super::hubs::Hubs;
use super::links::Links;
use super::params::IndexParams;
use super::walk::Walk;

/// Locks that writers of neighbour lists share; many enough that two threads seldom want one.
const LOCKS: usize = 1024;
/// Points that a thread takes at a time.
const TAKE: usize = 32;

/// A base layer that is being built.
pub(super) struct Insertion<'a> {
    links: &'a Links,
    codes: &'a CodeRows,
    hubs: &'a Hubs,
    params: IndexParams,
    /// One writer at a list. Not readers: they see lists whose entries are atomic.
    locks: Vec<Mutex<()>>,
}

/// What a thread that picks neighbours writes on.
#[derive(Default)]
struct Desk {
    candidates: Vec<(u32, f32)>,
    crowded: Vec<(u32, f32)>,
    picked: Vec<u32>,
    back: Vec<u32>,
    scores: Vec<f32>,
    query: CodeQuery,
    owner: CodeQuery,
}

impl<'a> Insertion<'a> {
    pub(super) fn new(links: &'a Links, codes: &'a CodeRows, hubs: &'a Hubs, params: IndexParams) -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Self { links, codes, hubs, params, locks }
    }

    /// Links the hubs among themselves as `hnsw_rs` found them, neighbours that lie apart and both ways.
    pub(super) fn seed(&self) {
        let mut desk = Desk::default();
        for (point, neighbours) in self.hubs.seeds() {
            desk.query.set_to_row(self.codes, point);
            desk.scores.resize(neighbours.len(), 0.0);
            self.codes.scores(&desk.query, &neighbours, &mut desk.scores);
            desk.candidates.clear();
            desk.candidates.extend(neighbours.into_iter().zip(desk.scores.iter().copied()));
            desk.candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
            self.connect(point, &mut desk);
        }
    }

    /// Inserts points, which are not in the graph yet, on all threads.
    pub(super) fn run(&self, points: &[u32]) {
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut walk, mut desk) = (Walk::default(), Desk::default());
            loop {
                let from = next.fetch_add(TAKE, Ordering::Relaxed);
                let Some(some) = points.get(from..points.len().min(from + TAKE)).filter(|some| !some.is_empty()) else {
                    return;
                };
                some.iter().for_each(|&point| self.insert(point, &mut walk, &mut desk));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.params.build_threads.min(points.len().div_ceil(TAKE)) {
                // A thread that cannot be had is one fewer: the others take its points.
                let _ = std::thread::Builder::new().name("engram-index".into()).spawn_scoped(scope, work);
            }
            work();
        });
    }

    fn insert(&self, point: u32, walk: &mut Walk, desk: &mut Desk) {
        walk.query.set_to_row(self.codes, point);
        let Some(start) = self.hubs.descend(walk) else { return };
        walk.run(self.links, self.codes, start, self.params.ef_construction);
        desk.candidates.clear();
        desk.candidates.extend(walk.beam.iter().filter(|&(other, _)| other != point));
        self.connect(point, desk);
    }

    /// Links `point` with some of the candidates, nearest first, both ways.
    fn connect(&self, point: u32, desk: &mut Desk) {
        let Desk { candidates, picked, scores, query, .. } = &mut *desk;
        self.pick(candidates, self.params.m, picked, query, scores);
        {
            let _one_writer = self.lock(point);
            // Others may have linked to it meanwhile: those stay as far as there is room.
            desk.back.clear();
            desk.back.extend(self.links.of(point).filter(|other| !desk.picked.contains(other)));
            self.links.set(point, desk.picked.iter().chain(&desk.back).copied());
        }
        for at in 0..desk.picked.len() {
            self.link_back(desk.picked[at], point, desk);
        }
    }

    /// Adds `new` to the list of `owner`; a full list keeps those that lie apart.
    fn link_back(&self, owner: u32, new: u32, desk: &mut Desk) {
        let _one_writer = self.lock(owner);
        if self.links.of(owner).any(|other| other == new) || self.links.push(owner, new) {
            return;
        }
        let Desk { crowded, back, scores, query, owner: centre, .. } = desk;
        back.clear();
        back.extend(self.links.of(owner).chain([new]));
        centre.set_to_row(self.codes, owner);
        scores.resize(back.len(), 0.0);
        self.codes.scores(centre, back, scores);
        crowded.clear();
        crowded.extend(back.iter().copied().zip(scores.iter().copied()));
        crowded.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        self.pick(crowded, self.links.stride(), back, query, scores);
        self.links.set(owner, back.iter().copied());
    }

    /// Of candidates, nearest first, those that are nearer to the centre than to any picked before: edges in all
    /// directions instead of many into the next cluster.
    fn pick(
        &self,
        candidates: &[(u32, f32)],
        most: usize,
        picked: &mut Vec<u32>,
        query: &mut CodeQuery,
        scores: &mut Vec<f32>,
    ) {
        /// Picked ones that are compared before it is asked whether that is enough.
        const AT_ONCE: usize = 8;
        picked.clear();
        scores.resize(scores.len().max(AT_ONCE), 0.0);
        for &(candidate, score) in candidates {
            if picked.len() == most {
                return;
            }
            if !picked.is_empty() {
                query.set_to_row(self.codes, candidate);
            }
            let nearer_to_picked = picked.chunks(AT_ONCE).any(|some| {
                self.codes.scores(query, some, scores);
                scores[..some.len()].iter().any(|&other| other > score)
            });
            if !nearer_to_picked {
                picked.push(candidate);
            }
        }
    }

    fn lock(&self, point: u32) -> std::sync::MutexGuard<'_, ()> {
        self.locks[point as usize % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
