//! Activations as int8: quantised once a call, whatever the number of weights they meet.
//!
//! 32 values share a scale `max |x| / 127`; codes are `round(x * 127 / max |x|)`, ties to even, so |code| <= 127.
//! A unit with a NaN or an infinity gets a NaN scale and zero codes: what is not finite stays visible in the output.
//!
//! Rows stand in blocks ([`RowBlocks`]), as a kernel reads them: for each unit its eight quads, for each quad
//! four codes of every row. Nothing is strided, so no width of a model makes rows fight for the same cache sets.

use super::blocks::RowBlocks;
use super::format::{TileFormat, UNIT};
use super::input::Source;
use crate::disjoint::Disjoint;
use crate::dispatch::Isa;
use crate::pool::Pool;

/// Below this maximum a unit counts as zero: its inverse would overflow.
pub(super) const TINY: f32 = 1e-30;
/// Values quantised in one task, at least: some microseconds.
const TASK_VALUES: usize = 1 << 12;

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
    /// The same of the first and the last 16.
    pub half_sums: [i32; 2],
    /// Minus the sums of columns 0, 1 and of columns 2, 3 of all quads: a constant under the weights, in i16 lanes.
    pub minus: [i16; 2],
    /// The same of the first and the last four quads.
    pub minus_halves: [[i16; 2]; 2],
}

impl UnitInfo {
    /// From the scale and, for each half, the sums of columns 0, 1 and 2, 3 of its quads.
    #[inline(always)]
    pub(super) fn new(scale: f32, halves: [[i16; 2]; 2]) -> Self {
        Self {
            minus: [-(halves[0][0] + halves[1][0]), -(halves[0][1] + halves[1][1])],
            minus_halves: halves.map(|half| half.map(|sum| -sum)),
            ..Self::of_sums(scale, halves.map(|[a, b]| i32::from(a) + i32::from(b)))
        }
    }

    /// From the scale and the sums of both halves, without what only 16-bit sums need.
    #[inline(always)]
    pub(super) fn of_sums(scale: f32, half_sums: [i32; 2]) -> Self {
        let sum = half_sums[0] + half_sums[1];
        Self {
            scale,
            weighted: scale * sum as f32,
            weighted_halves: half_sums.map(|sum| scale * sum as f32),
            sum,
            half_sums,
            minus: [0; 2],
            minus_halves: [[0; 2]; 2],
        }
    }
}

/// One number a unit or a group of 16, for each row: a part of [`UnitInfo`] on its own, so that a kernel reads no more than it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// [`UnitInfo::scale`].
    Scale,
    /// [`UnitInfo::weighted`], or its halves.
    Weighted {
        /// Of groups of 16 columns rather than 32.
        halves: bool,
    },
    /// Where the integer sums of formats with this zero start: minus the zero times the sum of the codes, an i32.
    Start {
        /// [`crate::quant::BlockFormat::ZERO`], not 0.
        zero: i32,
        /// As above.
        halves: bool,
    },
}

impl Plane {
    /// What a format reads.
    pub(super) fn of<F: TileFormat>() -> [Option<Self>; 3] {
        let halves = F::GROUP != UNIT;
        let weighted = if F::MINS { Some(Plane::Weighted { halves }) } else { None };
        let start = if F::ZERO == 0 { None } else { Some(Plane::Start { zero: F::ZERO, halves }) };
        [Some(Plane::Scale), weighted, start]
    }

    /// Numbers of a unit.
    pub(super) fn groups(self) -> usize {
        match self {
            Plane::Weighted { halves: true } | Plane::Start { halves: true, .. } => 2,
            _ => 1,
        }
    }

