//! One zmm register: AVX-512 F, BW, VL, DQ and VNNI.

use std::arch::x86_64::*;

use super::Wide;

/// Named only by functions entered where the processor has these: the SAFETY of every intrinsic below.
pub(in crate::matmul) struct Zmm;

impl Wide for Zmm {
    type Int = __m512i;
    type Float = __m512;
    // 2 x 6 integer and 2 x 6 float sums leave eight of 32 registers for weights and scales.
    const BLOCK_ROWS: usize = 6;
    const STREAM_ROWS: usize = 12;
    const TILES: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: see the type.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn splat(x: i32) -> __m512i {
        // SAFETY: see the type.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> __m512i {
        // SAFETY: see the type; the caller has 64 bytes there.
        unsafe { _mm512_loadu_si512(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(x: __m512i, dst: *mut u8) {
        // SAFETY: see the type; the caller has room for 64 bytes there.
        unsafe { _mm512_storeu_si512(dst.cast(), x) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see the type.
        unsafe { _mm512_dpbusd_epi32(sums, codes, x) }
    }

    #[inline(always)]
    unsafe fn bits(bytes: __m512i, from: u32, to: u32, mask: u8) -> __m512i {
        // A shift of 16-bit lanes carries bits across bytes; the mask drops them.
        // SAFETY: see the type.
        unsafe {
            let moved = if from >= to {
                _mm512_srl_epi16(bytes, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm512_sll_epi16(bytes, _mm_cvtsi32_si128((to - from) as i32))
            };
            _mm512_and_si512(moved, _mm512_set1_epi8((mask << to) as i8))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the type.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(x: __m512i) -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    unsafe fn zero_float() -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_float(src: *const f32) -> __m512 {
        // SAFETY: see the type; the caller has sixteen values there.
        unsafe { _mm512_loadu_ps(src) }
    }

    #[inline(always)]
    unsafe fn store_float(x: __m512, dst: *mut f32) {
        // SAFETY: see the type; the caller has room for sixteen values there.
        unsafe { _mm512_storeu_ps(dst, x) }
    }

    #[inline(always)]
    unsafe fn load_half(src: *const u8) -> __m512 {
        // SAFETY: see the type; the caller has 32 bytes there.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(src.cast())) }
    }

    #[inline(always)]
    unsafe fn load_brains(src: *const u8) -> [__m512; 2] {
        // A bf16 is the upper half of an f32.
        // SAFETY: see the type; the caller has 64 bytes there.
        unsafe {
            let pairs = _mm512_loadu_si512(src.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
        }
    }

    #[inline(always)]
    unsafe fn load_unsigned(src: *const u8) -> __m512 {
        // SAFETY: see the type; the caller has 16 bytes there.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(src.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_signed(src: *const u8) -> __m512 {
        // SAFETY: see the type; the caller has 16 bytes there.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(src.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(src: *const u8) -> [__m512; 2] {
        // SAFETY: see the type; the caller has 16 bytes there.
        unsafe {
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(src.cast()));
            let low = _mm512_and_si512(both, _mm512_set1_epi32(15));
            [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both))]
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn negate(a: __m512) -> __m512 {
        // SAFETY: see the type.
        unsafe {
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), sign))
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn sub_mul(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the type.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
}
