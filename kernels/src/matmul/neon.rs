//! Tiles on NEON: a quad is four registers of four rows, and a dot-product instruction sums its four columns in i32.
//!
//! Codes are opened a chunk (256 columns) at a time into the first-level cache, less the format's zero: so all are i8, and no
//! sum of activations need be taken off. With i8mm, two quads side by side stand as registers of two rows by eight columns,
//! which `smmla` multiplies with two rows of activations at once; a lone row, and processors without i8mm, take `sdot`.
//! Sums are exact either way; scaling follows [`super::scalar`] operation for operation.

use std::arch::aarch64::*;
use std::arch::asm;

use super::activations::{Part, UnitInfo, place, scale_of};
use super::format::{CHUNK, ROWS, Scales, TileFormat, UNIT};
use super::{FLOAT_CHUNK, TileJob};
use crate::lanes::neon::{prefetch_line, widen_f16};
use crate::quant::GgmlType;

/// Bytes between the unit being read and the one being fetched.
const PREFETCH: usize = 2048;
/// Registers that hold a column of a tile.
const COLUMN: usize = ROWS / 4;

/// One chunk of a tile, opened.
#[repr(C, align(64))]
struct Chunk {
    codes: [i8; CHUNK * 512],
    scales: [[f32; ROWS]; 2 * CHUNK],
    mins: [[f32; ROWS]; 2 * CHUNK],
}

/// `acc[row of x][row of tile]`, overwritten. The caller has checked that the processor has dotprod.
pub(super) fn quantised_tile<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
    job.check(F::TYPE, acc.len());
    assert!(job.tiles == 1, "{} tiles at once", job.tiles);
    // SAFETY: dotprod is there (the dispatch table offers this function only then), i8mm where it is asked for; sizes were
    // checked just above.
    unsafe {
        if job.rows.len() > 1 && std::arch::is_aarch64_feature_detected!("i8mm") {
            quantised_tile_i8mm::<F>(job, acc);
        } else {
            quantised_tile_dotprod::<F>(job, acc);
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn quantised_tile_dotprod<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's promise, handed on.
    unsafe {
        each_chunk::<F, false>(job, acc, |open, x, rows, acc| match rows {
            1 => multiply_dotprod::<F, 1, 4>(open, x, acc),
            2 => multiply_dotprod::<F, 2, 4>(open, x, acc),
            3 => multiply_dotprod::<F, 3, 2>(open, x, acc),
            _ => multiply_dotprod::<F, 4, 2>(open, x, acc),
        })
    }
}

#[target_feature(enable = "neon,i8mm")]
unsafe fn quantised_tile_i8mm<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's promise, handed on.
    unsafe {
        each_chunk::<F, true>(job, acc, |open, x, rows, acc| match rows {
            1 => multiply_i8mm::<F, 1, 1>(open, x, acc),
            2 => multiply_i8mm::<F, 2, 1>(open, x, acc),
            3 => multiply_i8mm::<F, 3, 2>(open, x, acc),
            _ => multiply_i8mm::<F, 4, 2>(open, x, acc),
        })
    }
}

