//! Tiles on AVX2: a quad is two registers of rows, an activation is four bytes broadcast.
//!
//! Codes are opened a chunk (256 columns) at a time into the first-level cache and meet up to four rows of activations at once.
//! u8 x i8 products (`vpmaddubsw`) of several quads are summed in i16 as long as they cannot overflow; codes of eight bits
//! hand their sign to the activation. Sums and scaling follow [`super::scalar`] operation for operation.

use std::arch::x86_64::*;

use super::activations::{Part, UnitInfo, place, scale_of};
use super::format::{CHUNK, ROWS, Scales, TileFormat, UNIT};
use super::{FLOAT_CHUNK, TileJob};
use crate::quant::GgmlType;

/// Bytes between the unit being read and the one being fetched.
const PREFETCH: usize = 2048;

/// One chunk of a tile, opened.
#[repr(C, align(64))]
struct Chunk {
    codes: [u8; CHUNK * 512],
    scales: [[f32; ROWS]; 2 * CHUNK],
    mins: [[f32; ROWS]; 2 * CHUNK],
}

/// `acc[row of x][row of tile]`, overwritten. The caller has checked that the processor has AVX2, FMA and F16C.
pub(super) fn quantised_tile<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
    job.check(F::TYPE, acc.len());
    // SAFETY: features are there (the dispatch table offers this function only then), sizes were checked just above.
    unsafe { quantised_tile_avx2::<F>(job, acc) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantised_tile_avx2<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
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
            let opened = (&raw mut (*chunk).codes).cast::<u8>();
            let scales = (&raw mut (*chunk).scales).cast::<f32>();
            let mins = (&raw mut (*chunk).mins).cast::<f32>();
            let blocks = first / F::BLOCK_UNITS..(first + count) / F::BLOCK_UNITS;
            for (index, block) in blocks.enumerate() {
                let at = index * F::BLOCK_GROUPS * ROWS;
                open_scales::<F>(job.data.as_ptr().add(block * F::SCALE_BYTES), scales.add(at), mins.add(at));
            }
            // Eight-bit codes are multiplied where they are.
            let codes = if F::LOW == 8 {
                packed
            } else {
                for unit in 0..count {
                    open_unit::<F>(packed.add(unit * F::UNIT_BYTES), opened.add(unit * 512));
                }
                opened.cast_const()
            };
            let open = Open { codes, scales, mins, units: count };
            let mut acc = acc.as_mut_ptr();
            for block in job.blocks.clone() {
                let block = job.acts.block(block);
                let x = Rows {
                    codes: block.codes.as_ptr().add(first * UNIT * block.rows),
                    infos: block.infos.as_ptr().add(first * block.rows),
                };
                match block.rows {
                    1 => multiply::<F, 1>(&open, x, acc),
                    2 => multiply::<F, 2>(&open, x, acc),
                    3 => multiply::<F, 3>(&open, x, acc),
                    _ => multiply::<F, 4>(&open, x, acc),
                }
                acc = acc.add(block.rows * ROWS);
            }
        }
    }
}

/// Pointers into an open chunk: codes `[units][512]`, scales and mins `[groups][16]`.
struct Open {
    codes: *const u8,
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

/// Adds a chunk's products with a block of `M` rows to `acc[M][16]`.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<F: TileFormat, const M: usize>(open: &Open, x: Rows, acc: *mut f32) {
    let groups = UNIT / F::GROUP;
    let quads = F::GROUP / 4;
    // SAFETY: here and in the functions below, the caller passes pointers good for `open.units` units and `M` rows.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for (i, sums) in sums.iter_mut().enumerate() {
            *sums = load_pair(acc.add(i * ROWS));
        }
        for unit in 0..open.units {
            let codes = open.codes.add(unit * 512);
            if F::LOW == 8 {
                for line in 0..8 {
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH + 64 * line).cast());
                }
            }
            let infos = x.infos.add(unit * M);
            for index in 0..groups {
                let group = unit * groups + index;
                let codes = codes.add(index * quads * 64);
                let x_codes = x.codes.add((unit * UNIT + index * F::GROUP) * M);
                let dots = if F::LOW == 8 {
                    signed_dots::<M>(codes, x_codes)
                } else {
                    unsigned_dots::<F, M>(codes, x_codes, infos, index)
                };
                let scales = load_pair(open.scales.add(group * ROWS));
                for i in 0..M {
                    let x_scale = _mm256_set1_ps((*infos.add(i)).scale);
                    for h in 0..2 {
                        let scale = _mm256_mul_ps(scales[h], x_scale);
                        sums[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i][h]), scale, sums[i][h]);
                    }
                }
                if F::MINS {
                    let mins = load_pair(open.mins.add(group * ROWS));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let info = &*infos.add(i);
                        let whole = F::GROUP == UNIT;
                        let weighted = if whole { info.weighted } else { info.weighted_halves[index] };
                        let weighted = _mm256_set1_ps(weighted);
                        sums[0] = _mm256_fnmadd_ps(mins[0], weighted, sums[0]);
                        sums[1] = _mm256_fnmadd_ps(mins[1], weighted, sums[1]);
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            _mm256_storeu_ps(acc.add(i * ROWS), sums[0]);
            _mm256_storeu_ps(acc.add(i * ROWS + 8), sums[1]);
        }
    }
}

