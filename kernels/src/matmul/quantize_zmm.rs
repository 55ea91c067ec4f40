//! Activations to int8 on AVX-512: a unit is two registers.

use std::arch::x86_64::*;

use super::activations::{UnitInfo, scale_of};
use super::format::UNIT;

/// `rows` rows to one block, as [`super::activations::quantize_block`], but for the fields that only 16-bit sums need.
pub(super) fn quantize_block(x: &[f32], rows: usize, codes: &mut [i8], infos: &mut [UnitInfo]) {
    let units = x.len() / rows / UNIT;
    assert!(x.len() == units * rows * UNIT && codes.len() == x.len() && infos.len() == units * rows);
    // SAFETY: only `Isa::Avx512` comes here, and it is handed out where the processor has the features; sizes as checked.
    unsafe { quantize_block_zmm(x.as_ptr(), rows, units, codes.as_mut_ptr(), infos) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn quantize_block_zmm(x: *const f32, rows: usize, units: usize, codes: *mut i8, infos: &mut [UnitInfo]) {
    for row in 0..rows {
        for unit in 0..units {
            // SAFETY: row and unit are among those that the caller has checked.
            unsafe {
                let (bytes, info) = quantize_unit(x.add((row * units + unit) * UNIT));
                *infos.get_unchecked_mut(unit * rows + row) = info;
                // [unit][quad][rows][4]
                let place = codes.add((unit * rows * 8 + row) * 4);
                let mut quads = [0u32; 8];
                _mm256_storeu_si256(quads.as_mut_ptr().cast(), bytes);
                for (quad, codes) in quads.into_iter().enumerate() {
                    place.add(quad * rows * 4).cast::<u32>().write_unaligned(codes);
                }
            }
        }
    }
}

/// 32 values to their codes and what goes with them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn quantize_unit(x: *const f32) -> (__m256i, UnitInfo) {
    // SAFETY: the caller passes 32 values.
    let v = unsafe { [_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))] };
    // As integers, magnitudes order like floats, with NaN above infinity above all that is finite.
    let magnitude = v.map(|v| _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fff_ffff)));
    let max = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitude[0], magnitude[1]));
    let (scale, inverse) = scale_of(f32::from_bits(max as u32));
    if inverse == 0.0 {
        // Nothing to round, and a NaN or an infinity must not reach the conversion.
        return (_mm256_setzero_si256(), UnitInfo::of_sums(scale, [0; 2]));
    }
    let q = v.map(|v| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(inverse)))));
    let bytes = _mm256_set_m128i(q[1], q[0]);
    // Sums of eight codes + 128 each, two to a half.
    let sums = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(i8::MIN)), _mm256_setzero_si256());
    let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
    let half_sums = [_mm256_extract_epi32::<0>(sums) - 16 * 128, _mm256_extract_epi32::<4>(sums) - 16 * 128];
    (bytes, UnitInfo::of_sums(scale, half_sums))
}
