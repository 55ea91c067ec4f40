//! Nearest vectors by looking at every one: for small sets, for narrow filters, and the truth that other ways are
//! measured against.

use std::collections::HashMap;

use crate::backend::Candidate;
use crate::record::RecordId;

/// Partial sums that are kept apart, so that the compiler can put them into one wide register.
const LANES: usize = 16;

/// Vectors in rows, `[rows, dim]`.
#[derive(Debug, Clone)]
pub struct ExactIndex {
    dim: usize,
    ids: Vec<RecordId>,
    rows: Vec<f32>,
    by_id: HashMap<RecordId, usize>,
}

impl ExactIndex {
    /// An empty set of vectors of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self { dim, ids: Vec::new(), rows: Vec::new(), by_id: HashMap::new() }
    }

    /// Puts a vector in, in place of the one of that id. `vector` is `[dim]`; one of another length is not taken, and
    /// the answer is false.
    pub fn insert(&mut self, id: RecordId, vector: &[f32]) -> bool {
        if vector.len() != self.dim {
            return false;
        }
        match self.by_id.get(&id) {
            Some(&row) => self.rows[row * self.dim..(row + 1) * self.dim].copy_from_slice(vector),
            None => {
                self.by_id.insert(id, self.ids.len());
                self.ids.push(id);
                self.rows.extend_from_slice(vector);
            }
        }
        true
    }

    /// Takes a vector out; the last row moves into its place. Whether it was there.
    pub fn remove(&mut self, id: RecordId) -> bool {
        let Some(row) = self.by_id.remove(&id) else { return false };
        let last = self.ids.len() - 1;
        self.ids.swap_remove(row);
        self.rows.copy_within(last * self.dim.., row * self.dim);
        self.rows.truncate(last * self.dim);
        if row < last {
            self.by_id.insert(self.ids[row], row);
        }
        true
    }

    /// The `k` of largest inner product with `query` among those that `accept` takes, best first, ties by id.
    pub fn search(&self, query: &[f32], k: usize, accept: &dyn Fn(RecordId) -> bool) -> Vec<Candidate> {
        if query.len() != self.dim || k == 0 {
            return Vec::new();
        }
        let rows = self.ids.iter().zip(self.rows.chunks_exact(self.dim.max(1)));
        let accepted = rows.filter(|(id, _)| accept(**id));
        best(accepted.map(|(&id, row)| Candidate { id, score: dot(query, row) }), k)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        self.rows.capacity() * 4 + self.ids.capacity() * 16 + self.by_id.capacity() * 25
    }
}

/// The `k` best of `candidates`, best first, ties by id.
pub fn best(candidates: impl Iterator<Item = Candidate>, k: usize) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id));
    let mut kept: Vec<Candidate> = Vec::new();
    let mut bar = f32::NEG_INFINITY;
    for candidate in candidates {
        if candidate.score < bar {
            continue;
        }
        kept.push(candidate);
        // Cutting at twice `k` makes the selection linear in the number of candidates.
        if k > 0 && kept.len() >= 2 * k {
            kept.select_nth_unstable_by(k - 1, order);
            kept.truncate(k);
            bar = kept.iter().map(|candidate| candidate.score).min_by(f32::total_cmp).unwrap_or(bar);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(k);
    kept
}

/// Inner product, summed in [`LANES`] parts.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0_f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_finds_what_sorting_all_finds(
            writes in proptest::collection::vec((0..30_u128, proptest::array::uniform3(-4..4_i8), proptest::bool::ANY), 0..80),
            query in proptest::array::uniform3(-4..4_i8), k in 0..12_usize,
        ) {
            let floats = |v: [i8; 3]| v.map(f32::from);
            let (mut index, mut truth) = (ExactIndex::new(3), HashMap::new());
            for (id, vector, keep) in writes {
                if keep {
                    index.insert(RecordId(id), &floats(vector));
                    truth.insert(id, floats(vector));
                } else {
                    proptest::prop_assert_eq!(index.remove(RecordId(id)), truth.remove(&id).is_some());
                }
            }
            let query = floats(query);
            let mut expected: Vec<(f32, u128)> = truth.iter().filter(|(id, _)| *id % 2 == 0)
                .map(|(&id, v)| (v.iter().zip(&query).map(|(a, b)| a * b).sum(), id)).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            expected.truncate(k);
            let found = index.search(&query, k, &|id| id.0 % 2 == 0);
            proptest::prop_assert_eq!(found.iter().map(|hit| (hit.score, hit.id.0)).collect::<Vec<_>>(), expected);
            proptest::prop_assert_eq!(index.len(), truth.len());
        }
    }
}