/// Opens a tile chunk by chunk, for `smmla` if `PAIRED`, and has each multiplied with all blocks of rows.
///
/// # Safety
/// Sizes are as [`TileJob::check`] says.
#[inline(always)]
unsafe fn each_chunk<F: TileFormat, const PAIRED: bool>(
    job: &TileJob<'_>,
    acc: &mut [f32],
    multiply: impl Fn(&Open, Rows, usize, *mut f32),
) {
    acc.fill(0.0);
    let units = job.cols / UNIT;
    let mut chunk = std::mem::MaybeUninit::<Chunk>::uninit();
    let chunk = chunk.as_mut_ptr();
    for first in (0..units).step_by(CHUNK) {
        let count = CHUNK.min(units - first);
        // SAFETY: unit `first + count` and its block lie in the tile; the chunk holds CHUNK units and 2 * CHUNK groups.
        // All fields are written before `multiply` reads them, and no reference to the whole is made.
        unsafe {
            let packed = job.data.as_ptr().add(job.layout.codes + first * F::UNIT_BYTES);
            let codes = (&raw mut (*chunk).codes).cast::<i8>();
            let scales = (&raw mut (*chunk).scales).cast::<f32>();
            let mins = (&raw mut (*chunk).mins).cast::<f32>();
            let blocks = first / F::BLOCK_UNITS..(first + count) / F::BLOCK_UNITS;
            for (index, block) in blocks.enumerate() {
                let at = index * F::BLOCK_GROUPS * ROWS;
                open_scales::<F>(job.data.as_ptr().add(block * F::SCALE_BYTES), scales.add(at), mins.add(at));
            }
            for unit in 0..count {
                open_unit::<F, PAIRED>(packed.add(unit * F::UNIT_BYTES), codes.add(unit * 512));
            }
            let open = Open { codes, scales, mins, units: count };
            let mut acc = acc.as_mut_ptr();
            for block in job.blocks.clone() {
                let block = job.acts.block(block);
                let x = Rows {
                    codes: block.codes.as_ptr().add(first * UNIT * block.rows),
                    infos: block.infos.as_ptr().add(first * block.rows),
                };
                multiply(&open, x, block.rows, acc);
                acc = acc.add(block.rows * ROWS);
            }
        }
    }
}

/// Pointers into an open chunk: codes `[units][512]`, scales and mins `[groups][16]`.
struct Open {
    codes: *const i8,
    scales: *const f32,
    mins: *const f32,
    units: usize,
}

/// Pointers into a block of activations, at the chunk's first unit.
#[derive(Clone, Copy)]
struct Rows {
    codes: *const i8,
    infos: *const UnitInfo,
}

/// Adds a chunk's products with a block of `M` rows to `acc[M][16]`, `4 V` rows of the tile at a time: what registers hold.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply_dotprod<F: TileFormat, const M: usize, const V: usize>(open: &Open, x: Rows, acc: *mut f32) {
    // SAFETY: here and in the functions below, the caller passes pointers good for `open.units` units and `M` rows.
    unsafe {
        for part in (0..COLUMN).step_by(V) {
            each_group::<F, M, V>(open, x, acc.add(4 * part), part, |codes, x| {
                let mut dots = [[vdupq_n_s32(0); V]; M];
                for quad in 0..F::GROUP / 4 {
                    let w: [int8x16_t; V] = std::array::from_fn(|v| vld1q_s8(codes.add(64 * quad + 16 * (part + v))));
                    for (i, dots) in dots.iter_mut().enumerate() {
                        let x = x.add((quad * M + i) * 4).cast::<i32>();
                        let x = vreinterpretq_s8_s32(vld1q_dup_s32(x));
                        for (dot, &w) in dots.iter_mut().zip(&w) {
                            *dot = sdot(*dot, w, x);
                        }
                    }
                }
                dots
            });
        }
    }
}

/// As [`multiply_dotprod`], half a tile at a time; `P` is the number of pairs that `M` rows make.
#[inline(never)]
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply_i8mm<F: TileFormat, const M: usize, const P: usize>(open: &Open, x: Rows, acc: *mut f32) {
    const V: usize = COLUMN / 2;
    // SAFETY: see `multiply_dotprod`.
    unsafe {
        for part in [0, V] {
            each_group::<F, M, V>(open, x, acc.add(4 * part), part, |codes, x| {
                // [pair of x][pair of weights]: rows of weights by rows of x.
                let mut tiles = [[vdupq_n_s32(0); 2 * V]; P];
                for eight in 0..F::GROUP / 8 {
                    let x = load_pairs::<M, P>(x.add(eight * 8 * M));
                    for v in 0..2 * V {
                        let w = vld1q_s8(codes.add(128 * eight + 16 * (2 * part + v)));
                        for (tiles, &x) in tiles.iter_mut().zip(&x) {
                            tiles[v] = smmla(tiles[v], w, x);
                        }
                    }
                }
                std::array::from_fn(|i| {
                    let tiles = &tiles[i / 2];
                    std::array::from_fn(|v| {
                        let (a, b) = (tiles[2 * v], tiles[2 * v + 1]);
                        if i % 2 == 0 { vuzp1q_s32(a, b) } else { vuzp2q_s32(a, b) }
                    })
                })
            });
        }
    }
}

