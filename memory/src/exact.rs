//! The nearest by looking at every vector: small sets, few that pass a filter, and the truth in tests.

/// The `k` best of what it is offered, best first; equal scores keep the order they came in.
#[derive(Debug, Clone)]
pub struct TopK<T> {
    best: Vec<(T, f32)>,
    k: usize,
}

impl<T> TopK<T> {
    /// None yet, `k` at most.
    pub fn new(k: usize) -> Self {
        Self { best: Vec::with_capacity(k.min(1024)), k }
    }

    /// Offers one.
    #[inline]
    pub fn offer(&mut self, item: T, score: f32) {
        if score > self.bound() {
            let at = self.best.partition_point(|&(_, other)| other >= score);
            if self.best.len() == self.k {
                self.best.pop();
            }
            self.best.insert(at, (item, score));
        }
    }

    /// What a score must be above to be among them.
    #[inline]
    pub fn bound(&self) -> f32 {
        match self.best.last() {
            _ if self.k == 0 => f32::INFINITY,
            Some(&(_, worst)) if self.best.len() == self.k => worst,
            _ => f32::NEG_INFINITY,
        }
    }

    /// Best first.
    pub fn into_vec(self) -> Vec<(T, f32)> {
        self.best
    }
}

/// The `k` rows nearest to `query` by inner product, best first.
///
/// rows: `[n]` of a name and a vector `[dim]`, of which the shorter counts where lengths differ.
pub fn nearest<'a, T>(query: &[f32], rows: impl IntoIterator<Item = (T, &'a [f32])>, k: usize) -> Vec<(T, f32)> {
    let mut best = TopK::new(k);
    for (name, row) in rows {
        best.offer(name, engram_kernels::distance::dot(query, row));
    }
    best.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_k_of_a_sort(scores in prop::collection::vec(-50i8..50, 0..60), k in 0usize..20) {
            let mut best = TopK::new(k);
            scores.iter().enumerate().for_each(|(i, &score)| best.offer(i, f32::from(score)));
            let mut sorted: Vec<_> = scores.iter().map(|&score| f32::from(score)).enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(k);
            prop_assert_eq!(best.into_vec(), sorted);
        }
    }

    #[test]
    fn nearest_is_by_inner_product() {
        let rows = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]];
        let named = rows.iter().enumerate().map(|(i, row)| (i, row.as_slice()));
        assert_eq!(nearest(&[1.0, 0.0], named, 2), [(0, 1.0), (1, 0.6)]);
    }
}
