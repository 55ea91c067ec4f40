use super::*;
use proptest::prelude::*;

/// Numbers between -1 and 1, the same for a seed.
fn values(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

struct Case {
    heads: usize,
    head_dim: usize,
    lengths: Vec<usize>,
    slopes: Option<Vec<f32>>,
    joined: Vec<f32>,
}

impl Case {
    fn new(heads: usize, head_dim: usize, lengths: &[usize], alibi: bool) -> Self {
        let tokens: usize = lengths.iter().sum();
        let joined = values(tokens * 3 * heads * head_dim, 7);
        let slopes = alibi.then(|| (1..=heads).map(|head| 0.5f32.powi(head as i32)).collect());
        Self { heads, head_dim, lengths: lengths.to_vec(), slopes, joined }
    }

    /// The call over tokens `first ..` in sequences of `lengths`.
    fn call<'a>(&'a self, first: usize, lengths: &'a [usize]) -> FullAttention<'a> {
        let width = self.heads * self.head_dim;
        let part = |index: usize| Rows {
            values: self.joined.get(first * 3 * width + index * width..).unwrap_or(&[]),
            stride: 3 * width,
            count: lengths.iter().sum(),
        };
        FullAttention {
            q: part(0),
            k: part(1),
            v: part(2),
            heads: self.heads,
            head_dim: self.head_dim,
            lengths,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            slopes: self.slopes.as_deref(),
        }
    }

    fn run(&self, isa: Isa, first: usize, lengths: &[usize]) -> Vec<f32> {
        let mut out = vec![f32::NAN; lengths.iter().sum::<usize>() * self.heads * self.head_dim];
        self.call(first, lengths).run_on(isa, &mut out).expect("sizes fit");
        out
    }

    /// The formula in f64.
    fn exact(&self) -> Vec<f64> {
        let width = self.heads * self.head_dim;
        let at = |part: usize, token: usize, head: usize, d: usize| {
            f64::from(self.joined[token * 3 * width + part * width + head * self.head_dim + d])
        };
        let mut out = Vec::new();
        let mut first = 0;
        for &len in &self.lengths {
            for (i, head) in (0..len).flat_map(|i| (0..self.heads).map(move |head| (i, head))) {
                let slope = self.slopes.as_ref().map_or(0.0, |slopes| f64::from(slopes[head]));
                let weights: Vec<f64> = (0..len)
                    .map(|j| {
                        let dot: f64 =
                            (0..self.head_dim).map(|d| at(0, first + i, head, d) * at(1, first + j, head, d)).sum();
                        (dot / (self.head_dim as f64).sqrt() - slope * i.abs_diff(j) as f64).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                out.extend(
                    (0..self.head_dim)
                        .map(|d| (0..len).map(|j| weights[j] * at(2, first + j, head, d)).sum::<f64>() / total),
                );
            }
            first += len;
        }
        out
    }
}

#[test]
fn every_isa_gives_the_formula_and_the_same_bits() {
    for (heads, head_dim, lengths, alibi) in [
        (12, 32, &[1usize, 14, 0, 63, 64, 65][..], false),
        (3, 8, &[200], false),
        (2, 64, &[7, 130], true),
        (1, 40, &[5], true),
        (2, 16, &[1100], true),
    ] {
        let case = Case::new(heads, head_dim, lengths, alibi);
        let scalar = case.run(Isa::Scalar, 0, lengths);
        for (i, (got, exact)) in scalar.iter().zip(case.exact()).enumerate() {
            assert!(
                (f64::from(*got) - exact).abs() < 2e-6,
                "value {i} of {heads} x {head_dim}, {lengths:?}: {got} or {exact}"
            );
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            assert!(case.run(isa, 0, lengths) == scalar, "{isa:?} differs: {heads} x {head_dim}, {lengths:?}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let case = Case::new(2, 8, &[3], false);
    let mut out = vec![0.0; 3 * 16];
    let refused = |call: FullAttention<'_>, out: &mut [f32]| call.run(out).expect_err("refused").to_string();
    let good = case.call(0, &[3]);
    assert_eq!(
        refused(FullAttention { lengths: &[2], ..good }, &mut out),
        "tokens of the sequences: expected 3 values, got 2"
    );
    assert_eq!(
        refused(FullAttention { head_dim: 4, ..good }, &mut out),
        "heads of 4 dimensions: a multiple of 8 is wanted"
    );
    assert_eq!(
        refused(FullAttention { slopes: Some(&[1.0]), ..good }, &mut out),
        "slopes of the heads: expected 2 values, got 1"
    );
    assert_eq!(refused(good, &mut out[1..]), "attention output: expected 48 values, got 47");
    let short = Rows { values: &case.joined[..100], ..good.k };
    assert_eq!(refused(FullAttention { k: short, ..good }, &mut out), "keys: expected 48 values, got 100");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_sequence_is_the_same_alone_and_among_others(lengths in prop::collection::vec(0usize..90, 1..6), alibi: bool) {
        let case = Case::new(2, 16, &lengths, alibi);
        let all = case.run(isa(), 0, &lengths);
        let mut first = 0;
        for &len in &lengths {
            let alone = case.run(isa(), first, &[len]);
            prop_assert!(alone == all[first * 32..(first + len) * 32]);
            first += len;
        }
    }
}
