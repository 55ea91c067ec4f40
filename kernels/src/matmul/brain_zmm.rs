//! Tiles of bf16 by `vdpbf16ps`: a pair of columns of sixteen rows is one operand, a pair of x the other.
//!
//! The instruction adds the product of the odd columns, then that of the even ones, as two fused multiply-adds would: so
//! [`super::scalar`] is met bit for bit. It takes subnormal numbers for zero, and there are none ([`super::brains`]).
//! A chunk of 256 columns of a tile, 8 KiB, stays in the first-level cache while it meets every row.

use std::arch::x86_64::*;

use super::blocks::RowBlocks;
use super::format::ROWS;
use super::{FLOAT_CHUNK, TileJob};
use crate::quant::GgmlType;

/// Bytes of a pair of columns of a tile.
const PAIR_BYTES: usize = 4 * ROWS;
/// Rows of x multiplied at once: with two tiles 24 sums of 32 registers (measured: 10 % over 6 rows).
const MOST_ROWS: usize = 12;
/// Bytes between the pair that a stream reads and those it asks for, to the first-level cache and to the second.
const AHEAD: usize = 2048;
const FAR_AHEAD: usize = 8192;

/// `R` tiles at some columns, and the rows of x they meet.
struct Part<const R: usize> {
    tiles: [*const u8; R],
    /// Of the first row, the other rows `x_stride` apart.
    x: *const u16,
    x_stride: usize,
    /// `[rows][R][16]`.
    acc: *mut f32,
    pairs: usize,
    /// The sums begin here.
    first: bool,
    /// Bytes from a pair of weights to those that are asked for beside it.
    ahead: [usize; 2],
}

/// [`multiply`] compiled for one row, two, and so on.
type Multiply<const R: usize> = unsafe fn(&Part<R>);

macro_rules! by_rows {
    ($tiles:literal) => {
        by_rows!($tiles, [1 2 3 4 5 6 7 8 9 10 11 12])
    };
    ($tiles:literal, [$($rows:literal)*]) => {
        &[$(multiply::<$rows, $tiles>),*]
    };
}

/// `acc[row of x][row of the tiles]`, overwritten. The caller has checked that the processor has AVX-512 F and BF16.
pub(super) fn tiles(job: &TileJob<'_>, acc: &mut [f32]) {
    job.check(GgmlType::BF16, acc.len());
    // SAFETY: sizes were checked just above.
    unsafe {
        match job.tiles {
            1 => each_chunk::<1>(job, acc.as_mut_ptr(), by_rows!(1)),
            2 => each_chunk::<2>(job, acc.as_mut_ptr(), by_rows!(2)),
            tiles => unreachable!("{tiles} tiles at once"),
        }
    }
}

/// # Safety
/// The job was checked and is of `R` tiles; the processor has the features.
unsafe fn each_chunk<const R: usize>(job: &TileJob<'_>, acc: *mut f32, by_rows: &[Multiply<R>; MOST_ROWS]) {
    let blocks = RowBlocks::new(job.rows.len(), MOST_ROWS);
    let x_stride = job.brains.width();
    let x = &job.brains.pairs()[job.rows.start * x_stride..job.rows.end * x_stride];
    for first in (0..job.cols).step_by(FLOAT_CHUNK) {
        let count = FLOAT_CHUNK.min(job.cols - first);
        let at = first / 2 * PAIR_BYTES;
        // What comes next, of these tiles or behind them, is asked for beside the first rows; a stream is always behind.
        let next = if first + count < job.cols { count / 2 * PAIR_BYTES } else { R * job.layout.bytes - at };
        for block in 0..blocks.count() {
            let (row, rows) = (blocks.start(block), blocks.rows_of(block..block + 1).len());
            let ahead = match block {
                _ if blocks.count() == 1 => [AHEAD, FAR_AHEAD],
                0 => [next; 2],
                _ => [0; 2],
            };
            // SAFETY: the pairs lie in each tile and, with all rows of the block, in x; the rows in `acc`.
            unsafe {
                let mut tiles = [job.data.as_ptr(); R];
                for (r, tile) in tiles.iter_mut().enumerate() {
                    *tile = tile.add(r * job.layout.bytes + at);
                }
                by_rows[rows - 1](&Part {
                    tiles,
                    x: x.as_ptr().add(row * x_stride + first),
                    x_stride,
                    acc: acc.add(row * R * ROWS),
                    pairs: count.div_ceil(2),
                    first: first == 0,
                    ahead,
                });
            }
        }
    }
}

/// Adds a part's products with `M` rows to its sums.
///
/// # Safety
/// The processor has the features; the pointers are good for all pairs and rows.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply<const M: usize, const R: usize>(part: &Part<R>) {
    let mut sums = [[_mm512_setzero_ps(); R]; M];
    for pair in 0..part.pairs {
        // SAFETY: the caller's promise; a prefetch faults on no address.
        unsafe {
            let mut weights = [_mm512_setzero_si512(); R];
            for (weights, tile) in weights.iter_mut().zip(part.tiles) {
                let at = tile.add(pair * PAIR_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(part.ahead[0]).cast());
                if R == 1 {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(part.ahead[1]).cast());
                }
                *weights = _mm512_loadu_si512(at.cast());
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(part.x.add(i * part.x_stride + 2 * pair).cast::<i32>().read_unaligned());
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = add_pair(*sum, weights, x);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (r, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let at = part.acc.add((i * R + r) * ROWS);
                let old = if part.first { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                _mm512_storeu_ps(at, _mm512_add_ps(old, sum));
            }
        }
    }
}

/// `sum + odd * odd + even * even`, in that order, for sixteen pairs of bf16 each.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_pair(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: both are 512 bits of which any will do.
    let [a, b] = [a, b].map(|pairs| unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) });
    _mm512_dpbf16_ps(sum, a, b)
}
