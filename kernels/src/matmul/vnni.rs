//! Tiles by `vpdpbusd`, over either register [`Wide`]: a quad of codes is one operand, four bytes of x the other.
//!
//! Codes are unsigned as packed, so a product is exact in i32 and nothing is subtracted from it: sums start at minus
//! zero times the sum of x ([`Plane::Start`]). A chunk (256 columns) of a tile is opened into the first-level cache
//! and meets every row of the job before the next; rows come in blocks whose sums stay in registers.
//! Sums and scaling follow [`super::scalar`] operation for operation.

use std::mem::MaybeUninit;

use super::activations::{Activations, Plane};
use super::format::{CHUNK, ROWS, Scales, TileFormat, UNIT};
use super::wide::{Wide, Ymm, Zmm};
use super::{FLOAT_CHUNK, TileJob};
use crate::quant::GgmlType;

/// Columns of floats between the one being read and the one being fetched.
const FETCH_COLUMNS: usize = 64;
/// Bytes between the unit being read by a stream and the one brought to the first-level cache.
const AHEAD: usize = 2048;
/// The same for the second-level cache: what memory takes to answer, at full speed (4 rows: 11 % over one distance of 4096).
const FAR_AHEAD: usize = 8192;

/// One chunk of up to two tiles, opened.
#[repr(C, align(64))]
struct Chunk {
    codes: [[u8; CHUNK * 512]; 2],
    scales: [[[f32; ROWS]; 2 * CHUNK]; 2],
    mins: [[[f32; ROWS]; 2 * CHUNK]; 2],
}

/// A compiled [`multiply`].
type Multiply<const R: usize> = unsafe fn(&Open<R>, Rows, Fetch, *mut f32);

/// [`multiply`] compiled for one row, two, and so on.
macro_rules! by_rows {
    ($multiply:ident, $format:ident, $tiles:literal, $packed:literal, [$($rows:literal)*]) => {
        &[$($multiply::<$format, $rows, $tiles, $packed>),*]
    };
}

