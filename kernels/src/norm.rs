//! RMSNorm (<https://arxiv.org/abs/1910.07467>) and LayerNorm (<https://arxiv.org/abs/1607.06450>) over rows.
//!
//! A row's sums run in eight lanes of four accumulators, one order for a row length.

use crate::disjoint::{Disjoint, over_rows};
use crate::dispatch::{Isa, isa};
use crate::error::KernelError;
use crate::lanes::{LANES, Lanes, lanes_entry};

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row.
///
/// x, out `[rows, cols]`; weight `[cols]`. Errors: [`KernelError::Length`].
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    let cols = weight.len();
    let rows = rows_of("norm input", x.len(), cols)?;
    same_length("norm output", x.len(), out.len())?;
    let out = Disjoint::new(out);
    over_rows(rows, cols, &|run| {
        let values = run.start * cols..run.end * cols;
        // SAFETY: runs of rows do not overlap.
        let out = unsafe { out.part(values.clone()) };
        run_rms(isa(), &x[values], weight, eps, out);
    });
    Ok(())
}

/// `sum = residual + x; normed = rms_norm(sum)`: a residual connection and the norm after it, in one pass.
///
/// residual, x, sum, normed `[rows, cols]`; weight `[cols]`. Errors: [`KernelError::Length`].
pub fn add_rms_norm(
    residual: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    sum: &mut [f32],
    normed: &mut [f32],
) -> Result<(), KernelError> {
    let cols = weight.len();
    let rows = rows_of("norm input", x.len(), cols)?;
    same_length("residual", x.len(), residual.len())?;
    same_length("sum of residual and input", x.len(), sum.len())?;
    same_length("norm output", x.len(), normed.len())?;
    let (sum, normed) = (Disjoint::new(sum), Disjoint::new(normed));
    over_rows(rows, cols, &|run| {
        let values = run.start * cols..run.end * cols;
        // SAFETY: runs of rows do not overlap.
        let (sum, normed) = unsafe { (sum.part(values.clone()), normed.part(values.clone())) };
        run_add(isa(), &residual[values.clone()], &x[values], sum);
        run_rms(isa(), sum, weight, eps, normed);
    });
    Ok(())
}

/// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` for each row, the variance over `cols` values.
///
/// x, out `[rows, cols]`; weight, bias `[cols]`. Errors: [`KernelError::Length`].
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    let cols = weight.len();
    let rows = rows_of("norm input", x.len(), cols)?;
    same_length("norm bias", cols, bias.len())?;
    same_length("norm output", x.len(), out.len())?;
    let out = Disjoint::new(out);
    over_rows(rows, cols, &|run| {
        let values = run.start * cols..run.end * cols;
        // SAFETY: runs of rows do not overlap.
        let out = unsafe { out.part(values.clone()) };
        run_layer(isa(), &x[values], weight, bias, eps, out);
    });
    Ok(())
}

/// Rows in `len` values of `cols` columns.
fn rows_of(what: &'static str, len: usize, cols: usize) -> Result<usize, KernelError> {
    if cols == 0 || !len.is_multiple_of(cols) {
        let expected = len.checked_div(cols).unwrap_or(0) * cols;
        return Err(KernelError::Length { what, expected, actual: len });
    }
    Ok(len / cols)
}

pub(crate) fn same_length(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if expected == actual { Ok(()) } else { Err(KernelError::Length { what, expected, actual }) }
}

/// One row of a residual stream: `residual += add`, then its RMSNorm to `out`; all `[cols]`.
pub(crate) fn norm_row(isa: Isa, residual: &mut [f32], add: Option<&[f32]>, weight: &[f32], eps: f32, out: &mut [f32]) {
    if let Some(add) = add {
        run_add_to(isa, add, residual);
    }
    run_rms(isa, residual, weight, eps, out);
}

/// RMSNorm of each head of some, in place: a row of `heads * weight.len()` values a token, the rows `stride` apart.
///
/// Errors: [`KernelError::Length`] where rows overlap or the last one is cut off.
pub fn rms_norm_heads(x: &mut [f32], stride: usize, heads: usize, weight: &[f32], eps: f32) -> Result<(), KernelError> {
    let row = heads * weight.len();
    if row == 0 || x.is_empty() {
        return Ok(());
    }
    let tokens = (x.len() - row.min(x.len())) / stride.max(1) + 1;
    if stride < row || x.len() < row {
        return Err(KernelError::Length { what: "heads to norm", expected: row, actual: stride.min(x.len()) });
    }
    let x = Disjoint::new(x);
    over_rows(tokens, row, &|run| {
        for token in run {
            // SAFETY: each token is its own part: rows do not overlap.
            let heads = unsafe { x.part(token * stride..token * stride + row) };
            heads.chunks_exact_mut(weight.len()).for_each(|head| run_rms_in_place(isa(), head, weight, eps));
        }
    });
    Ok(())
}

/// `residual += add`, of any one length. Errors: [`KernelError::Length`].
pub fn add_to(residual: &mut [f32], add: &[f32]) -> Result<(), KernelError> {
    same_length("what is added to the residual", residual.len(), add.len())?;
    run_add_to(isa(), add, residual);
    Ok(())
}

