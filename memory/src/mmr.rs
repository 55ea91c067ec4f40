//! An order in which near-copies do not crowd the top: maximal marginal relevance.
//!
//! Carbonell & Goldstein, "The use of MMR, diversity-based reranking" (1998). Likeness counts here only from a cosine
//! on at which two texts are copies rather than of one subject: two functions of one file are both wanted.

use crate::config::Weights;

/// Inner product of two vectors of one length; their cosine where both have length 1.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums at a time, so that the compiler may use wide registers.
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Chooses `k` of `hits`, a score (higher is better) and a vector each.
///
/// Returns their places in the order in which they were chosen; the first is the one of the highest score. Where no two
/// are near, it is the order of the scores.
pub fn diverse(hits: &[(f32, &[f32])], k: usize, weights: &Weights) -> Vec<usize> {
    let lambda = weights.mmr_lambda;
    // likeness[i]: the greatest to a hit already chosen, 0 below `mmr_from`, 1 for a copy.
    let mut likeness = vec![0f32; hits.len()];
    let mut open: Vec<usize> = (0..hits.len()).collect();
    let mut chosen = Vec::with_capacity(k.min(hits.len()));
    while chosen.len() < k && !open.is_empty() {
        let value = |i: usize| lambda * hits[i].0 - (1.0 - lambda) * likeness[i];
        let best = (1..open.len()).fold(0, |best, at| if value(open[at]) > value(open[best]) { at } else { best });
        let next = open.remove(best);
        chosen.push(next);
        for &i in &open {
            let above = (dot(hits[i].1, hits[next].1) - weights.mmr_from) / (1.0 - weights.mmr_from);
            likeness[i] = likeness[i].max(above.clamp(0.0, 1.0));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_step_back_and_others_keep_their_order() {
        let weights = Weights { mmr_lambda: 0.8, mmr_from: 0.9, ..Weights::default() };
        let (a, near_a, b, c) = ([1.0, 0.0], [0.995, 0.0999], [0.0, 1.0], [0.6, 0.8]);
        let check = |hits: &[(f32, &[f32])], k, expected: &[usize]| assert_eq!(diverse(hits, k, &weights), expected);
        check(&[(0.9, &a), (0.8, &b), (0.7, &c)], 3, &[0, 1, 2]);
        check(&[(0.9, &a), (0.89, &near_a), (0.8, &b), (0.7, &c)], 3, &[0, 2, 3]);
        check(&[(0.9, &a), (0.89, &near_a), (0.2, &b)], 3, &[0, 1, 2]);
        check(&[(0.9, &a), (0.9, &a), (0.89, &b)], 2, &[0, 2]);
        check(&[(0.9, &a)], 0, &[]);
        check(&[], 4, &[]);
    }

    #[test]
    fn the_inner_product_of_any_length() {
        for len in [0usize, 1, 7, 8, 9, 31, 384] {
            let a: Vec<f32> = (0..len).map(|i| i as f32 * 0.5 - 3.0).collect();
            let b: Vec<f32> = (0..len).map(|i| 2.0 - i as f32 * 0.25).collect();
            let plain: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot(&a, &b)) - plain).abs() <= plain.abs() * 1e-5 + 1e-5, "{len}");
        }
    }
}
