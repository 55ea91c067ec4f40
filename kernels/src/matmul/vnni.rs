//! Tiles by `vpdpbusd`, over either register [`Wide`]: a quad of codes is one operand, four bytes of x the other.
//!
//! Codes are unsigned as packed, so a product is exact in i32 and nothing is subtracted from it: sums start at minus
//! zero times the sum of x ([`Activations::starts`]). A chunk (256 columns) of a tile is opened into the first-level cache
//! and meets every row of the job before the next; rows come in blocks whose sums stay in registers.
//! Sums and scaling follow [`super::scalar`] operation for operation.

use std::mem::MaybeUninit;

use super::activations::UnitInfo;
use super::format::{CHUNK, ROWS, Scales, TileFormat, UNIT};
use super::wide::{Wide, Ymm, Zmm};
use super::{FLOAT_CHUNK, TileJob};
use crate::quant::GgmlType;

/// Bytes between the line being read and the one being fetched: about what a core reads while memory answers.
const PREFETCH: usize = 4096;

/// One chunk of up to two tiles, opened.
#[repr(C, align(64))]
struct Chunk {
    codes: [[u8; CHUNK * 512]; 2],
    scales: [[[f32; ROWS]; 2 * CHUNK]; 2],
    mins: [[[f32; ROWS]; 2 * CHUNK]; 2],
}

/// Defines the entries of a width: `quantised_tiles` and `float_tiles`, compiled with its features.
macro_rules! entries {
    ($wide:ident, $features:literal, $quantised:ident / $quantised_inner:ident, $float:ident / $float_inner:ident) => {
        #[target_feature(enable = $features)]
        fn $quantised_inner<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
            // SAFETY: the features are this function's own; the job was checked by whoever called it.
            unsafe { quantised::<$wide, F>(job, acc) }
        }

        /// `acc[row of x][row of the tiles]`, overwritten. The caller has checked that the processor has the features.
        pub(super) fn $quantised<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
            job.check(F::TYPE, acc.len());
            // SAFETY: the dispatch table offers this function only where the features are.
            unsafe { $quantised_inner::<F>(job, acc) }
        }

        #[target_feature(enable = $features)]
        fn $float_inner(ty: GgmlType, job: &TileJob<'_>, acc: &mut [f32]) {
            // SAFETY: as above.
            unsafe {
                match ty {
                    GgmlType::F16 => floats::<$wide, HALF>(job, acc),
                    GgmlType::BF16 => floats::<$wide, BRAIN>(job, acc),
                    _ => floats::<$wide, SINGLE>(job, acc),
                }
            }
        }

        /// The same for F32, F16 and BF16.
        pub(super) fn $float(ty: GgmlType, job: &TileJob<'_>, acc: &mut [f32]) {
            job.check(ty, acc.len());
            // SAFETY: as above.
            unsafe { $float_inner(ty, job, acc) }
        }
    };
}

entries!(
    Zmm,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c",
    quantised_tiles_zmm / quantised_zmm,
    float_tiles_zmm / floats_zmm
);
entries!(Ymm, "avxvnni,avx2,fma,f16c", quantised_tiles_ymm / quantised_ymm, float_tiles_ymm / floats_ymm);

/// # Safety
/// The job was checked; the processor has `W`'s features. So for all functions below.
#[inline(always)]
unsafe fn quantised<W: Wide, F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        if W::TILES == 2 && job.tiles == 2 {
            each_chunk::<W, F, 2>(job, acc.as_mut_ptr());
        } else {
            each_chunk::<W, F, 1>(job, acc.as_mut_ptr());
        }
    }
}

