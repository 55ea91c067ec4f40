use proptest::prelude::*;

use super::*;
use crate::dispatch::Isa;

fn values(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

proptest! {
    #[test]
    fn every_instruction_set_scores_as_scalar_does(dim in 1usize..400, count in 1usize..80, seed: u32, peaks: bool) {
        let mut rows = CodeRows::new(dim);
        for row in 0..count as u32 {
            let mut row = values(dim, seed ^ row.wrapping_mul(77));
            // Codes at both ends are where a kernel that saturates would show.
            if peaks { row.iter_mut().for_each(|value| *value = value.signum()); }
            rows.push(&row);
        }
        let vector = values(dim, seed.wrapping_add(1));
        let mut query = CodeQuery::new();
        query.set(&vector);
        let ids: Vec<u32> = (0..count as u32).rev().chain([0, 0]).collect();
        let score = |isa| {
            let mut scores = vec![0.0; ids.len()];
            rows.scores_by(isa, &query, &ids, &mut scores);
            scores
        };
        let scalar = score(Isa::Scalar);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let bits = |scores: &[f32]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&score(isa)), bits(&scalar), "{}", isa.name());
        }
        // A code is off by half a step at most, so a product by half a step times the other side's values.
        for (&id, &score) in ids.iter().zip(&scalar) {
            let mut row = values(dim, seed ^ id.wrapping_mul(77));
            if peaks { row.iter_mut().for_each(|value| *value = value.signum()); }
            let exact: f64 = row.iter().zip(&vector).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let bound = dim as f64 * 2.0 * (0.5 / 127.0) + 1e-3;
            prop_assert!((exact - f64::from(score)).abs() <= bound, "{exact} {score}");
        }
    }

    #[test]
    fn a_row_as_query_scores_as_its_own_vector(dim in 1usize..200, seed: u32) {
        let (a, b) = (values(dim, seed), values(dim, !seed));
        let mut rows = CodeRows::with_capacity(dim, 3);
        rows.push(&a);
        rows.push(&b);
        let copy = rows.clone();
        rows.push_row(&copy, 0);
        let (mut of_row, mut of_vector) = (CodeQuery::new(), CodeQuery::new());
        of_row.set_to_row(&rows, 0);
        of_vector.set(&a);
        let score = |query: &CodeQuery| {
            let mut scores = [0.0; 3];
            rows.scores(query, &[0, 1, 2], &mut scores);
            scores
        };
        prop_assert_eq!(score(&of_row), score(&of_vector));
        prop_assert_eq!(score(&of_row)[0], score(&of_row)[2]);
    }

    #[test]
    fn dots_agree_bit_for_bit_and_are_near_the_exact_one(len in 0usize..300, seed: u32) {
        let (a, b) = (values(len, seed), values(len, !seed));
        let scalar = run_dot(Isa::Scalar, &a, &b);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            prop_assert_eq!(run_dot(isa, &a, &b).to_bits(), scalar.to_bits(), "{}", isa.name());
        }
        let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        prop_assert!((exact - f64::from(scalar)).abs() < 1e-4, "{exact} {scalar}");
    }
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_row_that_is_not_there_is_refused() {
    let mut rows = CodeRows::new(8);
    rows.push(&[1.0; 8]);
    let mut query = CodeQuery::new();
    query.set(&[1.0; 8]);
    rows.scores(&query, &[1], &mut [0.0]);
}
