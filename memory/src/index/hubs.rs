//! Everything above the base layer: a share of the points, and the graph that `hnsw_rs` builds over them.
//!
//! One point in `m` is a hub, drawn by its number. `hnsw_rs` links the hubs in layers of its own, with our
//! distance under it; its graph is read through the iterators over its points into flat lists, hubs of the highest layers first,
//! so that the hubs of a layer are the first so many. A copy of their codes stands beside: the way down touches a
//! sixteenth of the memory.

use engram_kernels::distance::{self, CodeRows};
use hnsw_rs::prelude::{Distance, Hnsw};

use super::links::Links;
use super::walk::Walk;

/// Layers at most: `hnsw_rs` has 16.
const MAX_LAYERS: usize = 16;

/// `1 - a · b` of vectors of length 1, never below 0, as `hnsw_rs` asks for.
struct OneMinusDot;

impl Distance<f32> for OneMinusDot {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        (1.0 - distance::dot(a, b)).max(0.0)
    }
}

/// The layers above the base.
#[derive(Debug, Default, Clone)]
pub(super) struct Hubs {
    /// Point of each hub, those of the highest layer first.
    pub(super) points: Vec<u32>,
    codes: CodeRows,
    /// Lists of the hubs of a layer, which are the first so many; layer 0 has all.
    pub(super) layers: Vec<Links>,
}

impl Hubs {
    /// Whether a point is a hub: one in `m` is, spread over the numbers.
    pub(super) fn is_drawn(point: u32, m: usize) -> bool {
        // A multiplicative hash: hubs of a file that comes back every so many points are not all or none of it.
        (u64::from(point.wrapping_mul(0x9e37_79b1)) * m as u64) >> 32 == 0
    }

    /// Links `points`; `vector_of` gives the vector of one, length 1 and finite.
    pub(super) fn build<'a>(
        points: &[u32],
        vector_of: impl Fn(u32) -> &'a [f32],
        m: usize,
        ef_construction: usize,
        dim: usize,
    ) -> Self {
        let graph = Hnsw::<f32, _>::new(m, points.len(), MAX_LAYERS, ef_construction, OneMinusDot);
        let vectors: Vec<_> = points.iter().enumerate().map(|(i, &point)| (vector_of(point), i)).collect();
        // The first alone: two first points at once would not know of each other.
        if let Some(&first) = vectors.first() {
            graph.insert_slice(first);
        }
        graph.parallel_insert_slice(&vectors.get(1..).unwrap_or_default().to_vec());
        let mut hubs = Self::flatten(&graph, points, m);
        hubs.codes = CodeRows::with_capacity(dim, points.len());
        hubs.points.iter().for_each(|&point| hubs.codes.push(vector_of(point)));
        hubs
    }

    /// Reads the graph: hubs in the order of their layer, the highest first, then each layer's lists.
    fn flatten(graph: &Hnsw<'_, f32, OneMinusDot>, points: &[u32], m: usize) -> Self {
        let indexed = graph.get_point_indexation();
        let top = usize::from(graph.get_max_level_observed());
        let ordered: Vec<_> = (0..=top).rev().flat_map(|layer| indexed.get_layer_iterator(layer)).collect();
        let mut hub_of = vec![0; points.len()];
        for (hub, point) in (0u32..).zip(&ordered) {
            hub_of[point.get_origin_id()] = hub;
        }
        let layers = (0..=top).map(|layer| {
            let members = ordered.iter().take_while(|point| usize::from(point.get_point_id().0) >= layer).count();
            Links::new(members, if layer == 0 { 2 * m } else { m })
        });
        let layers: Vec<_> = layers.collect();
        for (hub, point) in (0u32..).zip(&ordered) {
            for (links, neighbours) in layers.iter().zip(point.get_neighborhood_id()) {
                if (hub as usize) < links.points() {
                    // `hnsw_rs` also notes neighbours of layers that a point is not in.
                    let neighbours = neighbours.iter().map(|neighbour| hub_of[neighbour.d_id]);
                    links.set(hub, neighbours.filter(|&other| other != hub && (other as usize) < links.points()));
                }
            }
        }
        let points = ordered.iter().map(|point| points[point.get_origin_id()]).collect();
        Self { points, codes: CodeRows::default(), layers }
    }

    /// From what was saved; `vector_of` as in [`Hubs::build`].
    pub(super) fn restore<'a>(
        points: Vec<u32>,
        layers: Vec<Links>,
        vector_of: impl Fn(u32) -> &'a [f32],
        dim: usize,
    ) -> Self {
        let mut codes = CodeRows::with_capacity(dim, points.len());
        points.iter().for_each(|&point| codes.push(vector_of(point)));
        Self { points, codes, layers }
    }

    /// The point of a hub near the walk's query: where the base layer is entered. `None` without hubs.
    pub(super) fn descend(&self, walk: &mut Walk) -> Option<u32> {
        if self.points.is_empty() {
            return None;
        }
        let hub = self.layers.iter().rev().fold(0, |at, links| walk.greedy(links, &self.codes, at));
        Some(self.points[hub as usize])
    }

    /// Each hub with its neighbours of layer 0, as points: what the base layer begins with.
    pub(super) fn seeds(&self) -> impl Iterator<Item = (u32, Vec<u32>)> + '_ {
        (0u32..).zip(&self.points).map(|(hub, &point)| {
            let neighbours = self.layers[0].of(hub).map(|other| self.points[other as usize]);
            (point, neighbours.collect())
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.points.capacity() * 4 + self.codes.bytes() + self.layers.iter().map(Links::bytes).sum::<usize>()
    }
}