/// Adds what `4 V` rows of the tile, from register `part` on, give with `M` rows of x to `acc`: `dots` of each group, scaled.
///
/// # Safety
/// See [`multiply_dotprod`]; `dots` gets the group's first codes of the tile and of x.
#[inline(always)]
unsafe fn each_group<F: TileFormat, const M: usize, const V: usize>(
    open: &Open,
    x: Rows,
    acc: *mut f32,
    part: usize,
    dots: impl Fn(*const i8, *const i8) -> [[int32x4_t; V]; M],
) {
    let groups = UNIT / F::GROUP;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums: [[float32x4_t; V]; M] =
            std::array::from_fn(|i| std::array::from_fn(|v| vld1q_f32(acc.add(i * ROWS + 4 * v))));
        for unit in 0..open.units {
            let infos = x.infos.add(unit * M);
            for index in 0..groups {
                let group = unit * groups + index;
                let column = unit * UNIT + index * F::GROUP;
                let dots = dots(open.codes.add(column * ROWS), x.codes.add(column * M));
                let at = group * ROWS + 4 * part;
                for v in 0..V {
                    let scale = vld1q_f32(open.scales.add(at + 4 * v));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let scale = vmulq_n_f32(scale, (*infos.add(i)).scale);
                        sums[v] = vfmaq_f32(sums[v], vcvtq_f32_s32(dots[i][v]), scale);
                    }
                }
                if F::MINS {
                    for v in 0..V {
                        let min = vld1q_f32(open.mins.add(at + 4 * v));
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let info = &*infos.add(i);
                            let whole = F::GROUP == UNIT;
                            let weighted = if whole { info.weighted } else { info.weighted_halves[index] };
                            sums[v] = vfmsq_n_f32(sums[v], min, weighted);
                        }
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                vst1q_f32(acc.add(i * ROWS + 4 * v), sum);
            }
        }
    }
}

/// Eight columns of a block of `M` rows as pairs of rows, `[row][8]`; what has no row is some other row again.
///
/// # Safety
/// `8 M` codes can be read.
#[inline(always)]
unsafe fn load_pairs<const M: usize, const P: usize>(x: *const i8) -> [int8x16_t; P] {
    // A lane of 32 bits is four columns of a row: rows a, b, c, d in the first quad, A, B, C, D in the second.
    // SAFETY: the caller's promise.
    unsafe {
        let x = x.cast::<i32>();
        let pairs = match M {
            1 => {
                let aa = vld1_s32(x);
                [vcombine_s32(aa, aa); 2]
            }
            2 => {
                let abab = vld1q_s32(x);
                [vzip1q_s32(abab, vextq_s32::<2>(abab, abab)); 2]
            }
            3 => {
                let (abca, cabc) = (vld1q_s32(x), vld1q_s32(x.add(2)));
                let second = vextq_s32::<1>(cabc, cabc);
                [vzip1q_s32(abca, second), vzip2q_s32(abca, second)]
            }
            _ => {
                let (first, second) = (vld1q_s32(x), vld1q_s32(x.add(4)));
                [vzip1q_s32(first, second), vzip2q_s32(first, second)]
            }
        };
        std::array::from_fn(|pair| vreinterpretq_s8_s32(pairs[pair]))
    }
}

/// `sums[i] += w[4 i ..] . x[4 i ..]`, four products each. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the function asks for the feature; the instruction touches nothing but its operands.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
    sums
}

/// `sums[2 i + j] += w[8 i ..] . x[8 j ..]`, eight products each. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot`.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
    sums
}

