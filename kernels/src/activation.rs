//! SwiGLU (<https://arxiv.org/abs/2002.05202>) and both forms of GELU (<https://arxiv.org/abs/1606.08415>).

use crate::disjoint::{Disjoint, over_rows};
use crate::dispatch::{Isa, isa};
use crate::error::KernelError;
use crate::lanes::{LANES, Lanes, lanes_entry};
use crate::norm::same_length;

/// Values of a task: a row is cut in such parts, so that one token still fills several threads.
const PART: usize = 1024;
/// Time of an exponential and a division against that of moving a value.
const COST: usize = 4;

/// `out = silu(gate) * up`, where `silu(x) = x / (1 + e^-x)` and a row of `gate_up` is gate, then up.
///
/// gate_up `[rows, 2 * ffn]`; out `[rows, ffn]`. Errors: [`KernelError::Length`].
pub fn silu_mul(gate_up: &[f32], ffn: usize, out: &mut [f32]) -> Result<(), KernelError> {
    same_length("gate and up", 2 * out.len(), gate_up.len())?;
    if out.is_empty() {
        return Ok(());
    }
    if ffn == 0 || !out.len().is_multiple_of(ffn) {
        let expected = out.len().checked_div(ffn).unwrap_or(0) * ffn;
        return same_length("output of gate and up", expected, out.len());
    }
    let parts = ffn.div_ceil(PART);
    let rows = out.len() / ffn;
    let out = Disjoint::new(out);
    over_rows(rows * parts, PART.min(ffn) * COST, &|run| {
        for index in run {
            let (row, start) = (index / parts, index % parts * PART);
            let end = (start + PART).min(ffn);
            let (gate, up) = gate_up[row * 2 * ffn..][..2 * ffn].split_at(ffn);
            // SAFETY: each index is its own part of its own row.
            let out = unsafe { out.part(row * ffn + start..row * ffn + end) };
            run_silu_mul(isa(), &gate[start..end], &up[start..end], out);
        }
    });
    Ok(())
}

/// `out = x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`.
///
/// x, out of any one length. Errors: [`KernelError::Length`].
pub fn gelu_tanh(x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    in_parts(x, out, run_gelu)
}

/// `out = x * (1 + erf(x / sqrt(2))) / 2`, the error of erf below 2e-7.
///
/// x, out of any one length. Errors: [`KernelError::Length`].
pub fn gelu_erf(x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    in_parts(x, out, run_gelu_erf)
}

fn in_parts(x: &[f32], out: &mut [f32], run_part: fn(Isa, &[f32], &mut [f32])) -> Result<(), KernelError> {
    same_length("output of gelu", x.len(), out.len())?;
    let len = x.len();
    let out = Disjoint::new(out);
    over_rows(len.div_ceil(PART), PART * COST, &|run| {
        let values = run.start * PART..(run.end * PART).min(len);
        // SAFETY: runs of parts do not overlap.
        let out = unsafe { out.part(values.clone()) };
        run_part(isa(), &x[values], out);
    });
    Ok(())
}

lanes_entry! { fn run_silu_mul / run_silu_mul_avx2 / run_silu_mul_avx512(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_mul_lanes }
lanes_entry! { fn run_gelu / run_gelu_avx2 / run_gelu_avx512(x: &[f32], out: &mut [f32]) = gelu_lanes }
lanes_entry! { fn run_gelu_erf / run_gelu_erf_avx2 / run_gelu_erf_avx512(x: &[f32], out: &mut [f32]) = gelu_erf_lanes }

#[inline(always)]
pub(crate) fn silu_mul_lanes<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        let gate = L::load_at(gate, at);
        let silu = gate.mul(gate.sigmoid());
        silu.mul(L::load_at(up, at)).store_at(out, at);
    }
}