    /// Fills the numbers of a block, `[unit][group][rows]`, from its infos `[unit][rows]`.
    #[inline(always)]
    fn fill(self, rows: usize, infos: &[UnitInfo], values: &mut [u32]) {
        let whole = infos.iter().zip(&mut *values);
        match self {
            Plane::Scale => whole.for_each(|(info, value)| *value = info.scale.to_bits()),
            Plane::Weighted { halves: false } => whole.for_each(|(info, value)| *value = info.weighted.to_bits()),
            Plane::Start { zero, halves: false } => whole.for_each(|(info, value)| *value = (-zero * info.sum) as u32),
            Plane::Weighted { halves: true } => {
                fill_halves(rows, infos, values, |info, half| info.weighted_halves[half].to_bits());
            }
            Plane::Start { zero, halves: true } => {
                fill_halves(rows, infos, values, |info, half| (-zero * info.half_sums[half]) as u32);
            }
        }
    }
}

#[inline(always)]
fn fill_halves(rows: usize, infos: &[UnitInfo], values: &mut [u32], number: impl Fn(&UnitInfo, usize) -> u32) {
    for (infos, values) in infos.chunks_exact(rows).zip(values.chunks_exact_mut(2 * rows)) {
        for (half, values) in values.chunks_exact_mut(rows).enumerate() {
            infos.iter().zip(values).for_each(|(info, value)| *value = number(info, half));
        }
    }
}

/// Planes that one call may need: no two weights that share an input have had more.
pub(super) const MAX_PLANES: usize = 6;

/// Rows of codes and their unit infos, block after block.
#[derive(Default)]
pub(super) struct Activations {
    codes: Vec<i8>,
    infos: Vec<UnitInfo>,
    planes: [Option<Plane>; MAX_PLANES],
    values: [Vec<u32>; MAX_PLANES],
    blocks: RowBlocks,
    cols: usize,
}

/// One block of rows.
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
    /// Says which planes the next [`Activations::quantize`] fills; false, and nothing, for more than there is room for.
    pub(super) fn plan(&mut self, planes: impl Iterator<Item = Plane>) -> bool {
        self.planes = [None; MAX_PLANES];
        for plane in planes {
            match self.planes.iter_mut().find(|p| p.is_none_or(|p| p == plane)) {
                Some(place) => *place = Some(plane),
                None => return false,
            }
        }
        true
    }

    /// Quantises rows `[blocks.rows(), cols]`, `cols` a multiple of 32, into this buffer.
    pub(super) fn quantize(&mut self, isa: Isa, pool: &Pool, source: &Source<'_>, blocks: RowBlocks, cols: usize) {
        (self.blocks, self.cols) = (blocks, cols);
        grow(&mut self.codes, blocks.rows() * cols);
        let units = blocks.rows() * cols / UNIT;
        grow(&mut self.infos, units);
        for (plane, values) in self.planes.iter().zip(&mut self.values) {
            grow(values, plane.map_or(0, |plane| units * plane.groups()));
        }
        let quantize = quantizer(isa);
        // Parts of some blocks where rows are short, of some units where they are long: a block alone may be all there is.
        let row_units = cols / UNIT;
        let block_rows = blocks.rows().div_ceil(blocks.count().max(1));
        let blocks_each = (TASK_VALUES / (cols * block_rows).max(1)).max(1);
        let whole = blocks_each > 1 || matches!(source, Source::Normed { .. });
        let cuts = if whole { 1 } else { (cols * block_rows).div_ceil(4 * TASK_VALUES).min(row_units).max(1) };
        let (codes, infos) = (Disjoint::new(&mut self.codes), Disjoint::new(&mut self.infos));
        let planes = self.planes;
        let values = self.values.each_mut().map(|values| Disjoint::new(values));
        pool.run(blocks.count().div_ceil(blocks_each) * cuts, &|task| {
            let (task, cut) = (task / cuts, task % cuts);
            let units = cut * row_units / cuts..(cut + 1) * row_units / cuts;
            for block in task * blocks_each..blocks.count().min((task + 1) * blocks_each) {
                let rows = blocks.rows_of(block..block + 1);
                let numbers =
                    rows.start * row_units + units.start * rows.len()..rows.start * row_units + units.end * rows.len();
                // SAFETY: a block's units are disjoint ranges of every buffer, and each is one task's.
                let (codes, infos) =
                    unsafe { (codes.part(numbers.start * UNIT..numbers.end * UNIT), infos.part(numbers.clone())) };
                let planes = std::array::from_fn(|i| {
                    planes[i].map(|plane| {
                        let groups = plane.groups();
                        // SAFETY: as above.
                        (plane, unsafe { values[i].part(numbers.start * groups..numbers.end * groups) })
                    })
                });
                let count = rows.len();
                // SAFETY: rows that are normed are not cut, so each is one task's.
                unsafe {
                    source.with(isa, rows, cols, |x| {
                        quantize(&mut Part { x: &x[units.start * UNIT..], cols, rows: count, codes, infos, planes });
                    });
                }
            }
        });
    }

    /// The blocks of the rows held.
    pub(super) fn blocks(&self) -> RowBlocks {
        self.blocks
    }

    /// Values in a row.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// One block.
    #[inline]
    pub(super) fn block(&self, block: usize) -> RowBlock<'_> {
        let rows = self.blocks.rows_of(block..block + 1);
        let (start, len) = (rows.start * self.cols, rows.len() * self.cols);
        RowBlock {
            codes: &self.codes[start..start + len],
            infos: &self.infos[start / UNIT..(start + len) / UNIT],
            rows: rows.len(),
        }
    }

    /// A plane of all rows, block after block `[unit][group][rows]`: `groups` numbers for each row and unit.
    ///
    /// Panics where [`Activations::quantize`] was not asked for it.
    pub(super) fn plane(&self, plane: Plane) -> &[u32] {
        let at = self.planes.iter().position(|p| *p == Some(plane)).expect("a plane asked for in `quantize`");
        &self.values[at][..self.blocks.rows() * self.cols / UNIT * plane.groups()]
    }
}

