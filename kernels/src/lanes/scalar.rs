//! The definition of every operation on lanes, in plain Rust.

use half::{bf16, f16};

use super::{LANES, Lanes};

/// Eight f32 as an array; compilers vectorise it for what the target has.
#[derive(Clone, Copy)]
pub(crate) struct Scalar8([f32; LANES]);

impl Scalar8 {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Scalar8 {
    type Columns = Self;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(src: *const f32) -> Self {
        // SAFETY: the caller has eight values there; an array needs the alignment of its values, which a read this way does not.
        Self(unsafe { src.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(src: *const f16) -> Self {
        // SAFETY: as in `load`.
        Self(unsafe { src.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(src: *const bf16) -> Self {
        // SAFETY: as in `load`.
        Self(unsafe { src.cast::<[bf16; LANES]>().read_unaligned() }.map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_i8(src: *const i8) -> Self {
        // SAFETY: as in `load`.
        Self(unsafe { src.cast::<[i8; LANES]>().read() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32) {
        // SAFETY: the caller has room for eight values there.
        unsafe { dst.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, dst: *mut f16) {
        // SAFETY: the caller has room for eight values there.
        unsafe { dst.cast::<[f16; LANES]>().write_unaligned(self.0.map(f16::from_f32)) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, dst: *mut i8) {
        // SAFETY: the caller has room for eight values there.
        unsafe { dst.cast::<[i8; LANES]>().write(self.0.map(|x| x as i8)) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(a.0[i], b.0[i])))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn exp2_whole(self) -> Self {
        Self(self.0.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)))
    }

    #[inline(always)]
    fn if_less(self, bound: Self, then: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < bound.0[i] { then.0[i] } else { otherwise.0[i] }))
    }

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|column| Self(std::array::from_fn(|row| rows[row].0[column])))
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        self.0
    }

    #[inline(always)]
    fn prefetch(_: *const u8) {}
}
