//! Matrix products with prepared weights: one packed form, one int8 kernel for every quantised type.
//!
//! Weights are packed once, at load, into tiles of sixteen rows ([`format`], [`packed`]); activations are quantised once a call
//! ([`activations`]), or to bf16 where weights are ([`brains`]); for f16 and f32 weights they stay as they are. A call is tasks of some tiles and some rows ([`call`]); a kernel takes a [`job`]
//! of them, and an [`epilogue`] writes its sums. A tile meets all rows of a job before the next tile is read, so one new token
//! streams each weight once, and a long prompt opens each chunk of codes once per 256 rows.
//!
//! Every output is summed in one order, told by [`scalar`], whatever `m`, the other weights of the call, the number of
//! threads or the instruction set: results are equal bit for bit.

// Parts of what is shared, such as the planes of activations, serve the kernels of one architecture only.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]

mod activations;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod brain_zmm;
mod brains;
mod call;
mod epilogue;
mod format;
mod input;
mod job;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod packed;
#[cfg(target_arch = "x86_64")]
mod quantize_zmm;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::borrow::Borrow;
use std::cell::Cell;

use crate::disjoint::Disjoint;
use crate::dispatch::{Isa, isa};
use crate::error::KernelError;
use crate::pool::{Pool, pool};
use crate::quant::GgmlType;
use activations::{Activations, Plane};
pub(crate) use aligned::AlignedBytes;
use blocks::RowBlocks;
use brains::Brains;
use call::{Call, TileRange, block_rows, plan_tasks};
use epilogue::Epilogue;
use input::Source;
pub use input::{Input, Normed};
use job::TileJob;
pub use packed::{GatedMatrix, PackedMatrix};

/// Rows of activations that meet an opened chunk of weights, about: their sums stay in the second-level cache.
const JOB_ROWS: usize = 256;
/// Columns that are summed on their own in products of floats: short sums round less.
const FLOAT_CHUNK: usize = 256;
/// Runs `$body` with `$f` the format of a quantised type, `$other` for the types that are floats.
macro_rules! for_quantised {
    ($ty:expr, $f:ident => $body:expr, else $other:expr) => {
        match $ty {
            $crate::quant::GgmlType::Q4_0 => {
                type $f = $crate::quant::Q4_0;
                $body
            }
            $crate::quant::GgmlType::Q4_1 => {
                type $f = $crate::quant::Q4_1;
                $body
            }
            $crate::quant::GgmlType::Q5_0 => {
                type $f = $crate::quant::Q5_0;
                $body
            }
            $crate::quant::GgmlType::Q5_1 => {
                type $f = $crate::quant::Q5_1;
                $body
            }
            $crate::quant::GgmlType::Q8_0 => {
                type $f = $crate::quant::Q8_0;
                $body
            }
            $crate::quant::GgmlType::Q2K => {
                type $f = $crate::quant::Q2K;
                $body
            }
            $crate::quant::GgmlType::Q3K => {
                type $f = $crate::quant::Q3K;
                $body
            }
            $crate::quant::GgmlType::Q4K => {
                type $f = $crate::quant::Q4K;
                $body
            }
            $crate::quant::GgmlType::Q5K => {
                type $f = $crate::quant::Q5K;
                $body
            }
            $crate::quant::GgmlType::Q6K => {
                type $f = $crate::quant::Q6K;
                $body
            }
            $crate::quant::GgmlType::F32 | $crate::quant::GgmlType::F16 | $crate::quant::GgmlType::BF16 => $other,
        }
    };
}
use for_quantised;

/// `out[m, sum of rows] = x[m, cols] * weights^T`, the weights' outputs side by side (as in q, k, v or gate, up).
///
/// For quantised weights `x` is rounded to int8 with a scale per 32 columns, once a call, for bf16 weights to bf16; f16 and f32 weights take `x` as it is.
/// Runs on the process's pool with the instruction set of [`isa`]. NaN and infinity in a row of `x` make its outputs NaN.
/// Errors: [`KernelError::ColumnsDiffer`], [`KernelError::Length`].
pub fn matmul(x: &[f32], m: usize, weights: &[&PackedMatrix], out: &mut [f32]) -> Result<(), KernelError> {
    linear_on(isa(), pool(), x, m, weights, None, out)
}

/// [`matmul`], with a bias `[sum of rows]` added to each output.
pub fn linear(
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    linear_on(isa(), pool(), x, m, weights, bias, out)
}

/// [`linear`] with the instruction set and pool chosen by the caller; one the processor lacks becomes scalar.
pub fn linear_on(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    product_on(isa, pool, (Input::Rows(x), m), weights, bias, out)
}

/// [`linear`] over rows that may be normed on the way, with weights however they are held.
pub fn product<M: Borrow<PackedMatrix> + Sync>(
    input: Input<'_>,
    m: usize,
    weights: &[M],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    product_on(isa(), pool(), (input, m), weights, bias, out)
}