/// Planes of a unit to one byte a code less the format's zero: `[quad][row][column]`, or, `PAIRED`, `[two quads][row][8]`.
///
/// # Safety
/// `packed` is a whole packed unit, `codes` has room for 512 codes.
#[inline(always)]
unsafe fn open_unit<F: TileFormat, const PAIRED: bool>(packed: *const u8, codes: *mut i8) {
    // SAFETY: the caller's promise; prefetching needs no valid address.
    unsafe {
        for line in 0..F::LOW + F::HIGH {
            prefetch_line(packed.wrapping_add(PREFETCH + 64 * line));
        }
        let zero = vdupq_n_u8(F::ZERO as u8);
        for rows in 0..COLUMN {
            let line = |index: usize| vld1q_u8(packed.add(64 * index + 16 * rows));
            let opened: [int32x4_t; 8] = std::array::from_fn(|quad| {
                let mut code = match F::LOW {
                    8 => line(quad),
                    4 => bits(line(F::HIGH + quad / 2), 4 * (quad % 2), 0, 15),
                    _ => bits(line(F::HIGH + quad / 4), 2 * (quad % 4), 0, 3),
                };
                if F::HIGH == 1 {
                    code = vorrq_u8(code, bits(line(0), quad, F::LOW, 1));
                }
                if F::HIGH == 2 {
                    code = vorrq_u8(code, bits(line(quad / 4), 2 * (quad % 4), F::LOW, 3));
                }
                vreinterpretq_s32_u8(vsubq_u8(code, zero))
            });
            for quad in (0..8).step_by(2) {
                let (first, second) = (opened[quad], opened[quad + 1]);
                let at = codes.add(64 * quad).cast::<i32>();
                if PAIRED {
                    vst1q_s32(at.add(8 * rows), vzip1q_s32(first, second));
                    vst1q_s32(at.add(8 * rows + 4), vzip2q_s32(first, second));
                } else {
                    vst1q_s32(at.add(4 * rows), first);
                    vst1q_s32(at.add(16 + 4 * rows), second);
                }
            }
        }
    }
}

/// The bits `mask << from` of each byte, moved to `mask << to`.
#[inline(always)]
fn bits(bytes: uint8x16_t, from: usize, to: usize, mask: u8) -> uint8x16_t {
    // SAFETY: NEON is part of every aarch64 target.
    unsafe {
        let moved = vshlq_u8(bytes, vdupq_n_s8(to as i8 - from as i8));
        vandq_u8(moved, vdupq_n_u8(mask << to))
    }
}

/// Scales of a block to f32 `[groups][16]`, and minimums where the format has them.
///
/// # Safety
/// `packed` has the F::SCALE_BYTES of a block, `scales` and `mins` have room for its groups.
#[inline(always)]
unsafe fn open_scales<F: TileFormat>(packed: *const u8, scales: *mut f32, mins: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let halves = |at: usize| -> [float32x4_t; COLUMN] {
            let [a, b] = widen_f16(vld1q_u16(packed.add(at).cast()));
            let [c, d] = widen_f16(vld1q_u16(packed.add(at + 16).cast()));
            [a, b, c, d]
        };
        let store = |to: *mut f32, group: usize, column: [float32x4_t; COLUMN]| {
            for (v, &four) in column.iter().enumerate() {
                vst1q_f32(to.add(group * ROWS + 4 * v), four);
            }
        };
        let times = |d: [float32x4_t; COLUMN], sub: [float32x4_t; COLUMN]| -> [float32x4_t; COLUMN] {
            std::array::from_fn(|v| vmulq_f32(d[v], sub[v]))
        };
        let d = halves(0);
        match F::SCALES {
            Scales::Half => store(scales, 0, d),
            Scales::HalfMin => {
                store(scales, 0, d);
                // `m` is added, a minimum is subtracted.
                store(mins, 0, halves(32).map(|m| vnegq_f32(m)));
            }
            Scales::SubSigned => {
                for group in 0..F::BLOCK_GROUPS {
                    let sub = vld1q_s8(packed.add(32 + 16 * group).cast());
                    store(scales, group, times(d, signed_floats(sub)));
                }
            }
            Scales::SubMin => {
                let m = halves(32);
                for group in 0..F::BLOCK_GROUPS {
                    let at = packed.add(64 + 16 * group);
                    store(scales, group, times(d, floats(vld1q_u8(at))));
                    store(mins, group, times(m, floats(vld1q_u8(at.add(16 * F::BLOCK_GROUPS)))));
                }
            }
            Scales::SubNibbles => {
                let m = halves(32);
                for group in 0..F::BLOCK_GROUPS {
                    let both = vld1q_u8(packed.add(64 + 16 * group));
                    store(scales, group, times(d, floats(vandq_u8(both, vdupq_n_u8(15)))));
                    store(mins, group, times(m, floats(vshrq_n_u8::<4>(both))));
                }
            }
        }
    }
}