#[inline(always)]
unsafe fn each_chunk<W: Wide, F: TileFormat, const R: usize>(job: &TileJob<'_>, acc: *mut f32) {
    let units = job.cols / UNIT;
    let mut chunk = MaybeUninit::<Chunk>::uninit();
    let chunk = chunk.as_mut_ptr();
    for first in (0..units).step_by(CHUNK) {
        let count = CHUNK.min(units - first);
        // SAFETY: unit `first + count` and its block lie in each tile; the chunk holds CHUNK units and 2 * CHUNK groups
        // of two tiles. All that `multiply` reads is written first, and no reference to the whole is made.
        unsafe {
            let mut open = Open {
                codes: [std::ptr::null(); R],
                scales: (&raw const (*chunk).scales).cast::<f32>(),
                mins: (&raw const (*chunk).mins).cast::<f32>(),
                units: count,
                first: first == 0,
            };
            for (r, codes) in open.codes.iter_mut().enumerate() {
                let tile = job.data.as_ptr().add(r * job.layout.bytes);
                *codes = open_chunk::<W, F>(tile, job, first, count, chunk, r);
            }
            let mut acc = acc;
            for block in job.blocks.clone() {
                let block = job.acts.block(block);
                let x = Rows {
                    codes: block.codes.as_ptr().add(first * UNIT * block.rows),
                    infos: block.infos.as_ptr().add(first * block.rows),
                    starts: block.starts::<F>().as_ptr().add(first * block.rows * (UNIT / F::GROUP)),
                };
                // A block is at most W::BLOCK_ROWS long; the arms past that are not compiled in.
                match block.rows {
                    1 => multiply::<W, F, 1, R>(&open, x, acc),
                    2 => multiply::<W, F, 2, R>(&open, x, acc),
                    3 => multiply::<W, F, 3, R>(&open, x, acc),
                    4 if W::BLOCK_ROWS >= 4 => multiply::<W, F, 4, R>(&open, x, acc),
                    5 if W::BLOCK_ROWS >= 5 => multiply::<W, F, 5, R>(&open, x, acc),
                    6 if W::BLOCK_ROWS >= 6 => multiply::<W, F, 6, R>(&open, x, acc),
                    rows => unreachable!("a block of {rows} rows"),
                }
                acc = acc.add(block.rows * R * ROWS);
            }
        }
    }
}

/// Opens units `first .. first + count` of a tile into part `r` of the chunk; gives where its codes are.
#[inline(always)]
unsafe fn open_chunk<W: Wide, F: TileFormat>(
    tile: *const u8,
    job: &TileJob<'_>,
    first: usize,
    count: usize,
    chunk: *mut Chunk,
    r: usize,
) -> *const u8 {
    // SAFETY: see the caller.
    unsafe {
        let scales = (&raw mut (*chunk).scales[r]).cast::<f32>();
        let mins = (&raw mut (*chunk).mins[r]).cast::<f32>();
        for (index, block) in (first / F::BLOCK_UNITS..(first + count) / F::BLOCK_UNITS).enumerate() {
            let at = index * F::BLOCK_GROUPS * ROWS;
            open_scales::<W, F>(tile.add(block * F::SCALE_BYTES), scales.add(at), mins.add(at));
        }
        let packed = tile.add(job.layout.codes + first * F::UNIT_BYTES);
        if F::LOW == 8 {
            // Codes of eight bits are multiplied where they are.
            for line in 0..count * 8 {
                prefetch(packed.wrapping_add(PREFETCH + 64 * line));
            }
            return packed;
        }
        let opened = (&raw mut (*chunk).codes[r]).cast::<u8>();
        for unit in 0..count {
            open_unit::<W, F>(packed.add(unit * F::UNIT_BYTES), opened.add(unit * 512));
        }
        opened
    }
}

/// Pointers into an open chunk: codes `[units][512]` a tile; scales and mins `[2 * CHUNK][16]` a tile.
struct Open<const R: usize> {
    codes: [*const u8; R],
    scales: *const f32,
    mins: *const f32,
    units: usize,
    /// The sums begin here.
    first: bool,
}

/// Pointers into a block of activations, at the chunk's first unit.
#[derive(Clone, Copy)]
struct Rows {
    codes: *const i8,
    infos: *const UnitInfo,
    starts: *const i32,
}

