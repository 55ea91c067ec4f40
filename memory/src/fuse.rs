//! One ranking made of several: reciprocal rank fusion.
//!
//! Cormack, Clarke & Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods"
//! (2009). Ranks can be added where cosines and BM25 scores cannot.

use std::collections::HashMap;

use crate::backend::Candidate;
use crate::config::Weights;
use crate::record::RecordId;

/// What each signal found, best first; `None`: it was not asked.
#[derive(Debug, Clone, Default)]
pub struct Rankings {
    /// By cosine.
    pub dense: Option<Vec<Candidate>>,
    /// By BM25.
    pub lexical: Option<Vec<Candidate>>,
    /// By exact match.
    pub literal: Option<Vec<Candidate>>,
}

/// A record in the fused ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused {
    /// The record.
    pub id: RecordId,
    /// 0 to 1; 1: first in every ranking.
    pub score: f32,
    /// Its scores in the rankings that name it.
    pub dense: Option<f32>,
    /// The same.
    pub lexical: Option<f32>,
    /// The same.
    pub literal: Option<f32>,
}

/// Fuses rankings into one, best first, ties by id.
///
/// A ranking that was not asked, or that found nothing at all, is left out of what could be reached: a query without
/// a literal still has hits of score 1. Equal scores within a ranking share the better rank.
pub fn fuse(rankings: &Rankings, weights: &Weights) -> Vec<Fused> {
    let mut fused: HashMap<RecordId, Fused> = HashMap::new();
    let mut reachable = 0.0;
    type Place = fn(&mut Fused) -> &mut Option<f32>;
    let signals: [(_, _, Place); 3] = [
        (&rankings.dense, weights.dense, |hit| &mut hit.dense),
        (&rankings.lexical, weights.lexical, |hit| &mut hit.lexical),
        (&rankings.literal, weights.literal, |hit| &mut hit.literal),
    ];
    for (ranking, weight, place) in signals {
        let Some(first) = ranking.as_ref().and_then(|ranking| ranking.first()) else { continue };
        reachable += weight / (weights.rrf_k + 1.0);
        let (mut rank, mut last) = (1, first.score);
        for (i, candidate) in ranking.iter().flatten().enumerate() {
            if candidate.score < last {
                (rank, last) = (i + 1, candidate.score);
            }
            let empty = Fused { id: candidate.id, score: 0.0, dense: None, lexical: None, literal: None };
            let hit = fused.entry(candidate.id).or_insert(empty);
            hit.score += weight / (weights.rrf_k + rank as f32);
            *place(hit) = Some(candidate.score);
        }
    }
    let mut fused: Vec<Fused> = fused.into_values().collect();
    if reachable > 0.0 {
        fused.iter_mut().for_each(|hit| hit.score = (hit.score / reachable).min(1.0));
    }
    fused.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    fused
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranking(ids: &[(u128, f32)]) -> Option<Vec<Candidate>> {
        Some(ids.iter().map(|&(id, score)| Candidate { id: RecordId(id), score }).collect())
    }

    #[test]
    fn ranks_are_added() {
        let weights = Weights { rrf_k: 9.0, dense: 1.0, lexical: 1.0, literal: 2.0, ..Weights::default() };
        let check = |rankings: Rankings, expected: &[(u128, f32)]| {
            let fused = fuse(&rankings, &weights);
            assert_eq!(fused.len(), expected.len());
            for (hit, (id, score)) in fused.iter().zip(expected) {
                assert!(hit.id.0 == *id && (hit.score - score).abs() < 1e-4, "{hit:?} for {id} {score}");
            }
        };
        let none = Rankings::default;
        check(none(), &[]);
        check(Rankings { dense: ranking(&[(1, 0.9), (2, 0.8)]), ..none() }, &[(1, 1.0), (2, 10.0 / 11.0)]);
        check(Rankings { dense: ranking(&[(1, 0.9)]), literal: ranking(&[]), ..none() }, &[(1, 1.0)]);
        check(
            Rankings { dense: ranking(&[(1, 0.9), (2, 0.8)]), lexical: ranking(&[(2, 7.0), (3, 6.0)]), ..none() },
            &[(2, (0.1 + 1.0 / 11.0) / 0.2), (1, 0.5), (3, 0.5 * 10.0 / 11.0)],
        );
        check(
            Rankings { lexical: ranking(&[(1, 5.0), (2, 4.0)]), literal: ranking(&[(2, 1.0)]), ..none() },
            &[(2, (1.0 / 11.0 + 0.2) / 0.3), (1, 0.1 / 0.3)],
        );
        check(Rankings { literal: ranking(&[(4, 0.5), (5, 0.5)]), ..none() }, &[(4, 1.0), (5, 1.0)]);
    }

    proptest! {
        #[test]
        fn scores_are_shares_and_fall(
            dense in prop::collection::hash_set(0..40u128, 0..20), lexical in prop::collection::hash_set(0..40u128, 0..20)
        ) {
            let of = |ids: &std::collections::HashSet<u128>| {
                ids.iter().enumerate().map(|(i, &id)| (id, 1.0 - i as f32 / 100.0)).collect::<Vec<_>>()
            };
            let rankings = Rankings { dense: ranking(&of(&dense)), lexical: ranking(&of(&lexical)), literal: None };
            let fused = fuse(&rankings, &Weights::default());
            prop_assert_eq!(fused.len(), dense.union(&lexical).count());
            prop_assert!(fused.windows(2).all(|pair| pair[0].score >= pair[1].score));
            prop_assert!(fused.iter().all(|hit| hit.score > 0.0 && hit.score <= 1.0));
        }
    }
}
