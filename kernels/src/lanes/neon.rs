//! Lanes in two NEON registers.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Eight f32 in two registers, lanes 0..4 and 4..8.
///
/// NEON, fused multiply-add and the conversions of f16 belong to every aarch64 target this is compiled for:
/// this is the SAFETY of every intrinsic and instruction below.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t, float32x4_t);

impl Neon {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(f(self.0, other.0), f(self.1, other.1))
    }
}

/// The first and the last four halves of a register in f32. Their intrinsics are not stable yet.
#[inline(always)]
pub(crate) fn widen_f16(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: see `Neon`; the instructions touch nothing but their operands.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", lateout(vreg) low, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
        asm!("fcvtl2 {0:v}.4s, {1:v}.8h", lateout(vreg) high, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
    }
    [low, high]
}

/// The first and the last four bf16 of a register in f32: a bf16 is the upper half of an f32.
#[inline(always)]
pub(crate) fn widen_bf16(brains: uint16x8_t) -> [float32x4_t; 2] {
    // SAFETY: see `Neon`.
    unsafe {
        let low = vshll_n_u16::<16>(vget_low_u16(brains));
        [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(vshll_high_n_u16::<16>(brains))]
    }
}

/// Asks for the cache line at `address`; any address will do.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    // SAFETY: a prefetch faults on no address.
    unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nomem, nostack, preserves_flags)) }
}

impl Lanes for Neon {
    type Columns = Self;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        let all = unsafe { vdupq_n_f32(x) };
        Self(all, all)
    }

    #[inline(always)]
    unsafe fn load(src: *const f32) -> Self {
        // SAFETY: see the type; the caller has eight values there.
        unsafe { Self(vld1q_f32(src), vld1q_f32(src.add(4))) }
    }

    #[inline(always)]
    unsafe fn load_f16(src: *const f16) -> Self {
        // SAFETY: see the type; the caller has eight values there, 16 bytes.
        let [low, high] = widen_f16(unsafe { vld1q_u16(src.cast()) });
        Self(low, high)
    }

    #[inline(always)]
    unsafe fn load_bf16(src: *const bf16) -> Self {
        // SAFETY: see the type; the caller has eight values there, 16 bytes.
        let [low, high] = widen_bf16(unsafe { vld1q_u16(src.cast()) });
        Self(low, high)
    }

    #[inline(always)]
    unsafe fn load_i8(src: *const i8) -> Self {
        // SAFETY: see the type; the caller has eight values there, 8 bytes.
        unsafe {
            let words = vmovl_s8(vld1_s8(src));
            Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32) {
        // SAFETY: see the type; the caller has room for eight values there.
        unsafe {
            vst1q_f32(dst, self.0);
            vst1q_f32(dst.add(4), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, dst: *mut f16) {
        let halves: uint16x8_t;
        // SAFETY: see the type; the caller has room for eight values there, 16 bytes. Rounds to nearest even, as Rust
        // leaves the control register.
        unsafe {
            asm!(
                "fcvtn {0:v}.4h, {1:v}.4s",
                "fcvtn2 {0:v}.8h, {2:v}.4s",
                out(vreg) halves, in(vreg) self.0, in(vreg) self.1,
                options(pure, nomem, nostack, preserves_flags)
            );
            vst1q_u16(dst.cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, dst: *mut i8) {
        // SAFETY: see the type; the caller has room for eight values there, 8 bytes.
        unsafe {
            let words = vcombine_s16(vqmovn_s32(vcvtq_s32_f32(self.0)), vqmovn_s32(vcvtq_s32_f32(self.1)));
            vst1_s8(dst, vqmovn_s16(words));
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see the type.
        self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see the type.
        self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see the type.
        self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see the type.
        self.zip(other, |a, b| unsafe { vdivq_f32(a, b) })
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        // SAFETY: see the type.
        unsafe { Self(vfmaq_f32(b.0, self.0, a.0), vfmaq_f32(b.1, self.1, a.1)) }
    }

    // `fmin` and `fmax` give NaN where either is NaN; a comparison and a choice give `other`.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see the type.
        self.zip(other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see the type.
        self.zip(other, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: see the type.
        unsafe { Self(vrndnq_f32(self.0), vrndnq_f32(self.1)) }
    }

    #[inline(always)]
    fn exp2_whole(self) -> Self {
        let power = |n: float32x4_t| {
            // SAFETY: see the type.
            unsafe {
                let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            }
        };
        Self(power(self.0), power(self.1))
    }

    #[inline(always)]
    fn if_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: see the type.
        unsafe {
            Self(
                vbslq_f32(vcltq_f32(self.0, bound.0), then.0, otherwise.0),
                vbslq_f32(vcltq_f32(self.1, bound.1), then.1, otherwise.1),
            )
        }
    }

    #[inline(always)]
    fn transpose(r: [Self; LANES]) -> [Self; LANES] {
        // Quarters of 4 x 4; the two beside the diagonal change places.
        let top = transpose4([r[0].0, r[1].0, r[2].0, r[3].0]);
        let right = transpose4([r[0].1, r[1].1, r[2].1, r[3].1]);
        let left = transpose4([r[4].0, r[5].0, r[6].0, r[7].0]);
        let bottom = transpose4([r[4].1, r[5].1, r[6].1, r[7].1]);
        std::array::from_fn(|i| if i < 4 { Self(top[i], left[i]) } else { Self(right[i - 4], bottom[i - 4]) })
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut all = [0f32; LANES];
        // SAFETY: the array has eight values.
        unsafe { self.store(all.as_mut_ptr()) };
        all
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        prefetch_line(address);
    }
}

#[inline(always)]
fn transpose4(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: see `Neon`.
    unsafe {
        let even = |a: float32x4_t, b: float32x4_t| vreinterpretq_f64_f32(vtrn1q_f32(a, b));
        let odd = |a: float32x4_t, b: float32x4_t| vreinterpretq_f64_f32(vtrn2q_f32(a, b));
        let (even, odd) = ([even(r[0], r[1]), even(r[2], r[3])], [odd(r[0], r[1]), odd(r[2], r[3])]);
        [
            vreinterpretq_f32_f64(vtrn1q_f64(even[0], even[1])),
            vreinterpretq_f32_f64(vtrn1q_f64(odd[0], odd[1])),
            vreinterpretq_f32_f64(vtrn2q_f64(even[0], even[1])),
            vreinterpretq_f32_f64(vtrn2q_f64(odd[0], odd[1])),
        ]
    }
}