/// Integer products `sum((code - zero) * x)` of one group with `M` rows: `[M][16]` as pairs of registers.
///
/// A lane sums two columns of each quad in i16, from minus `BIAS` times its activations on. In between it may wrap;
/// the sum of a whole group fits (|code - bias| <= bias), so what comes out is exact.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unsigned_dots<F: TileFormat, const M: usize>(
    codes: *const u8,
    x: *const i8,
    infos: *const UnitInfo,
    index: usize,
) -> [[__m256i; 2]; M] {
    let whole = F::GROUP == UNIT;
    let shift = _mm_cvtsi32_si128(F::BIAS.trailing_zeros() as i32);
    let mut pairs = [[_mm256_setzero_si256(); 2]; M];
    // SAFETY: see `multiply`.
    unsafe {
        for (i, pairs) in pairs.iter_mut().enumerate() {
            let info = &*infos.add(i);
            let minus = if whole { info.minus } else { info.minus_halves[index] };
            let minus = _mm256_set1_epi32((&raw const minus).cast::<i32>().read_unaligned());
            *pairs = [_mm256_sll_epi16(minus, shift); 2];
        }
        for quad in 0..F::GROUP / 4 {
            let w = load_codes(codes, quad);
            for (i, pairs) in pairs.iter_mut().enumerate() {
                let a = broadcast::<M>(x, quad, i);
                for h in 0..2 {
                    pairs[h] = in_order(_mm256_add_epi16(pairs[h], _mm256_maddubs_epi16(w[h], a)));
                }
            }
        }
        let ones = _mm256_set1_epi16(1);
        let mut dots = pairs;
        for (i, dots) in dots.iter_mut().enumerate() {
            *dots = [_mm256_madd_epi16(dots[0], ones), _mm256_madd_epi16(dots[1], ones)];
            if F::BIAS != F::ZERO {
                let info = &*infos.add(i);
                let sum = if whole { info.sum } else { info.half_sums[index] };
                let back = _mm256_set1_epi32((F::BIAS - F::ZERO) * sum);
                *dots = [_mm256_add_epi32(dots[0], back), _mm256_add_epi32(dots[1], back)];
            }
        }
        dots
    }
}

/// As [`unsigned_dots`], for codes of eight bits: made signed again, their sign goes to the activation.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn signed_dots<const M: usize>(codes: *const u8, x: *const i8) -> [[__m256i; 2]; M] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[_mm256_setzero_si256(); 2]; M];
    for quad in 0..8 {
        // SAFETY: see `multiply`.
        let w = unsafe { load_codes(codes, quad) }.map(|w| _mm256_xor_si256(w, _mm256_set1_epi8(i8::MIN)));
        let magnitudes = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
        for (i, dots) in dots.iter_mut().enumerate() {
            // SAFETY: see `multiply`.
            let a = unsafe { broadcast::<M>(x, quad, i) };
            for h in 0..2 {
                // |code| <= 128 and |x| <= 127: two products fit an i16, four do not.
                let pairs = _mm256_maddubs_epi16(magnitudes[h], _mm256_sign_epi8(a, w[h]));
                dots[h] = in_order(_mm256_add_epi32(dots[h], _mm256_madd_epi16(pairs, ones)));
            }
        }
    }
    dots
}

/// A quad of codes, rows 0..8 and 8..16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_codes(codes: *const u8, quad: usize) -> [__m256i; 2] {
    // SAFETY: the caller passes codes that have this quad.
    unsafe {
        let at = codes.add(quad * 64).cast::<__m256i>();
        [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
    }
}

/// Four codes of row `i` of a block of `M`, in all lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn broadcast<const M: usize>(x: *const i8, quad: usize, i: usize) -> __m256i {
    // SAFETY: the caller passes codes of a block that has this quad and row.
    unsafe { _mm256_set1_epi32(x.add((quad * M + i) * 4).cast::<i32>().read_unaligned()) }
}

/// Keeps the compiler from regrouping sums row by row: that would load each quad of weights once a row (measured: 1.5 x slower).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order(mut sums: __m256i) -> __m256i {
    // SAFETY: no instruction at all; the value passes through a register.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) sums, options(nomem, nostack, preserves_flags)) };
    sums
}