/// Adds a chunk's products with a block of `M` rows to `acc[M][R][16]`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the indices are the axes: i a row of x, r a tile
unsafe fn multiply<W: Wide, F: TileFormat, const M: usize, const R: usize>(open: &Open<R>, x: Rows, acc: *mut f32) {
    const TILE_GROUPS: usize = 2 * CHUNK * ROWS;
    let groups = UNIT / F::GROUP;
    let quads = F::GROUP / 4;
    // SAFETY: the pointers are good for `open.units` units and `M` rows.
    unsafe {
        let mut sums = [[W::zero_float(); R]; M];
        if !open.first {
            for i in 0..M {
                for r in 0..R {
                    sums[i][r] = W::load_float(acc.add((i * R + r) * ROWS));
                }
            }
        }
        for unit in 0..open.units {
            let infos = x.infos.add(unit * M);
            for index in 0..groups {
                let group = unit * groups + index;
                let x_codes = x.codes.add((unit * UNIT + index * F::GROUP) * M);
                let mut dots = [[W::zero(); R]; M];
                if F::ZERO != 0 {
                    for i in 0..M {
                        dots[i] = [W::splat(*x.starts.add(group * M + i)); R];
                    }
                }
                for quad in 0..quads {
                    let mut codes = [W::zero(); R];
                    for r in 0..R {
                        codes[r] = W::load(open.codes[r].add(unit * 512 + (index * quads + quad) * 64));
                    }
                    for i in 0..M {
                        let x = W::splat(x_codes.add((quad * M + i) * 4).cast::<i32>().read_unaligned());
                        for r in 0..R {
                            dots[i][r] = W::dot(dots[i][r], codes[r], x);
                        }
                    }
                }
                for r in 0..R {
                    let scales = W::load_float(open.scales.add(r * TILE_GROUPS + group * ROWS));
                    for i in 0..M {
                        let scale = W::mul(scales, W::splat_float((*infos.add(i)).scale));
                        sums[i][r] = W::mul_add(W::to_float(dots[i][r]), scale, sums[i][r]);
                    }
                }
                if F::MINS {
                    for r in 0..R {
                        let mins = W::load_float(open.mins.add(r * TILE_GROUPS + group * ROWS));
                        for i in 0..M {
                            let info = &*infos.add(i);
                            let weighted = if groups == 1 { info.weighted } else { info.weighted_halves[index] };
                            sums[i][r] = W::sub_mul(mins, W::splat_float(weighted), sums[i][r]);
                        }
                    }
                }
            }
        }
        for i in 0..M {
            for r in 0..R {
                W::store_float(sums[i][r], acc.add((i * R + r) * ROWS));
            }
        }
    }
}

#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: a prefetch faults on no address.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast()) }
}

/// Planes of a unit to one byte a code, `[quad][row][column]`.
#[inline(always)]
unsafe fn open_unit<W: Wide, F: TileFormat>(packed: *const u8, codes: *mut u8) {
    // SAFETY: the caller passes a whole packed unit and room for 512 codes.
    unsafe {
        for line in 0..F::LOW + F::HIGH {
            prefetch(packed.wrapping_add(PREFETCH + 64 * line));
        }
        let line = |index: usize| W::load(packed.add(64 * index));
        for quad in 0..8u32 {
            let mut code = if F::LOW == 4 {
                W::bits(line(quad as usize / 2), 4 * (quad % 2), 0, 15)
            } else {
                W::bits(line(quad as usize / 4), 2 * (quad % 4), 0, 3)
            };
            if F::HIGH == 1 {
                code = W::or(code, W::bits(line(F::LOW), quad, F::LOW as u32, 1));
            }
            if F::HIGH == 2 {
                code = W::or(code, W::bits(line(F::LOW + quad as usize / 4), 2 * (quad % 4), F::LOW as u32, 3));
            }
            W::store(code, codes.add(64 * quad as usize));
        }
    }
}

/// Scales of a block to f32 `[groups][16]`, and minimums where the format has them.
#[inline(always)]
unsafe fn open_scales<W: Wide, F: TileFormat>(packed: *const u8, scales: *mut f32, mins: *mut f32) {
    // SAFETY: the caller passes the F::SCALE_BYTES of a block and room for its groups.
    unsafe {
        let d = W::load_half(packed);
        match F::SCALES {
            Scales::Half => W::store_float(d, scales),
            Scales::HalfMin => {
                W::store_float(d, scales);
                // `m` is added, a minimum is subtracted.
                W::store_float(W::negate(W::load_half(packed.add(32))), mins);
            }
            Scales::SubSigned => {
                for group in 0..F::BLOCK_GROUPS {
                    let sub = W::load_signed(packed.add(32 + ROWS * group));
                    W::store_float(W::mul(d, sub), scales.add(ROWS * group));
                }
            }
            Scales::SubMin => {
                let m = W::load_half(packed.add(32));
                for group in 0..F::BLOCK_GROUPS {
                    let at = packed.add(64 + ROWS * group);
                    W::store_float(W::mul(d, W::load_unsigned(at)), scales.add(ROWS * group));
                    let sub = W::load_unsigned(at.add(ROWS * F::BLOCK_GROUPS));
                    W::store_float(W::mul(m, sub), mins.add(ROWS * group));
                }
            }
            Scales::SubNibbles => {
                let m = W::load_half(packed.add(32));
                for group in 0..F::BLOCK_GROUPS {
                    let [low, high] = W::load_nibbles(packed.add(64 + ROWS * group));
                    W::store_float(W::mul(d, low), scales.add(ROWS * group));
                    W::store_float(W::mul(m, high), mins.add(ROWS * group));
                }
            }
        }
    }
}