lanes_entry! { fn run_add_to / run_add_to_avx2 / run_add_to_avx512(b: &[f32], sum: &mut [f32]) = add_to_lanes }
lanes_entry! { fn run_add / run_add_avx2 / run_add_avx512(a: &[f32], b: &[f32], out: &mut [f32]) = add_lanes }
lanes_entry! {
    fn run_rms / run_rms_avx2 / run_rms_avx512(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_lanes
}
lanes_entry! {
    fn run_rms_in_place / run_rms_in_place_avx2 / run_rms_in_place_avx512(x: &mut [f32], weight: &[f32], eps: f32) = rms_in_place_lanes
}
lanes_entry! {
    fn run_layer / run_layer_avx2 / run_layer_avx512(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) = layer_lanes
}

#[inline(always)]
fn add_lanes<L: Lanes>(a: &[f32], b: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        L::load_at(a, at).add(L::load_at(b, at)).store_at(out, at);
    }
}

#[inline(always)]
fn add_to_lanes<L: Lanes>(b: &[f32], sum: &mut [f32]) {
    for at in (0..sum.len()).step_by(LANES) {
        L::load_at(sum, at).add(L::load_at(b, at)).store_at(sum, at);
    }
}

/// The sum of `(x - center)^2`.
#[inline(always)]
fn squares<L: Lanes>(x: &[f32], center: f32) -> f32 {
    let mut sums = [L::zero(); 4];
    let centers = L::splat(center);
    let whole = x.len() / (4 * LANES) * (4 * LANES);
    for at in (0..whole).step_by(4 * LANES) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let v = L::load_at(x, at + i * LANES).sub(centers);
            *sum = v.mul_add(v, *sum);
        }
    }
    let mut tail = 0f32;
    for &v in &x[whole..] {
        let v = v - center;
        tail = v.mul_add(v, tail);
    }
    let [a, b, c, d] = sums;
    a.add(b).add(c.add(d)).sum() + tail
}

/// The sum of a row.
#[inline(always)]
fn total<L: Lanes>(x: &[f32]) -> f32 {
    let mut sum = L::zero();
    for at in (0..x.len()).step_by(LANES) {
        sum = sum.add(L::load_at(x, at));
    }
    sum.sum()
}

#[inline(always)]
fn rms_lanes<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let cols = weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let scale = L::splat(1.0 / (squares::<L>(x, 0.0) / cols as f32 + eps).sqrt());
        for at in (0..cols).step_by(LANES) {
            let y = L::load_at(x, at).mul(scale).mul(L::load_at(weight, at));
            y.store_at(out, at);
        }
    }
}

#[inline(always)]
fn rms_in_place_lanes<L: Lanes>(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = L::splat(1.0 / (squares::<L>(x, 0.0) / weight.len() as f32 + eps).sqrt());
    for at in (0..x.len()).step_by(LANES) {
        L::load_at(x, at).mul(scale).mul(L::load_at(weight, at)).store_at(x, at);
    }
}

#[inline(always)]
fn layer_lanes<L: Lanes>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let cols = weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = total::<L>(x) / cols as f32;
        let scale = L::splat(1.0 / (squares::<L>(x, mean) / cols as f32 + eps).sqrt());
        let mean = L::splat(mean);
        for at in (0..cols).step_by(LANES) {
            let y = L::load_at(x, at).sub(mean).mul(scale);
            y.mul_add(L::load_at(weight, at), L::load_at(bias, at)).store_at(out, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn a_row_is_the_same_alone_and_among_others_on_every_isa() {
        for cols in [1, 7, 8, 33, 64, 576, 897] {
            let rows = 40;
            let (x, residual) = (values(rows * cols, 1), values(rows * cols, 2));
            let (weight, bias) = (values(cols, 3), values(cols, 4));
            let (mut all, mut sum) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
            let mut layer = vec![0.0; rows * cols];
            add_rms_norm(&residual, &x, &weight, 1e-6, &mut sum, &mut all).unwrap();
            layer_norm(&x, &weight, &bias, 1e-5, &mut layer).unwrap();
            for row in 0..rows {
                let at = row * cols..(row + 1) * cols;
                for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                    let mut alone = vec![0.0; cols];
                    run_rms(isa, &sum[at.clone()], &weight, 1e-6, &mut alone);
                    assert_eq!(alone, all[at.clone()], "rms {isa:?} row {row} of {cols}");
                    run_layer(isa, &x[at.clone()], &weight, &bias, 1e-5, &mut alone);
                    assert_eq!(alone, layer[at.clone()], "layer {isa:?} row {row} of {cols}");
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let mut out = [0.0; 4];
        assert!(rms_norm(&[0.0; 4], &[], 1e-6, &mut out).is_err());
        let message = rms_norm(&[0.0; 4], &[1.0; 3], 1e-6, &mut out).unwrap_err().to_string();
        assert_eq!(message, "norm input: expected 3 values, got 4");
        assert!(layer_norm(&[0.0; 4], &[1.0; 2], &[1.0; 3], 1e-6, &mut out).is_err());
        assert!(rms_norm(&[], &[1.0; 3], 1e-6, &mut []).is_ok());
    }
}