fn product_on<M: Borrow<PackedMatrix> + Sync>(
    isa: Isa,
    pool: &Pool,
    (input, m): (Input<'_>, usize),
    weights: &[M],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let total: usize = weights.iter().map(|w| w.borrow().rows()).sum();
    check_len("bias", total, bias.map_or(total, <[f32]>::len))?;
    multiply(isa, pool, (input, m), weights, bias.map_or(Epilogue::Store, Epilogue::Bias), out)
}

/// What a thread keeps from call to call; a nested call finds it taken and starts its own.
#[derive(Default)]
struct Buffers {
    acts: Activations,
    brains: Brains,
    plan: Vec<TileRange>,
    /// Normed rows, for weights that are floats.
    normed: Vec<f32>,
}

/// All products there are: checks the sizes, quantises, and hands out tiles.
fn multiply<M: Borrow<PackedMatrix> + Sync>(
    isa: Isa,
    pool: &Pool,
    (input, m): (Input<'_>, usize),
    weights: &[M],
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let isa = isa.or_scalar();
    let Some(first) = weights.first() else {
        return check_len("output", 0, out.len());
    };
    let cols = first.borrow().cols();
    let mut total = 0;
    for (index, weight) in weights.iter().map(Borrow::borrow).enumerate() {
        if weight.cols() != cols {
            return Err(KernelError::ColumnsDiffer { index, expected: cols, actual: weight.cols() });
        }
        total += weight.rows();
    }
    input.check(m, cols)?;
    check_len("output", m.saturating_mul(total), out.len())?;

    thread_local! {
        static BUFFERS: Cell<Buffers> = Cell::default();
    }
    let mut buffers = BUFFERS.take();
    let Buffers { acts, brains, plan, normed } = &mut buffers;
    let types = || weights.iter().map(|w| w.borrow().ggml_type());
    let floats = types().any(GgmlType::is_float);
    // So many formats side by side that one call cannot hold their planes: two calls can.
    let fits = acts.plan(types().flat_map(|ty| planes(isa, ty)).flatten());
    let mut source = Source::of(input);
    if floats || !fits {
        source = Source::Rows(source.written(isa, m, cols, normed));
    }
    let x = if let Source::Rows(x) = source { x } else { &[] };
    if !fits {
        in_halves(isa, pool, (x, m), weights, epilogue, out)?;
        BUFFERS.set(buffers);
        return Ok(());
    }
    let blocks = RowBlocks::new(m, block_rows(isa, m));
    if types().any(|ty| !ty.is_float()) {
        acts.quantize(isa, pool, &source, blocks, cols);
    }
    if types().any(|ty| ty == GgmlType::BF16) {
        brains.round(isa, brains::in_pairs(isa), pool, x, (m, cols));
    }
    let call = Call { isa, weights, x, acts, brains, blocks, epilogue, total, out: Disjoint::new(out) };
    plan_tasks(isa, weights, m, pool.threads(), call.tiles_of_an_output(), plan);
    let parts = blocks.rows().div_ceil(JOB_ROWS);
    pool.run(plan.len() * parts, &|task| {
        // Neighbours in time read the same tiles.
        let (range, part) = (&plan[task / parts], task % parts);
        call.run(range, part * blocks.count() / parts..(part + 1) * blocks.count() / parts);
    });
    BUFFERS.set(buffers);
    Ok(())
}

/// The weights in two calls, their outputs put side by side.
fn in_halves<M: Borrow<PackedMatrix> + Sync>(
    isa: Isa,
    pool: &Pool,
    (x, m): (&[f32], usize),
    weights: &[M],
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let total: usize = weights.iter().map(|w| w.borrow().rows()).sum();
    let mut column = 0;
    for half in [&weights[..weights.len() / 2], &weights[weights.len() / 2..]] {
        let width: usize = half.iter().map(|w| w.borrow().rows()).sum();
        let mut part = vec![0f32; m * width];
        let epilogue = match epilogue {
            Epilogue::Bias(bias) => Epilogue::Bias(&bias[column..column + width]),
            other => other,
        };
        multiply(isa, pool, (Input::Rows(x), m), half, epilogue, &mut part)?;
        for (out, part) in out.chunks_exact_mut(total).zip(part.chunks_exact(width)) {
            out[column..column + width].copy_from_slice(part);
        }
        column += width;
    }
    Ok(())
}

/// `out = silu(x gate^T) * (x up^T)`, bit for bit what [`matmul`] and [`crate::activation::silu_mul`] give, without the sums
/// between them ever being written.
///
/// x `[m, cols]`, out `[m, rows]`. Errors: [`KernelError::Length`].
pub fn swiglu(input: Input<'_>, m: usize, weight: &GatedMatrix, out: &mut [f32]) -> Result<(), KernelError> {
    swiglu_on(isa(), pool(), input, m, weight, out)
}

/// [`swiglu`] with the instruction set and pool chosen by the caller.
pub fn swiglu_on(
    isa: Isa,
    pool: &Pool,
    input: Input<'_>,
    m: usize,
    weight: &GatedMatrix,
    out: &mut [f32],
) -> Result<(), KernelError> {
    multiply(isa, pool, (input, m), &[weight.tiles()], Epilogue::SwiGlu, out)
}

/// The planes that a kernel reads; those of other instruction sets read the infos themselves.
fn planes(isa: Isa, ty: GgmlType) -> [Option<Plane>; 3] {
    match isa {
        Isa::AvxVnni | Isa::Avx512 => for_quantised!(ty, F => Plane::of::<F>(), else [None; 3]),
        _ => [None; 3],
    }
}

fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if expected == actual { Ok(()) } else { Err(KernelError::Length { what, expected, actual }) }
}

#[cfg(test)]
mod tests;