/// Sixteen u8 in f32.
#[inline(always)]
fn floats(bytes: uint8x16_t) -> [float32x4_t; COLUMN] {
    // SAFETY: NEON is part of every aarch64 target.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        [
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
            vcvtq_f32_u32(vmovl_high_u16(low)),
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
            vcvtq_f32_u32(vmovl_high_u16(high)),
        ]
    }
}

/// Sixteen i8 in f32.
#[inline(always)]
fn signed_floats(bytes: int8x16_t) -> [float32x4_t; COLUMN] {
    // SAFETY: NEON is part of every aarch64 target.
    unsafe {
        let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
            vcvtq_f32_s32(vmovl_high_s16(low)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
            vcvtq_f32_s32(vmovl_high_s16(high)),
        ]
    }
}

/// As [`super::activations::quantize_part`].
pub(super) fn quantize_part(part: &mut Part<'_>) {
    for row in 0..part.rows {
        for unit in 0..part.units() {
            let mut unit_codes = [0i8; UNIT];
            // SAFETY: a unit is 32 values long, and so are the codes.
            let info = unsafe { quantize_unit(part.unit(row, unit).as_ptr(), unit_codes.as_mut_ptr()) };
            part.infos[unit * part.rows + row] = info;
            place(&unit_codes, part.codes, part.rows, row, unit);
        }
    }
    part.fill_planes();
}

/// # Safety
/// `x` has 32 values, `codes` room for 32 codes.
#[inline(always)]
unsafe fn quantize_unit(x: *const f32, codes: *mut i8) -> UnitInfo {
    // SAFETY: the caller's promise.
    unsafe {
        let v: [float32x4_t; 8] = std::array::from_fn(|i| vld1q_f32(x.add(4 * i)));
        // As integers, magnitudes order like floats, with NaN above infinity above all that is finite.
        let mut max = vdupq_n_u32(0);
        for v in v {
            max = vmaxq_u32(max, vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0x7fff_ffff)));
        }
        let (scale, inverse) = scale_of(f32::from_bits(vmaxvq_u32(max)));
        // Ties to even; NaN becomes 0, and where there is an infinity `inverse` is 0: all codes are 0, as they must be.
        let whole = v.map(|v| vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v, inverse))));
        let half = |i: usize| {
            let eights = [vcombine_s16(whole[i], whole[i + 1]), vcombine_s16(whole[i + 2], whole[i + 3])];
            let half = vcombine_s8(vmovn_s16(eights[0]), vmovn_s16(eights[1]));
            vst1q_s8(codes.add(4 * i), half);
            i32::from(vaddlvq_s8(half))
        };
        UnitInfo::of_sums(scale, [half(0), half(4)])
    }
}

/// As [`quantised_tile`], for F32, F16 and BF16.
pub(super) fn float_tile(ty: GgmlType, job: &TileJob<'_>, acc: &mut [f32]) {
    job.check(ty, acc.len());
    assert!(job.tiles == 1, "{} tiles at once", job.tiles);
    // SAFETY: sizes were checked just above.
    unsafe {
        match ty {
            GgmlType::F16 => float_tile_of::<HALF>(job, acc),
            GgmlType::BF16 => float_tile_of::<BRAIN>(job, acc),
            _ => float_tile_of::<SINGLE>(job, acc),
        }
    }
}

const SINGLE: u8 = 0;
const HALF: u8 = 1;
const BRAIN: u8 = 2;