/// Planes of a unit to one byte a code, `[quad][row][column]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn open_unit<F: TileFormat>(packed: *const u8, codes: *mut u8) {
    // SAFETY: the caller passes a whole packed unit and room for 512 codes; prefetching needs no valid address.
    unsafe {
        for line in 0..F::LOW + F::HIGH {
            _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(PREFETCH + 64 * line).cast());
        }
        for half in 0..2 {
            let line = |index: usize| _mm256_load_si256(packed.add(64 * index + 32 * half).cast());
            for quad in 0..8 {
                let mut code = if F::LOW == 4 {
                    bits(line(F::HIGH + quad / 2), 4 * (quad % 2), 0, 15)
                } else {
                    bits(line(F::HIGH + quad / 4), 2 * (quad % 4), 0, 3)
                };
                if F::HIGH == 1 {
                    code = _mm256_or_si256(code, bits(line(0), quad, F::LOW, 1));
                }
                if F::HIGH == 2 {
                    code = _mm256_or_si256(code, bits(line(quad / 4), 2 * (quad % 4), F::LOW, 3));
                }
                _mm256_store_si256(codes.add(64 * quad + 32 * half).cast(), code);
            }
        }
    }
}

/// The bits `mask << from` of each byte, moved to `mask << to`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(bytes: __m256i, from: usize, to: usize, mask: u8) -> __m256i {
    // A shift of 16-bit lanes carries bits across bytes; the mask drops them.
    let moved = if from >= to {
        _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((from - to) as i32))
    } else {
        _mm256_sll_epi16(bytes, _mm_cvtsi32_si128((to - from) as i32))
    };
    _mm256_and_si256(moved, _mm256_set1_epi8((mask << to) as i8))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_pair(at: *const f32) -> [__m256; 2] {
    // SAFETY: the caller passes sixteen values.
    unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
}

/// Scales of a block to f32 `[groups][16]`, and minimums where the format has them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn open_scales<F: TileFormat>(packed: *const u8, scales: *mut f32, mins: *mut f32) {
    // SAFETY: the caller passes the F::SCALE_BYTES of a block and room for its groups.
    unsafe {
        for h in 0..2 {
            let half = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(packed.add(at + 16 * h).cast()));
            let wide = |at: usize| _mm256_cvtepu8_epi32(_mm_loadl_epi64(packed.add(at + 8 * h).cast()));
            let store = |to: *mut f32, group: usize, v: __m256| _mm256_storeu_ps(to.add(group * ROWS + 8 * h), v);
            let d = half(0);
            match F::SCALES {
                Scales::Half => store(scales, 0, d),
                Scales::HalfMin => {
                    store(scales, 0, d);
                    // `m` is added, a minimum is subtracted.
                    store(mins, 0, _mm256_xor_ps(half(32), _mm256_set1_ps(-0.0)));
                }
                Scales::SubSigned => {
                    for group in 0..F::BLOCK_GROUPS {
                        let sub = _mm_loadl_epi64(packed.add(32 + 16 * group + 8 * h).cast());
                        let sub = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(sub));
                        store(scales, group, _mm256_mul_ps(d, sub));
                    }
                }
                Scales::SubMin => {
                    let m = half(32);
                    for group in 0..F::BLOCK_GROUPS {
                        let at = 64 + 16 * group;
                        store(scales, group, _mm256_mul_ps(d, _mm256_cvtepi32_ps(wide(at))));
                        let sub = wide(at + 16 * F::BLOCK_GROUPS);
                        store(mins, group, _mm256_mul_ps(m, _mm256_cvtepi32_ps(sub)));
                    }
                }
                Scales::SubNibbles => {
                    let m = half(32);
                    for group in 0..F::BLOCK_GROUPS {
                        let both = wide(64 + 16 * group);
                        let low = _mm256_and_si256(both, _mm256_set1_epi32(15));
                        store(scales, group, _mm256_mul_ps(d, _mm256_cvtepi32_ps(low)));
                        let high = _mm256_srli_epi32::<4>(both);
                        store(mins, group, _mm256_mul_ps(m, _mm256_cvtepi32_ps(high)));
                    }
                }
            }
        }
    }
}

