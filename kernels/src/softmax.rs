//! Exponential and softmax over slices.

use crate::dispatch::isa;
use crate::lanes::{LANES, Lanes, lanes_entry};

/// `x = e^x`, in place.
///
/// Relative error below 1.2e-7 on [-87.33, 88.37]; 0 below (subnormal results are flushed), infinity above, NaN of NaN.
pub fn exp_in_place(x: &mut [f32]) {
    run_exp(isa(), x);
}

/// Softmax of one row, in place: `x_i = e^(x_i - max) / sum`.
///
/// -inf counts as masked; a row with nothing but -inf becomes zeros. The sum runs in eight lanes, one order for a length.
pub fn softmax_in_place(x: &mut [f32]) {
    run_softmax(isa(), x);
}

lanes_entry! { fn run_exp / run_exp_avx2 / run_exp_avx512(x: &mut [f32]) = exp_lanes }
lanes_entry! { fn run_softmax / run_softmax_avx2 / run_softmax_avx512(x: &mut [f32]) = softmax_lanes }

#[inline(always)]
fn exp_lanes<L: Lanes>(x: &mut [f32]) {
    for at in (0..x.len()).step_by(LANES) {
        L::load_at(x, at).exp().store_at(x, at);
    }
}

#[inline(always)]
pub(crate) fn softmax_lanes<L: Lanes>(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        x.fill(0.0);
        return;
    }
    let max = L::splat(max);
    let mut sum = L::zero();
    for at in (0..x.len()).step_by(LANES) {
        let p = L::load_at(x, at).sub(max).exp();
        p.store_at(x, at);
        // Loaded again, so that lanes past the end are zero.
        sum = sum.add(L::load_at(x, at));
    }
    let scale = L::splat(1.0 / sum.sum());
    for at in (0..x.len()).step_by(LANES) {
        L::load_at(x, at).mul(scale).store_at(x, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sum_to_one_and_masked_values_are_zero() {
        for len in [1, 2, 7, 8, 9, 64, 100] {
            let mut x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
            if len > 2 {
                x[1] = f32::NEG_INFINITY;
            }
            let exact: Vec<f64> = x.iter().map(|&v| f64::from(v).exp()).collect();
            let total: f64 = exact.iter().sum();
            softmax_in_place(&mut x);
            for (i, (got, e)) in x.iter().zip(&exact).enumerate() {
                assert!((f64::from(*got) - e / total).abs() < 2e-7, "{i} of {len}: {got}");
            }
        }
        let mut masked = vec![f32::NEG_INFINITY; 11];
        softmax_in_place(&mut masked);
        assert_eq!(masked, vec![0.0; 11]);
        softmax_in_place(&mut []);
    }

    #[test]
    fn exp_of_a_slice_leaves_no_value_out() {
        let mut x: Vec<f32> = (0..21).map(|i| i as f32 - 10.0).collect();
        exp_in_place(&mut x);
        for (i, got) in x.iter().enumerate() {
            let exact = (i as f64 - 10.0).exp();
            assert!((f64::from(*got) / exact - 1.0).abs() < 1.2e-7);
        }
    }
}
