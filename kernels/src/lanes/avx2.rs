//! Lanes in one ymm register: AVX2, FMA, F16C; and beside them sixteen columns in a zmm register, where there is AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Columns, LANES, Lanes};

/// Eight f32 in a register.
///
/// Only functions entered through `lanes_entry!` name this type, and that enters them where the processor has
/// AVX2, FMA and F16C: this is the SAFETY of every intrinsic below.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

/// The same where the processor has AVX-512 F, BW, VL and DQ too.
///
/// Eight lanes are kept: the order of sums is theirs. What has no sum across lanes may use [`Lanes::Columns`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m256);

macro_rules! ymm_lanes {
    ($name:ident, $columns:ty) => {
        impl Lanes for $name {
            type Columns = $columns;

            #[inline(always)]
            fn splat(x: f32) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_set1_ps(x) })
            }

            #[inline(always)]
            unsafe fn load(src: *const f32) -> Self {
                // SAFETY: see the type; the caller has eight values there.
                Self(unsafe { _mm256_loadu_ps(src) })
            }

            #[inline(always)]
            unsafe fn load_f16(src: *const f16) -> Self {
                // SAFETY: see the type; the caller has eight values there, 16 bytes.
                Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(src.cast())) })
            }

            #[inline(always)]
            unsafe fn load_bf16(src: *const bf16) -> Self {
                // A bf16 is the upper half of an f32.
                // SAFETY: see the type; the caller has eight values there, 16 bytes.
                Self(unsafe {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                })
            }

            #[inline(always)]
            unsafe fn load_i8(src: *const i8) -> Self {
                // SAFETY: see the type; the caller has eight values there, 8 bytes.
                Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(src.cast()))) })
            }

            #[inline(always)]
            unsafe fn store(self, dst: *mut f32) {
                // SAFETY: see the type; the caller has room for eight values there.
                unsafe { _mm256_storeu_ps(dst, self.0) }
            }

            #[inline(always)]
            unsafe fn store_f16(self, dst: *mut f16) {
                // SAFETY: see the type; the caller has room for eight values there, 16 bytes.
                unsafe {
                    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
                    _mm_storeu_si128(dst.cast(), halves)
                }
            }

            #[inline(always)]
            unsafe fn store_i8(self, dst: *mut i8) {
                // SAFETY: see the type; the caller has room for eight values there, 8 bytes.
                unsafe {
                    let wide = _mm256_cvtps_epi32(self.0);
                    let words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
                    _mm_storel_epi64(dst.cast(), _mm_packs_epi16(words, words))
                }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_add_ps(self.0, other.0) })
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_sub_ps(self.0, other.0) })
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_mul_ps(self.0, other.0) })
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_div_ps(self.0, other.0) })
            }

            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_fmadd_ps(self.0, a.0, b.0) })
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_min_ps(self.0, other.0) })
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { _mm256_max_ps(self.0, other.0) })
            }

            #[inline(always)]
            fn round(self) -> Self {
                const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                // SAFETY: see the type.
                Self(unsafe { _mm256_round_ps::<NEAREST>(self.0) })
            }

            #[inline(always)]
            fn exp2_whole(self) -> Self {
                // SAFETY: see the type.
                Self(unsafe {
                    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
                })
            }

            #[inline(always)]
            fn if_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe {
                    let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
                    _mm256_blendv_ps(otherwise.0, then.0, less)
                })
            }

            #[inline(always)]
            fn transpose(r: [Self; LANES]) -> [Self; LANES] {
                // SAFETY: see the type.
                unsafe {
                    // Pairs of rows, then quads, each within 128-bit halves; last the halves change sides.
                    let low = |a: usize, b: usize| _mm256_unpacklo_ps(r[a].0, r[b].0);
                    let high = |a: usize, b: usize| _mm256_unpackhi_ps(r[a].0, r[b].0);
                    let t =
                        [low(0, 1), high(0, 1), low(2, 3), high(2, 3), low(4, 5), high(4, 5), low(6, 7), high(6, 7)];
                    let even = |a: usize, b: usize| _mm256_shuffle_ps::<0x44>(t[a], t[b]);
                    let odd = |a: usize, b: usize| _mm256_shuffle_ps::<0xee>(t[a], t[b]);
                    let q =
                        [even(0, 2), odd(0, 2), even(1, 3), odd(1, 3), even(4, 6), odd(4, 6), even(5, 7), odd(5, 7)];
                    [
                        Self(_mm256_permute2f128_ps::<0x20>(q[0], q[4])),
                        Self(_mm256_permute2f128_ps::<0x20>(q[1], q[5])),
                        Self(_mm256_permute2f128_ps::<0x20>(q[2], q[6])),
                        Self(_mm256_permute2f128_ps::<0x20>(q[3], q[7])),
                        Self(_mm256_permute2f128_ps::<0x31>(q[0], q[4])),
                        Self(_mm256_permute2f128_ps::<0x31>(q[1], q[5])),
                        Self(_mm256_permute2f128_ps::<0x31>(q[2], q[6])),
                        Self(_mm256_permute2f128_ps::<0x31>(q[3], q[7])),
                    ]
                }
            }

            #[inline(always)]
            fn to_array(self) -> [f32; LANES] {
                let mut all = [0f32; LANES];
                // SAFETY: see the type; the array has eight values.
                unsafe { _mm256_storeu_ps(all.as_mut_ptr(), self.0) };
                all
            }

            #[inline(always)]
            fn prefetch(address: *const u8) {
                // SAFETY: a prefetch faults on no address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
            }
        }
    };
}

ymm_lanes!(Avx2, Avx2);
ymm_lanes!(Avx512, Columns16);

/// Sixteen f32 in a zmm register; entered as [`Avx512`] is.
#[derive(Clone, Copy)]
pub(crate) struct Columns16(__m512);

impl Columns for Columns16 {
    const WIDTH: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(src: *const f32) -> Self {
        // SAFETY: see the type; the caller has sixteen values there.
        Self(unsafe { _mm512_loadu_ps(src) })
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32) {
        // SAFETY: see the type; the caller has room for sixteen values there.
        unsafe { _mm512_storeu_ps(dst, self.0) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }
}