/// As [`super::activations::quantize_part`].
pub(super) fn quantize_part(part: &mut Part<'_>) {
    // SAFETY: features as above.
    unsafe { quantize_part_avx2(part) }
    part.fill_planes();
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_part_avx2(part: &mut Part<'_>) {
    for row in 0..part.rows {
        for unit in 0..part.units() {
            let mut unit_codes = [0i8; UNIT];
            // SAFETY: a unit is 32 values long, and so are the codes.
            let info = unsafe { quantize_unit(part.unit(row, unit).as_ptr(), unit_codes.as_mut_ptr()) };
            part.infos[unit * part.rows + row] = info;
            place(&unit_codes, part.codes, part.rows, row, unit);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_unit(x: *const f32, codes: *mut i8) -> UnitInfo {
    // SAFETY: the caller passes 32 values and room for 32 codes.
    unsafe {
        let v = [0, 8, 16, 24].map(|at| _mm256_loadu_ps(x.add(at)));
        let magnitude = v.map(|v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff)));
        let max = _mm256_max_epi32(
            _mm256_max_epi32(magnitude[0], magnitude[1]),
            _mm256_max_epi32(magnitude[2], magnitude[3]),
        );
        let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
        let (scale, inverse) = scale_of(f32::from_bits(_mm_cvtsi128_si32(max) as u32));
        if inverse == 0.0 {
            // Nothing to round, and a NaN or an infinity must not reach the conversion.
            _mm256_storeu_si256(codes.cast(), _mm256_setzero_si256());
            return UnitInfo::new(scale, [[0; 2]; 2]);
        }
        let q = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(inverse))));
        let q = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        let q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256(codes.cast(), q);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
        let pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs));
        let pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
        let half = |both: i32| [both as i16, (both >> 16) as i16];
        let halves = [_mm256_extract_epi32::<0>(pairs), _mm256_extract_epi32::<4>(pairs)];
        UnitInfo::new(scale, [half(halves[0]), half(halves[1])])
    }
}

/// As [`quantised_tile`], for F32, F16 and BF16.
pub(super) fn float_tile(ty: GgmlType, job: &TileJob<'_>, acc: &mut [f32]) {
    job.check(ty, acc.len());
    // SAFETY: features as in `quantised_tile`, sizes checked just above.
    unsafe {
        match ty {
            GgmlType::F16 => float_tile_avx2::<HALF>(job, acc),
            GgmlType::BF16 => float_tile_avx2::<BRAIN>(job, acc),
            _ => float_tile_avx2::<SINGLE>(job, acc),
        }
    }
}

const SINGLE: u8 = 0;
const HALF: u8 = 1;
const BRAIN: u8 = 2;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_tile_avx2<const KIND: u8>(job: &TileJob<'_>, acc: &mut [f32]) {
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_floats<const KIND: u8, const M: usize>(
    w: *const u8,
    count: usize,
    x: *const f32,
    cols: usize,
    acc: *mut f32,
) -> usize {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: the caller passes pointers good for `count` columns and `M` rows.
    unsafe {
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
            let at = acc.add(i * ROWS);
            let old = load_pair(at);
            _mm256_storeu_ps(at, _mm256_add_ps(old[0], sums[0]));
            _mm256_storeu_ps(at.add(8), _mm256_add_ps(old[1], sums[1]));
        }
    }
    M
}

/// Adds a column's products with `M` rows, whose values of it are `cols` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_column<const M: usize>(sums: &mut [[__m256; 2]; M], x: *const f32, cols: usize, w: [__m256; 2]) {
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller passes a pointer good for `M` rows.
        let x = unsafe { _mm256_broadcast_ss(&*x.add(i * cols)) };
        sums[0] = _mm256_fmadd_ps(x, w[0], sums[0]);
        sums[1] = _mm256_fmadd_ps(x, w[1], sums[1]);
    }
}

/// Sixteen pairs of bf16 in f32: the even columns, then the odd.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_brains(at: *const u8) -> [[__m256; 2]; 2] {
    // SAFETY: the caller passes 64 bytes; prefetching needs no valid address.
    let pairs = unsafe {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
        [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())]
    };
    // A bf16 is the upper half of an f32.
    let upper = _mm256_set1_epi32(-0x1_0000);
    let even = [_mm256_slli_epi32::<16>(pairs[0]), _mm256_slli_epi32::<16>(pairs[1])];
    let odd = [_mm256_and_si256(pairs[0], upper), _mm256_and_si256(pairs[1], upper)];
    [
        [_mm256_castsi256_ps(even[0]), _mm256_castsi256_ps(even[1])],
        [_mm256_castsi256_ps(odd[0]), _mm256_castsi256_ps(odd[1])],
    ]
}

/// Sixteen weights of a column in f32, or in f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_column<const KIND: u8>(w: *const u8, column: usize) -> [__m256; 2] {
    // SAFETY: the caller passes a tile that has this column; prefetching needs no valid address.
    unsafe {
        if KIND == SINGLE {
            let at = w.add(column * 4 * ROWS);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
            return load_pair(at.cast());
        }
        let at = w.add(column * 2 * ROWS);
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
        let halves = [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(16).cast())];
        [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
    }
}