/// Makes a buffer at least so long; it is not cut, so that the next call need not clear it again.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Some units of one block of rows, to be quantised.
pub(super) struct Part<'a> {
    /// From the first unit of the first row on; rows are `cols` apart.
    pub x: &'a [f32],
    /// Distance of rows.
    pub cols: usize,
    /// Rows of the block.
    pub rows: usize,
    /// `[units][quad][rows][4]`.
    pub codes: &'a mut [i8],
    /// `[units][rows]`.
    pub infos: &'a mut [UnitInfo],
    /// Those asked for, each `[units][group][rows]`.
    pub planes: [Option<(Plane, &'a mut [u32])>; MAX_PLANES],
}

impl<'a> Part<'a> {
    /// Units of it.
    pub(super) fn units(&self) -> usize {
        self.infos.len() / self.rows
    }

    /// The values of a unit in a row.
    #[inline(always)]
    pub(super) fn unit(&self, row: usize, unit: usize) -> &'a [f32] {
        &self.x[row * self.cols + unit * UNIT..][..UNIT]
    }

    /// Fills the planes from the infos.
    pub(super) fn fill_planes(&mut self) {
        for (plane, values) in self.planes.iter_mut().flatten() {
            plane.fill(self.rows, self.infos, values);
        }
    }
}

type Quantizer = fn(&mut Part<'_>);

fn quantizer(isa: Isa) -> Quantizer {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => super::avx2::quantize_part,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => super::quantize_zmm::quantize_part,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => super::neon::quantize_part,
        _ => quantize_part,
    }
}

/// The scalar definition.
pub(super) fn quantize_part(part: &mut Part<'_>) {
    for row in 0..part.rows {
        for unit in 0..part.units() {
            let x = part.unit(row, unit);
            // As integers, magnitudes order like floats, with NaN above infinity above all that is finite.
            let bits = x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
            let (scale, inverse) = scale_of(f32::from_bits(bits));
            let mut unit_codes = [0i8; UNIT];
            let mut halves = [[0i16; 2]; 2];
            for (column, (code, v)) in unit_codes.iter_mut().zip(x).enumerate() {
                *code = (v * inverse).round_ties_even() as i8;
                halves[column / 16][column % 4 / 2] += i16::from(*code);
            }
            place(&unit_codes, part.codes, part.rows, row, unit);
            part.infos[unit * part.rows + row] = UnitInfo::new(scale, halves);
        }
    }
    part.fill_planes();
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
