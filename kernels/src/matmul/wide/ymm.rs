//! Two ymm registers: AVX2, FMA, F16C and AVX-VNNI.

use std::arch::x86_64::*;

use super::Wide;

/// Named only by functions entered where the processor has these: the SAFETY of every intrinsic below.
pub(in crate::matmul) struct Ymm;

/// Applies an operation to both halves, `$h` 0 and 1. No closure: one that is not inlined would lose the features.
macro_rules! both {
    ($h:ident => $op:expr) => {
        [
            {
                let $h = 0usize;
                $op
            },
            {
                let $h = 1usize;
                $op
            },
        ]
    };
}

impl Wide for Ymm {
    type Int = [__m256i; 2];
    type Float = [__m256; 2];
    // 2 x 3 integer and 2 x 3 float sums of 16 registers.
    const BLOCK_ROWS: usize = 3;
    const STREAM_ROWS: usize = 3;
    const TILES: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self::Int {
        // SAFETY: see the type.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self::Int {
        // SAFETY: see the type.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self::Int {
        // SAFETY: see the type; the caller has 64 bytes there.
        both!(h => unsafe { _mm256_loadu_si256(src.add(32 * h).cast()) })
    }

    #[inline(always)]
    unsafe fn store(x: Self::Int, dst: *mut u8) {
        for (h, x) in x.into_iter().enumerate() {
            // SAFETY: see the type; the caller has room for 64 bytes there.
            unsafe { _mm256_storeu_si256(dst.add(32 * h).cast(), x) }
        }
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Int, codes: Self::Int, x: Self::Int) -> Self::Int {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_dpbusd_avx_epi32(sums[h], codes[h], x[h]) })
    }

    #[inline(always)]
    unsafe fn bits(bytes: Self::Int, from: u32, to: u32, mask: u8) -> Self::Int {
        // A shift of 16-bit lanes carries bits across bytes; the mask drops them.
        // SAFETY: see the type.
        both!(h => unsafe {
            let moved = if from >= to {
                _mm256_srl_epi16(bytes[h], _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm256_sll_epi16(bytes[h], _mm_cvtsi32_si128((to - from) as i32))
            };
            _mm256_and_si256(moved, _mm256_set1_epi8((mask << to) as i8))
        })
    }

    #[inline(always)]
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_or_si256(a[h], b[h]) })
    }

    #[inline(always)]
    unsafe fn to_float(x: Self::Int) -> Self::Float {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_cvtepi32_ps(x[h]) })
    }

    #[inline(always)]
    unsafe fn zero_float() -> Self::Float {
        // SAFETY: see the type.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn splat_float(x: f32) -> Self::Float {
        // SAFETY: see the type.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    unsafe fn load_float(src: *const f32) -> Self::Float {
        // SAFETY: see the type; the caller has sixteen values there.
        both!(h => unsafe { _mm256_loadu_ps(src.add(8 * h)) })
    }

    #[inline(always)]
    unsafe fn store_float(x: Self::Float, dst: *mut f32) {
        for (h, x) in x.into_iter().enumerate() {
            // SAFETY: see the type; the caller has room for sixteen values there.
            unsafe { _mm256_storeu_ps(dst.add(8 * h), x) }
        }
    }

    #[inline(always)]
    unsafe fn load_half(src: *const u8) -> Self::Float {
        // SAFETY: see the type; the caller has 32 bytes there.
        both!(h => unsafe { _mm256_cvtph_ps(_mm_loadu_si128(src.add(16 * h).cast())) })
    }

    #[inline(always)]
    unsafe fn load_brains(src: *const u8) -> [Self::Float; 2] {
        // A bf16 is the upper half of an f32.
        // SAFETY: see the type; the caller has 64 bytes there.
        unsafe {
            let pairs = both!(h => _mm256_loadu_si256(src.add(32 * h).cast()));
            let even = both!(h => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[h])));
            [even, both!(h => _mm256_castsi256_ps(_mm256_and_si256(pairs[h], _mm256_set1_epi32(-0x1_0000))))]
        }
    }

    #[inline(always)]
    unsafe fn load_unsigned(src: *const u8) -> Self::Float {
        // SAFETY: see the type; the caller has 16 bytes there.
        both!(h => unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(src.add(8 * h).cast()))) })
    }

    #[inline(always)]
    unsafe fn load_signed(src: *const u8) -> Self::Float {
        // SAFETY: see the type; the caller has 16 bytes there.
        both!(h => unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(src.add(8 * h).cast()))) })
    }

    #[inline(always)]
    unsafe fn load_nibbles(src: *const u8) -> [Self::Float; 2] {
        // SAFETY: see the type; the caller has 16 bytes there.
        unsafe {
            let both = both!(h => _mm256_cvtepu8_epi32(_mm_loadl_epi64(src.add(8 * h).cast())));
            let low = both!(h => _mm256_cvtepi32_ps(_mm256_and_si256(both[h], _mm256_set1_epi32(15))));
            [low, both!(h => _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both[h])))]
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_add_ps(a[h], b[h]) })
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_mul_ps(a[h], b[h]) })
    }

    #[inline(always)]
    unsafe fn negate(a: Self::Float) -> Self::Float {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_xor_ps(a[h], _mm256_set1_ps(-0.0)) })
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_fmadd_ps(a[h], b[h], c[h]) })
    }

    #[inline(always)]
    unsafe fn sub_mul(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        // SAFETY: see the type.
        both!(h => unsafe { _mm256_fnmadd_ps(a[h], b[h], c[h]) })
    }
}
