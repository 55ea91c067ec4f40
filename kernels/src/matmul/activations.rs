//! Activations as int8: quantised once a call, whatever the number of weights they meet.
//!
//! 32 values share a scale `max |x| / 127`; codes are `round(x * 127 / max |x|)`, ties to even, so |code| <= 127.
//! A unit with a NaN or an infinity gets a NaN scale and zero codes: what is not finite stays visible in the output.
//!
//! Rows stand in blocks of four (the last may be shorter), as a kernel reads them: for each unit its eight quads, for each quad
//! four codes of every row. Nothing is strided, so no width of a model makes rows fight for the same cache sets.

use super::format::UNIT;
use crate::disjoint::Disjoint;
use crate::dispatch::Isa;
use crate::pool::Pool;

/// Rows that a kernel multiplies at once.
pub(super) const BLOCK_ROWS: usize = 4;
/// Below this maximum a unit counts as zero: its inverse would overflow.
const TINY: f32 = 1e-30;
/// Values quantised in one task.
const TASK_VALUES: usize = 1 << 15;

/// What a unit of 32 codes needs beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct UnitInfo {
    /// `x ~ scale * code`.
    pub scale: f32,
    /// `scale * sum`: what a minimum is multiplied by.
    pub weighted: f32,
    /// The same of the first and the last 16 codes.
    pub weighted_halves: [f32; 2],
    /// Sum of the 32 codes.
    pub sum: i32,
    /// Minus the sums of columns 0, 1 and of columns 2, 3 of all quads: a constant under the weights, in i16 lanes.
    pub minus: [i16; 2],
    /// The same of the first and the last four quads.
    pub minus_halves: [[i16; 2]; 2],
}

impl UnitInfo {
    /// From the scale and, for each half, the sums of columns 0, 1 and 2, 3 of its quads.
    #[inline(always)]
    pub(super) fn new(scale: f32, halves: [[i16; 2]; 2]) -> Self {
        let sums = halves.map(|[a, b]| i32::from(a) + i32::from(b));
        let sum = sums[0] + sums[1];
        Self {
            scale,
            weighted: scale * sum as f32,
            weighted_halves: sums.map(|sum| scale * sum as f32),
            sum,
            minus: [-(halves[0][0] + halves[1][0]), -(halves[0][1] + halves[1][1])],
            minus_halves: halves.map(|half| half.map(|sum| -sum)),
        }
    }

    /// Sum of the codes of a half.
    #[inline(always)]
    pub(super) fn half_sum(&self, half: usize) -> i32 {
        let [a, b] = self.minus_halves[half];
        -(i32::from(a) + i32::from(b))
    }
}

/// Rows of codes and their unit infos, block after block.
#[derive(Default)]
pub(super) struct Activations {
    codes: Vec<i8>,
    infos: Vec<UnitInfo>,
    m: usize,
    cols: usize,
}

/// One block of up to [`BLOCK_ROWS`] rows.
#[derive(Clone, Copy)]
pub(super) struct RowBlock<'a> {
    /// `[unit][quad][rows][4]`.
    pub codes: &'a [i8],
    /// `[unit][rows]`.
    pub infos: &'a [UnitInfo],
    /// Rows in it, at least one.
    pub rows: usize,
}

impl Activations {
    /// Quantises `x` `[m, cols]`, `cols` a multiple of 32, into this buffer.
    pub(super) fn quantize(&mut self, isa: Isa, pool: &Pool, x: &[f32], cols: usize) {
        self.m = x.len() / cols;
        self.cols = cols;
        self.codes.resize(x.len(), 0);
        self.infos.resize(x.len() / UNIT, UnitInfo::default());
        let quantize: fn(&[f32], usize, &mut [i8], &mut [UnitInfo]) = match isa {
            Isa::Scalar => quantize_block,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::quantize_block,
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => quantize_block,
        };
        let block_len = BLOCK_ROWS * cols;
        let task_len = (TASK_VALUES / block_len).max(1) * block_len;
        let (codes, infos) = (Disjoint::new(&mut self.codes), Disjoint::new(&mut self.infos));
        pool.run(x.len().div_ceil(task_len), &|task| {
            let start = task * task_len;
            let x = &x[start..x.len().min(start + task_len)];
            // SAFETY: tasks take consecutive, disjoint ranges.
            let (codes, infos) =
                unsafe { (codes.part(start..start + x.len()), infos.part(start / UNIT..(start + x.len()) / UNIT)) };
            let places = codes.chunks_mut(block_len).zip(infos.chunks_mut(block_len / UNIT));
            for (x, (codes, infos)) in x.chunks(block_len).zip(places) {
                quantize(x, x.len() / cols, codes, infos);
            }
        });
    }

    /// Rows held.
    pub(super) fn m(&self) -> usize {
        self.m
    }

    /// Values in a row.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// The block that begins with `row`, a multiple of [`BLOCK_ROWS`].
    #[inline]
    pub(super) fn block(&self, row: usize) -> RowBlock<'_> {
        debug_assert!(row.is_multiple_of(BLOCK_ROWS), "row {row} begins no block");
        let rows = BLOCK_ROWS.min(self.m - row);
        let (start, len) = (row * self.cols, rows * self.cols);
        RowBlock {
            codes: &self.codes[start..start + len],
            infos: &self.infos[start / UNIT..(start + len) / UNIT],
            rows,
        }
    }
}

/// The scalar definition: `rows` rows of whole units to one block.
pub(super) fn quantize_block(x: &[f32], rows: usize, codes: &mut [i8], infos: &mut [UnitInfo]) {
    for (row, x) in x.chunks_exact(x.len() / rows).enumerate() {
        for (unit, x) in x.chunks_exact(UNIT).enumerate() {
            // As integers, magnitudes order like floats, with NaN above infinity above all that is finite.
            let bits = x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
            let (scale, inverse) = scale_of(f32::from_bits(bits));
            let mut unit_codes = [0i8; UNIT];
            let mut halves = [[0i16; 2]; 2];
            for (column, (code, v)) in unit_codes.iter_mut().zip(x).enumerate() {
                *code = (v * inverse).round_ties_even() as i8;
                halves[column / 16][column % 4 / 2] += i16::from(*code);
            }
            place(&unit_codes, codes, rows, row, unit);
            infos[unit * rows + row] = UnitInfo::new(scale, halves);
        }
    }
}

/// Writes a unit's codes to their places in a block.
#[inline(always)]
pub(super) fn place(unit_codes: &[i8; UNIT], codes: &mut [i8], rows: usize, row: usize, unit: usize) {
    let unit = &mut codes[unit * UNIT * rows..][..UNIT * rows];
    for (quad, from) in unit.chunks_exact_mut(4 * rows).zip(unit_codes.chunks_exact(4)) {
        quad[4 * row..][..4].copy_from_slice(from);
    }
}

/// (scale, 1 / scale) of a unit whose largest magnitude is `max`.
#[inline(always)]
pub(super) fn scale_of(max: f32) -> (f32, f32) {
    if !max.is_finite() {
        (f32::NAN, 0.0)
    } else if max < TINY {
        (0.0, 0.0)
    } else {
        (max / 127.0, 127.0 / max)
    }
}
