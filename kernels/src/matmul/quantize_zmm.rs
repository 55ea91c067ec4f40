//! Activations to int8 on AVX-512: a unit is two registers, and eight units share their divisions.

use std::arch::x86_64::*;

use super::activations::{Part, Plane, TINY};
use super::format::UNIT;

/// Units whose scales are computed together.
const GROUP: usize = 8;

/// What a group's units have beside their codes.
#[derive(Default)]
struct Numbers {
    scales: [f32; GROUP],
    inverses: [f32; GROUP],
    half_sums: [[i32; GROUP]; 2],
}

/// Codes and planes as [`super::activations::quantize_part`] gives them; the infos, which its kernels do not read, stay as they are.
pub(super) fn quantize_part(part: &mut Part<'_>) {
    let units = part.units();
    let last = part.x.len().checked_sub((part.rows - 1) * part.cols);
    assert!(last.is_some_and(|last| units * UNIT <= last) && part.codes.len() == units * part.rows * UNIT);
    for (plane, values) in part.planes.iter().flatten() {
        assert!(values.len() == units * part.rows * plane.groups());
    }
    // SAFETY: only `Isa::Avx512` comes here, and it is handed out where the processor has the features; sizes as checked.
    unsafe { quantize_part_zmm(part, units) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn quantize_part_zmm(part: &mut Part<'_>, units: usize) {
    let mut numbers = Numbers::default();
    for first in (0..units).step_by(GROUP) {
        let count = GROUP.min(units - first);
        for row in 0..part.rows {
            // SAFETY: these units of this row are among those that the caller has checked.
            unsafe {
                let x = part.x.as_ptr().add(row * part.cols + first * UNIT);
                let codes = part.codes.as_mut_ptr().add((first * part.rows * 8 + row) * 4);
                scale_units(x, count, &mut numbers);
                round_units(x, count, (codes, part.rows), &mut numbers);
            }
            for (plane, values) in part.planes.iter_mut().flatten() {
                fill(*plane, &numbers, count, &mut values[first * part.rows * plane.groups() + row..], part.rows);
            }
        }
    }
}

/// Scales of `count` units, and their inverses; see [`super::activations::scale_of`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn scale_units(x: *const f32, count: usize, numbers: &mut Numbers) {
    let mut largest = [0i32; GROUP];
    for (unit, largest) in largest.iter_mut().enumerate().take(count) {
        // As integers, magnitudes order like floats, with NaN above infinity above all that is finite.
        let magnitude = |at: usize| {
            // SAFETY: the caller passes `count` units.
            let v = unsafe { _mm512_loadu_si512(x.add(unit * UNIT + at).cast()) };
            _mm512_and_si512(v, _mm512_set1_epi32(0x7fff_ffff))
        };
        *largest = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitude(0), magnitude(16)));
    }
    // SAFETY: the arrays have eight values.
    unsafe {
        let largest = _mm256_loadu_ps(largest.as_ptr().cast());
        let most = _mm256_set1_ps(127.0);
        let is_number = _mm256_cmp_ps_mask::<_CMP_LT_OQ>(largest, _mm256_set1_ps(f32::INFINITY));
        let is_something = is_number & _mm256_cmp_ps_mask::<_CMP_GE_OQ>(largest, _mm256_set1_ps(TINY));
        let scale = _mm256_maskz_div_ps(is_something, largest, most);
        let scale = _mm256_mask_blend_ps(is_number, _mm256_set1_ps(f32::NAN), scale);
        _mm256_storeu_ps(numbers.scales.as_mut_ptr(), scale);
        _mm256_storeu_ps(numbers.inverses.as_mut_ptr(), _mm256_maskz_div_ps(is_something, most, largest));
    }
}

/// Codes of `count` units to `[unit][quad][rows][4]`, and their sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn round_units(x: *const f32, count: usize, (codes, rows): (*mut i8, usize), numbers: &mut Numbers) {
    for unit in 0..count {
        let inverse = _mm512_set1_ps(numbers.inverses[unit]);
        // What is not finite becomes the smallest i32 times an inverse of zero, and its lowest byte is zero.
        let half = |at: usize| {
            // SAFETY: the caller passes `count` units.
            let v = unsafe { _mm512_loadu_ps(x.add(unit * UNIT + at)) };
            _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)))
        };
        let bytes = _mm256_set_m128i(half(16), half(0));
        // Sums of eight codes + 128 each, two to a half.
        let sums = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(i8::MIN)), _mm256_setzero_si256());
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
        numbers.half_sums[0][unit] = _mm256_extract_epi32::<0>(sums) - 16 * 128;
        numbers.half_sums[1][unit] = _mm256_extract_epi32::<4>(sums) - 16 * 128;
        let mut quads = [0u32; 8];
        // SAFETY: the caller has room for the codes of `count` units.
        unsafe {
            _mm256_storeu_si256(quads.as_mut_ptr().cast(), bytes);
            let place = codes.add(unit * rows * UNIT);
            for (quad, codes) in quads.into_iter().enumerate() {
                place.add(quad * rows * 4).cast::<u32>().write_unaligned(codes);
            }
        }
    }
}

/// The numbers of a row's units to a plane, from `values[0]` on: `[unit][group][rows]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn fill(plane: Plane, numbers: &Numbers, count: usize, values: &mut [u32], rows: usize) {
    let Numbers { scales, half_sums: [first, last], .. } = numbers;
    let whole: [i32; GROUP] = std::array::from_fn(|i| first[i] + last[i]);
    let mut put = |group: usize, groups: usize, numbers: [u32; GROUP]| {
        for (unit, number) in numbers.into_iter().enumerate().take(count) {
            values[(unit * groups + group) * rows] = number;
        }
    };
    let weighted = |sums: &[i32; GROUP]| std::array::from_fn(|i| (scales[i] * sums[i] as f32).to_bits());
    let start = |zero: i32, sums: &[i32; GROUP]| std::array::from_fn(|i| (-zero * sums[i]) as u32);
    match plane {
        Plane::Scale => put(0, 1, scales.map(f32::to_bits)),
        Plane::Weighted { halves: false } => put(0, 1, weighted(&whole)),
        Plane::Start { zero, halves: false } => put(0, 1, start(zero, &whole)),
        Plane::Weighted { halves: true } => {
            put(0, 2, weighted(first));
            put(1, 2, weighted(last));
        }
        Plane::Start { zero, halves: true } => {
            put(0, 2, start(zero, first));
            put(1, 2, start(zero, last));
        }
    }
}