/// Defines the entries of a width: tiles of codes and of floats, compiled with its features.
///
/// Each number of rows is a function of its own: inlined side by side, their address arithmetic was merged and their
/// sums spilled (measured: 30 % slower).
macro_rules! entries {
    ($wide:ident, $features:literal, $multiply:ident, $stream:tt, $block:tt,
     $quantised:ident / $quantised_inner:ident, $float:ident / $float_inner:ident) => {
        #[inline(never)]
        #[target_feature(enable = $features)]
        unsafe fn $multiply<F: TileFormat, const M: usize, const R: usize, const PACKED: bool>(
            open: &Open<R>,
            x: Rows,
            fetch: Fetch,
            acc: *mut f32,
        ) {
            // SAFETY: the features are this function's own; the pointers are the caller's promise.
            unsafe { multiply::<$wide, F, M, R, PACKED>(open, x, fetch, acc) }
        }

        #[target_feature(enable = $features)]
        fn $quantised_inner<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
            // SAFETY: as above; the job was checked by whoever called this.
            unsafe {
                if job.blocks.len() == 1 {
                    each_chunk::<$wide, F, 1, true>(job, acc.as_mut_ptr(), by_rows!($multiply, F, 1, true, $stream));
                } else if job.tiles == 2 {
                    each_chunk::<$wide, F, 2, false>(job, acc.as_mut_ptr(), by_rows!($multiply, F, 2, false, $block));
                } else {
                    each_chunk::<$wide, F, 1, false>(job, acc.as_mut_ptr(), by_rows!($multiply, F, 1, false, $block));
                }
            }
        }

        /// `acc[row of x][row of the tiles]`, overwritten. The caller has checked that the processor has the features.
        pub(super) fn $quantised<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
            job.check(F::TYPE, acc.len());
            assert!(job.tiles == 1 || job.tiles == 2 && job.blocks.len() > 1, "{} tiles at once", job.tiles);
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

// Rows of a stream and of a block, as far as `Wide::STREAM_ROWS` and `Wide::BLOCK_ROWS`.
entries!(Zmm, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c",
    multiply_zmm, [1 2 3 4 5 6 7 8 9 10 11 12], [1 2 3 4 5 6],
    quantised_tiles_zmm / quantised_zmm, float_tiles_zmm / floats_zmm);
entries!(Ymm, "avxvnni,avx2,fma,f16c", multiply_ymm, [1 2 3], [1 2 3],
    quantised_tiles_ymm / quantised_ymm, float_tiles_ymm / floats_ymm);

/// # Safety
/// The job was checked; the processor has `W`'s features. So for all functions below.
#[inline(always)]
unsafe fn each_chunk<W: Wide, F: TileFormat, const R: usize, const PACKED: bool>(
    job: &TileJob<'_>,
    acc: *mut f32,
    by_rows: &[Multiply<R>],
) {
    let units = job.cols / UNIT;
    let planes = Planes::of::<F>(job.acts);
    let mut chunk = MaybeUninit::<Chunk>::uninit();
    let chunk = chunk.as_mut_ptr();
    // A stream of a format without sub-scales is one chunk: its scales are opened as they are needed, too.
    let size = if PACKED && !F::SUPER { units } else { chunk_units::<F>(units) };
    for first in (0..units).step_by(size) {
        let count = size.min(units - first);
        // SAFETY: unit `first + count` and its block lie in each tile; the chunk holds CHUNK units and 2 * CHUNK groups
        // of two tiles. All that `multiply` reads is written first, and no reference to the whole is made.
        unsafe {
            let mut open = Open {
                codes: [std::ptr::null(); R],
                scales: (&raw const (*chunk).scales).cast::<f32>(),
                mins: (&raw const (*chunk).mins).cast::<f32>(),
                packed_scales: job.data.as_ptr(),
                units: count,
                first: first == 0,
            };
            for (r, codes) in open.codes.iter_mut().enumerate() {
                let tile = job.data.as_ptr().add(r * job.layout.bytes);
                *codes = open_chunk::<W, F, PACKED>(tile, job, first, count, chunk, r);
            }
            let mut acc = acc;
            for (index, block) in job.blocks.clone().enumerate() {
                // What is read next comes while this is multiplied: the first block asks for tile 0, the second for tile 1.
                // The scales of the tiles that follow come early, in the shade of the next blocks: opening begins with them.
                let fetch = match index {
                    _ if PACKED => Fetch::NOTHING,
                    _ if index < R => next_part::<F>(job, first + count, index),
                    _ if index < 2 * R && first == 0 => next_scales(job, index - R),
                    _ => Fetch::NOTHING,
                };
                let fetch = fetch.over(count);
                let start = job.acts.blocks().start(block);
                let block = job.acts.block(block);
                let at = start * units + first * block.rows;
                let x = Rows {
                    codes: block.codes.as_ptr().add(first * UNIT * block.rows),
                    scales: planes.scales.add(at),
                    weighted: planes.weighted.wrapping_add(at * (UNIT / F::GROUP)),
                    starts: planes.starts.wrapping_add(at * (UNIT / F::GROUP)),
                };
                by_rows[block.rows - 1](&open, x, fetch, acc);
                acc = acc.add(block.rows * R * ROWS);
            }
        }
    }
}

/// Units that are opened at a time, as even as whole blocks allow: a short last chunk would leave no time to fetch the next tile.
#[inline(always)]
fn chunk_units<F: TileFormat>(units: usize) -> usize {
    if F::BLOCK_UNITS > 1 { CHUNK.min(units) } else { units.div_ceil(units.div_ceil(CHUNK)) }
}

/// Opens units `first .. first + count` of a tile into part `r` of the chunk; gives where its codes are.
#[inline(always)]
unsafe fn open_chunk<W: Wide, F: TileFormat, const PACKED: bool>(
    tile: *const u8,
    job: &TileJob<'_>,
    first: usize,
    count: usize,
    chunk: *mut Chunk,
    r: usize,
) -> *const u8 {
    // SAFETY: see the caller.
    unsafe {
        let packed = tile.add(job.layout.codes + first * F::UNIT_BYTES);
        if PACKED && !F::SUPER {
            return packed;
        }
        let scales = (&raw mut (*chunk).scales[r]).cast::<f32>();
        let mins = (&raw mut (*chunk).mins[r]).cast::<f32>();
        for (index, block) in (first / F::BLOCK_UNITS..(first + count) / F::BLOCK_UNITS).enumerate() {
            let at = index * F::BLOCK_GROUPS * ROWS;
            open_scales::<W, F>(tile.add(block * F::SCALE_BYTES), scales.add(at), mins.add(at));
        }
        if F::LOW == 8 || PACKED {
            return packed; // codes of eight bits are multiplied where they are
        }
        let opened = (&raw mut (*chunk).codes[r]).cast::<u8>();
        for unit in 0..count {
            open_unit::<W, F>(packed.add(unit * F::UNIT_BYTES), opened.add(unit * 512));
        }
        opened
    }
}

/// Memory that will be read soon: cache lines to ask for beside each unit.
#[derive(Clone, Copy)]
struct Fetch {
    at: *const u8,
    lines: usize,
}

impl Fetch {
    const NOTHING: Self = Self { at: std::ptr::null(), lines: 0 };

    /// The same lines, spread over some units.
    #[inline(always)]
    fn over(self, units: usize) -> Self {
        Self { lines: self.lines.div_ceil(units), ..self }
    }

    /// Asks for the lines of one unit.
    #[inline(always)]
    fn ask(self, unit: usize) {
        for line in unit * self.lines..(unit + 1) * self.lines {
            prefetch(self.at.wrapping_add(64 * line));
        }
    }
}

/// What tile `r` of the job reads after the chunk that ends at unit `end`: its next chunk, or the tile that follows the job
/// from its scales to the end of its first chunk.
#[inline(always)]
fn next_part<F: TileFormat>(job: &TileJob<'_>, end: usize, r: usize) -> Fetch {
    let units = job.cols / UNIT;
    let size = chunk_units::<F>(units);
    let tile = r * job.layout.bytes;
    let (start, len) = if end < units {
        (tile + job.layout.codes + end * F::UNIT_BYTES, size.min(units - end) * F::UNIT_BYTES)
    } else if job.more {
        (tile + job.tiles * job.layout.bytes, job.layout.codes + size * F::UNIT_BYTES)
    } else {
        return Fetch::NOTHING;
    };
    Fetch { at: job.data.as_ptr().wrapping_add(start), lines: len.div_ceil(64) }
}

/// The scales of the tile that follows tile `r` when the job is done.
#[inline(always)]
fn next_scales(job: &TileJob<'_>, r: usize) -> Fetch {
    if !job.more {
        return Fetch::NOTHING;
    }
    let start = (r + job.tiles) * job.layout.bytes;
    Fetch { at: job.data.as_ptr().wrapping_add(start), lines: job.layout.codes / 64 }
}

/// Pointers into an open chunk: codes `[units][512]` a tile; scales and mins `[2 * CHUNK][16]` a tile.
struct Open<const R: usize> {
    codes: [*const u8; R],
    scales: *const f32,
    mins: *const f32,
    /// Those of one tile as packed, for a stream that opens them itself.
    packed_scales: *const u8,
    units: usize,
    /// The sums begin here.
    first: bool,
}

/// The planes that a format reads, of all rows; null those it does not.
struct Planes {
    scales: *const f32,
    weighted: *const f32,
    starts: *const i32,
}

impl Planes {
    fn of<F: TileFormat>(acts: &Activations) -> Self {
        let at = |plane: Option<Plane>| plane.map_or(std::ptr::null(), |plane| acts.plane(plane).as_ptr());
        let [scales, weighted, starts] = Plane::of::<F>();
        let (scales, weighted, starts) = (at(scales), at(weighted), at(starts));
        Self { scales: scales.cast(), weighted: weighted.cast(), starts: starts.cast() }
    }
}

/// Pointers into a block of activations, at the chunk's first unit: codes `[unit][quad][M][4]`, scales `[unit][M]`, the others
/// `[unit][group][M]`.
#[derive(Clone, Copy)]
struct Rows {
    codes: *const i8,
    scales: *const f32,
    weighted: *const f32,
    starts: *const i32,
}

/// Adds a chunk's products with a block of `M` rows to `acc[M][R][16]`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the indices are the axes: i a row of x, r a tile
unsafe fn multiply<W: Wide, F: TileFormat, const M: usize, const R: usize, const PACKED: bool>(
    open: &Open<R>,
    x: Rows,
    fetch: Fetch,
    acc: *mut f32,
) {
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
            if PACKED {
                let unit = open.codes[0].wrapping_add(unit * F::UNIT_BYTES);
                for line in 0..F::LOW + F::HIGH {
                    prefetch(unit.wrapping_add(AHEAD + 64 * line));
                    prefetch_far(unit.wrapping_add(FAR_AHEAD + 64 * line));
                }
            } else {
                fetch.ask(unit);
            }
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
                        let quad = index * quads + quad;
                        codes[r] = if PACKED {
                            open_quad::<W, F>(open.codes[r].add(unit * F::UNIT_BYTES), quad)
                        } else {
                            W::load(open.codes[r].add(unit * 512 + quad * 64))
                        };
                    }
                    for i in 0..M {
                        let x = W::splat(x_codes.add((quad * M + i) * 4).cast::<i32>().read_unaligned());
                        for r in 0..R {
                            dots[i][r] = W::dot(dots[i][r], codes[r], x);
                        }
                    }
                }
                for r in 0..R {
                    let scales = if PACKED && !F::SUPER {
                        W::load_half(open.packed_scales.add(unit * F::SCALE_BYTES))
                    } else {
                        W::load_float(open.scales.add(r * TILE_GROUPS + group * ROWS))
                    };
                    for i in 0..M {
                        let scale = W::mul(scales, W::splat_float(*x.scales.add(unit * M + i)));
                        sums[i][r] = W::mul_add(W::to_float(dots[i][r]), scale, sums[i][r]);
                    }
                }
                if F::MINS {
                    for r in 0..R {
                        let mins = if PACKED && !F::SUPER {
                            // `m` is added, a minimum is subtracted.
                            W::negate(W::load_half(open.packed_scales.add(unit * F::SCALE_BYTES + 2 * ROWS)))
                        } else {
                            W::load_float(open.mins.add(r * TILE_GROUPS + group * ROWS))
                        };
                        for i in 0..M {
                            let weighted = W::splat_float(*x.weighted.add(group * M + i));
                            sums[i][r] = W::sub_mul(mins, weighted, sums[i][r]);
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

/// As [`prefetch`], into the second-level cache.
#[inline(always)]
fn prefetch_far(address: *const u8) {
    // SAFETY: as above.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast()) }
}

/// Planes of a unit to one byte a code, `[quad][row][column]`.
#[inline(always)]
unsafe fn open_unit<W: Wide, F: TileFormat>(packed: *const u8, codes: *mut u8) {
    for quad in 0..8 {
        // SAFETY: the caller passes a whole packed unit and room for 512 codes.
        unsafe { W::store(open_quad::<W, F>(packed, quad), codes.add(64 * quad)) };
    }
}

/// The codes of one quad of a packed unit, a byte each.
#[inline(always)]
unsafe fn open_quad<W: Wide, F: TileFormat>(packed: *const u8, quad: usize) -> W::Int {
    // SAFETY: the caller passes a whole packed unit.
    unsafe {
        if F::LOW == 8 {
            return W::load(packed.add(64 * quad));
        }
        let in_line = |bits: usize| (bits * (quad % (8 / bits))) as u32;
        let low = W::load(packed.add(64 * (F::HIGH + quad * F::LOW / 8)));
        let code = W::bits(low, in_line(F::LOW), 0, ((1u32 << F::LOW) - 1) as u8);
        if F::HIGH == 0 {
            return code;
        }
        let high = W::load(packed.add(64 * (quad * F::HIGH / 8)));
        W::or(code, W::bits(high, in_line(F::HIGH), F::LOW as u32, ((1u32 << F::HIGH) - 1) as u8))
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
    let x = job.floats(if KIND == BRAIN { GgmlType::BF16 } else { GgmlType::F32 });
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
                        x: x.as_ptr().add(row * job.cols + first),
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
        if KIND == BRAIN {
            for column in (0..part.count).step_by(2) {
                let [even, odd] = load_pair::<W>(part.w, column);
                if column + 1 < part.count {
                    add_column::<W, M>(&mut sums, part, column + 1, odd);
                }
                add_column::<W, M>(&mut sums, part, column, even);
            }
        } else {
            for column in 0..part.count {
                add_column::<W, M>(&mut sums, part, column, load_column::<W, KIND>(part.w, column));
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

#[inline(always)]
unsafe fn add_column<W: Wide, const M: usize>(sums: &mut [W::Float; M], part: &FloatPart, column: usize, w: W::Float) {
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's column is one of the part's.
        *sum = unsafe { W::mul_add(W::splat_float(*part.x.add(i * part.cols + column)), w, *sum) };
    }
}

/// Sixteen bf16 of an even column in f32, and of the odd one behind it.
#[inline(always)]
unsafe fn load_pair<W: Wide>(w: *const u8, column: usize) -> [W::Float; 2] {
    // SAFETY: the caller passes a tile that has this column.
    unsafe {
        let at = w.add(column * 2 * ROWS);
        prefetch(at.wrapping_add(FETCH_COLUMNS * 2 * ROWS));
        W::load_brains(at)
    }
}

/// Sixteen weights of a column in f32, or in f16.
#[inline(always)]
unsafe fn load_column<W: Wide, const KIND: u8>(w: *const u8, column: usize) -> W::Float {
    // SAFETY: the caller passes a tile that has this column.
    unsafe {
        let at = w.add(column * if KIND == SINGLE { 4 * ROWS } else { 2 * ROWS });
        prefetch(at.wrapping_add(FETCH_COLUMNS * 2 * ROWS));
        if KIND == SINGLE { W::load_float(at.cast()) } else { W::load_half(at) }
    }
}