#[inline(always)]
fn gelu_lanes<L: Lanes>(x: &[f32], out: &mut [f32]) {
    // (1 + tanh(u)) / 2 = sigmoid(2 u)
    let twice_root = L::splat(2.0 * 0.797_884_6);
    for at in (0..out.len()).step_by(LANES) {
        let x = L::load_at(x, at);
        let cubic = x.mul(x).mul_add(L::splat(0.044_715), L::splat(1.0));
        let twice_u = x.mul(cubic).mul(twice_root);
        x.mul(twice_u.sigmoid()).store_at(out, at);
    }
}

#[inline(always)]
fn gelu_erf_lanes<L: Lanes>(x: &[f32], out: &mut [f32]) {
    let (zero, one) = (L::zero(), L::splat(1.0));
    for at in (0..out.len()).step_by(LANES) {
        let x = L::load_at(x, at);
        let size = zero.sub(x).max(x);
        let z = size.mul(L::splat(std::f32::consts::FRAC_1_SQRT_2));
        // Abramowitz and Stegun 7.1.26: 1 - erf(z) for z >= 0.
        let t = one.div(z.mul_add(L::splat(0.327_591_1), one));
        let p = L::splat(1.061_405_4);
        let p = p.mul_add(t, L::splat(-1.453_152_1));
        let p = p.mul_add(t, L::splat(1.421_413_8));
        let p = p.mul_add(t, L::splat(-0.284_496_72));
        let p = p.mul_add(t, L::splat(0.254_829_6));
        let rest = p.mul(t).mul(zero.sub(z.mul(z)).exp()).mul(L::splat(0.5));
        let share = x.if_less(zero, rest, one.sub(rest));
        x.mul(share).store_at(out, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_isa_gives_the_formula() {
        for len in [1, 7, 8, 1023, 1025, 5000] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 12.0).collect();
            let up: Vec<f32> = (0..len).map(|i| (i as f32 * 0.73).cos()).collect();
            let gate_up = [&x[..], &up[..]].concat();
            let (mut silu, mut gelu, mut exact) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
            silu_mul(&gate_up, len, &mut silu).unwrap();
            gelu_tanh(&x, &mut gelu).unwrap();
            gelu_erf(&x, &mut exact).unwrap();
            for i in 0..len {
                let (v, u) = (f64::from(x[i]), f64::from(up[i]));
                let expected = v / (1.0 + (-v).exp()) * u;
                assert!((f64::from(silu[i]) - expected).abs() < 1e-5, "silu {v}");
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3));
                let expected = v * (1.0 + inner.tanh()) / 2.0;
                assert!((f64::from(gelu[i]) - expected).abs() < 2e-6, "gelu {v}");
                let expected = v * (1.0 + candle_core::cpu::erf::erf_f64(v * std::f64::consts::FRAC_1_SQRT_2)) / 2.0;
                assert!((f64::from(exact[i]) - expected).abs() < 2e-6, "exact gelu {v}: {} or {expected}", exact[i]);
            }
            let (mut a, mut b) = (vec![0.0; len], vec![0.0; len]);
            run_silu_mul(Isa::Scalar, &x, &up, &mut a);
            run_gelu(Isa::Scalar, &x, &mut b);
            assert!(a == silu && b == gelu, "scalar differs at length {len}");
            run_gelu_erf(Isa::Scalar, &x, &mut b);
            assert!(b == exact, "scalar differs at length {len}");
        }
    }

    #[test]
    fn extreme_values_stay_finite() {
        let x = [1e30, -1e30, 0.0, -0.0, 88.5, -88.5, 1e-40, -1e4];
        let mut out = [0.0; 8];
        gelu_tanh(&x, &mut out).unwrap();
        assert!(out.iter().all(|v| v.is_finite()), "{out:?}");
        gelu_erf(&x, &mut out).unwrap();
        assert!(out.iter().all(|v| v.is_finite()), "{out:?}");
        let gate_up = [x, [1.0; 8]].concat();
        silu_mul(&gate_up, 8, &mut out).unwrap();
        assert!(out.iter().all(|v| v.is_finite()), "{out:?}");
    }
}