/// # Safety
/// Sizes are as [`TileJob::check`] says.
unsafe fn float_tile_of<const KIND: u8>(job: &TileJob<'_>, acc: &mut [f32]) {
    acc.fill(0.0);
    let x = job.floats(if KIND == BRAIN { GgmlType::BF16 } else { GgmlType::F32 });
    let column_bytes = if KIND == SINGLE { 4 * ROWS } else { 2 * ROWS };
    for first in (0..job.cols).step_by(FLOAT_CHUNK) {
        let count = FLOAT_CHUNK.min(job.cols - first);
        let mut row = job.rows.start;
        while row < job.rows.end {
            // SAFETY: columns `first .. first + count` lie in the tile and in each row of x, `row` in acc.
            row += unsafe {
                let w = job.data.as_ptr().add(first * column_bytes);
                let x = x.as_ptr().add(row * job.cols + first);
                let acc = acc.as_mut_ptr().add((row - job.rows.start) * ROWS);
                match job.rows.end - row {
                    1 => multiply_floats::<KIND, 1>(w, count, x, job.cols, acc),
                    2 => multiply_floats::<KIND, 2>(w, count, x, job.cols, acc),
                    3 => multiply_floats::<KIND, 3>(w, count, x, job.cols, acc),
                    _ => multiply_floats::<KIND, 4>(w, count, x, job.cols, acc),
                }
            };
        }
    }
}

/// Adds `count` columns' products with `M` rows (`cols` apart) to `acc[M][16]`; returns `M`.
///
/// # Safety
/// The pointers are good for `count` columns and `M` rows.
unsafe fn multiply_floats<const KIND: u8, const M: usize>(
    w: *const u8,
    count: usize,
    x: *const f32,
    cols: usize,
    acc: *mut f32,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); COLUMN]; M];
        if KIND == BRAIN {
            for column in (0..count).step_by(2) {
                let [even, odd] = load_brains(w.add(column * 2 * ROWS));
                if column + 1 < count {
                    add_column(&mut sums, x.add(column + 1), cols, odd);
                }
                add_column(&mut sums, x.add(column), cols, even);
            }
        } else {
            for column in 0..count {
                add_column(&mut sums, x.add(column), cols, load_column::<KIND>(w, column));
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let at = acc.add(i * ROWS + 4 * v);
                vst1q_f32(at, vaddq_f32(vld1q_f32(at), sum));
            }
        }
    }
    M
}

/// Adds a column's products with `M` rows.
///
/// # Safety
/// `x` is good for `M` values, `cols` apart.
#[inline(always)]
unsafe fn add_column<const M: usize>(
    sums: &mut [[float32x4_t; COLUMN]; M],
    x: *const f32,
    cols: usize,
    w: [float32x4_t; COLUMN],
) {
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise; every aarch64 target has NEON.
        unsafe {
            let x = *x.add(i * cols);
            for (sum, &w) in sums.iter_mut().zip(&w) {
                *sum = vfmaq_n_f32(*sum, w, x);
            }
        }
    }
}

/// Sixteen pairs of bf16 in f32: the even columns, then the odd.
///
/// # Safety
/// `at` is good for 64 bytes.
#[inline(always)]
unsafe fn load_brains(at: *const u8) -> [[float32x4_t; COLUMN]; 2] {
    // SAFETY: the caller's promise; prefetching needs no valid address.
    unsafe {
        prefetch_line(at.wrapping_add(PREFETCH));
        let pairs: [uint32x4_t; COLUMN] = std::array::from_fn(|v| vld1q_u32(at.cast::<u32>().add(4 * v)));
        // A bf16 is the upper half of an f32.
        [
            pairs.map(|pairs| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs))),
            pairs.map(|pairs| vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000)))),
        ]
    }
}

/// Sixteen weights of a column in f32, or in f16.
///
/// # Safety
/// `w` is a tile that has this column.
#[inline(always)]
unsafe fn load_column<const KIND: u8>(w: *const u8, column: usize) -> [float32x4_t; COLUMN] {
    // SAFETY: the caller's promise; prefetching needs no valid address.
    unsafe {
        if KIND == SINGLE {
            let at = w.add(column * 4 * ROWS);
            prefetch_line(at.wrapping_add(PREFETCH));
            return std::array::from_fn(|v| vld1q_f32(at.cast::<f32>().add(4 * v)));
        }
        let at = w.add(column * 2 * ROWS);
        prefetch_line(at.wrapping_add(PREFETCH));
        let eights = [vld1q_u16(at.cast()), vld1q_u16(at.add(16).cast())];
        let [[a, b], [c, d]] = eights.map(widen_f16);
        [a, b, c, d]
    }
}