const SINGLE: u8 = 0;
const HALF: u8 = 1;
const BRAIN: u8 = 2;

#[inline(always)]
unsafe fn floats<W: Wide, const KIND: u8>(job: &TileJob<'_>, acc: &mut [f32]) {
    let tiles = job.tiles;
    let column_bytes = if KIND == SINGLE { 4 * ROWS } else { 2 * ROWS };
    for tile in 0..tiles {
        let data = &job.data[tile * job.layout.bytes..][..job.layout.bytes];
        for first in (0..job.cols).step_by(FLOAT_CHUNK) {
            let count = FLOAT_CHUNK.min(job.cols - first);
            let mut row = job.rows.start;
            while row < job.rows.end {
                // SAFETY: columns `first .. first + count` lie in the tile and in each row of x, `row` in acc.
                row += unsafe {
                    let part = FloatPart {
                        w: data.as_ptr().add(first * column_bytes),
                        x: job.x.as_ptr().add(row * job.cols + first),
                        acc: acc.as_mut_ptr().add(((row - job.rows.start) * tiles + tile) * ROWS),
                        count,
                        cols: job.cols,
                        acc_stride: tiles * ROWS,
                        first: first == 0,
                    };
                    match job.rows.end - row {
                        1 => multiply_floats::<W, KIND, 1>(&part),
                        2 => multiply_floats::<W, KIND, 2>(&part),
                        3 => multiply_floats::<W, KIND, 3>(&part),
                        4..8 => multiply_floats::<W, KIND, 4>(&part),
                        _ if W::BLOCK_ROWS < 6 => multiply_floats::<W, KIND, 4>(&part),
                        _ => multiply_floats::<W, KIND, 8>(&part),
                    }
                };
            }
        }
    }
}

/// Some columns of a tile of floats and the rows of x they meet, `cols` apart; acc `acc_stride` apart.
struct FloatPart {
    w: *const u8,
    x: *const f32,
    acc: *mut f32,
    count: usize,
    cols: usize,
    acc_stride: usize,
    first: bool,
}

/// Adds `count` columns' products with `M` rows to `acc`; returns `M`.
#[inline(always)]
unsafe fn multiply_floats<W: Wide, const KIND: u8, const M: usize>(part: &FloatPart) -> usize {
    // SAFETY: the caller passes pointers good for `count` columns and `M` rows.
    unsafe {
        let mut sums = [W::zero_float(); M];
        for column in 0..part.count {
            let w = load_column::<W, KIND>(part.w, column);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = W::mul_add(W::splat_float(*part.x.add(i * part.cols + column)), w, *sum);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            let at = part.acc.add(i * part.acc_stride);
            let old = if part.first { W::zero_float() } else { W::load_float(at) };
            W::store_float(W::add(old, *sum), at);
        }
    }
    M
}

/// Sixteen weights of a column in f32.
#[inline(always)]
unsafe fn load_column<W: Wide, const KIND: u8>(w: *const u8, column: usize) -> W::Float {
    // SAFETY: the caller passes a tile that has this column.
    unsafe {
        let at = w.add(column * if KIND == SINGLE { 4 * ROWS } else { 2 * ROWS });
        prefetch(at.wrapping_add(PREFETCH));
        match KIND {
            SINGLE => W::load_float(at.cast()),
            HALF => W::load_half(at),
            _ => W::load_brain(at),
        }
    }
}
