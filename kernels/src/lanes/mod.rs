//! Eight f32 side by side: what the float kernels are written in, once, for every instruction set.
//!
//! A kernel is an `#[inline(always)]` function generic over [`Lanes`]; [`lanes_entry!`](crate::lanes) compiles it
//! per instruction set and picks one by [`Isa`](crate::Isa). [`Scalar8`] says in plain Rust what each operation does,
//! NaN included, and the others do the same bit for bit: so a kernel has one result, whatever runs it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar8;

use half::{bf16, f16};

/// Lanes of a [`Lanes`] value.
pub(crate) const LANES: usize = 8;

/// As many f32 as the products of attention take at once: lanes are columns of the result, nothing is summed across them.
pub(crate) trait Columns: Copy {
    /// How many.
    const WIDTH: usize;
    fn splat(x: f32) -> Self;
    /// # Safety
    /// [`Columns::WIDTH`] values can be read at `src`.
    unsafe fn load(src: *const f32) -> Self;
    /// # Safety
    /// [`Columns::WIDTH`] values can be written at `dst`.
    unsafe fn store(self, dst: *mut f32);
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
}

impl<L: Lanes> Columns for L {
    const WIDTH: usize = LANES;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        L::splat(x)
    }

    #[inline(always)]
    unsafe fn load(src: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { <L as Lanes>::load(src) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { Lanes::store(self, dst) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Lanes::mul_add(self, a, b)
    }
}

/// Eight f32 values and what can be done to them.
///
/// Sums of lanes add in one tree: lane i to i + 4, then i to i + 2, then the last two.
pub(crate) trait Lanes: Copy {
    /// The widest columns that go with these lanes.
    type Columns: Columns;
    fn splat(x: f32) -> Self;
    /// # Safety
    /// Eight values can be read at `src`; no alignment is asked for.
    unsafe fn load(src: *const f32) -> Self;
    /// # Safety
    /// Eight values can be read at `src`.
    unsafe fn load_f16(src: *const f16) -> Self;
    /// # Safety
    /// Eight values can be read at `src`.
    unsafe fn load_bf16(src: *const bf16) -> Self;
    /// # Safety
    /// Eight values can be read at `src`.
    unsafe fn load_i8(src: *const i8) -> Self;
    /// # Safety
    /// Eight values can be written at `dst`.
    unsafe fn store(self, dst: *mut f32);
    /// Rounds to nearest even, as the processor does.
    ///
    /// # Safety
    /// Eight values can be written at `dst`.
    unsafe fn store_f16(self, dst: *mut f16);
    /// Whole numbers from -128 to 127; of others the bits mean nothing.
    ///
    /// # Safety
    /// Eight values can be written at `dst`.
    unsafe fn store_i8(self, dst: *mut i8);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The smaller; `other` where either is NaN.
    fn min(self, other: Self) -> Self;
    /// The larger; `other` where either is NaN.
    fn max(self, other: Self) -> Self;
    /// To the nearest whole number, ties to even.
    fn round(self) -> Self;
    /// `2^self` for whole numbers from -126 to 127.
    fn exp2_whole(self) -> Self;
    /// `then` where `self < bound`, `otherwise` elsewhere.
    fn if_less(self, bound: Self, then: Self, otherwise: Self) -> Self;
    /// Eight rows of eight become eight columns.
    fn transpose(rows: [Self; LANES]) -> [Self; LANES];
    fn to_array(self) -> [f32; LANES];
    /// Asks for the cache line at `address`; any address will do.
    fn prefetch(address: *const u8);

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    /// The sum of all lanes, by the tree above.
    #[inline(always)]
    fn sum(self) -> f32 {
        let x = self.to_array();
        let four = [x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]];
        (four[0] + four[2]) + (four[1] + four[3])
    }

    /// The largest lane; -inf for lanes that are all NaN.
    #[inline(always)]
    fn largest(self) -> f32 {
        self.to_array().into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `e^self`: relative error below 1.2e-7 (1 ulp) on [-87.33, 88.37]; 0 below, infinity above, NaN of NaN.
    ///
    /// Range reduction by ln 2 in two parts, then a polynomial of degree 6 (Cephes `expf`,
    /// <https://netlib.org/cephes/>).
    #[inline(always)]
    fn exp(self) -> Self {
        const LOWEST: f32 = -87.33;
        const HIGHEST: f32 = 88.37;
        // The bound comes first: a NaN in `self` then stays.
        let x = Self::splat(LOWEST).max(self);
        let x = Self::splat(HIGHEST).min(x);
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(Self::splat(-355.0 / 512.0), x);
        let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
        let p = Self::splat(1.987_569_2e-4);
        let p = p.mul_add(r, Self::splat(1.398_2e-3));
        let p = p.mul_add(r, Self::splat(8.333_452e-3));
        let p = p.mul_add(r, Self::splat(4.166_579_6e-2));
        let p = p.mul_add(r, Self::splat(1.666_666_5e-1));
        let p = p.mul_add(r, Self::splat(0.5));
        let p = p.mul_add(r.mul(r), r.add(Self::splat(1.0)));
        let y = p.mul(n.exp2_whole());
        let y = self.if_less(Self::splat(LOWEST), Self::zero(), y);
        Self::splat(HIGHEST).if_less(self, Self::splat(f32::INFINITY), y)
    }

    /// `1 / (1 + e^-self)`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::splat(1.0);
        one.div(one.add(Self::zero().sub(self).exp()))
    }

    /// The first values of a slice, zero past its end.
    #[inline(always)]
    fn load_first(src: &[f32]) -> Self {
        let mut all = [0f32; LANES];
        let len = src.len().min(LANES);
        all[..len].copy_from_slice(&src[..len]);
        // SAFETY: the array has eight values.
        unsafe { Self::load(all.as_ptr()) }
    }

    /// Stores as many lanes as `dst` has room for.
    #[inline(always)]
    fn store_first(self, dst: &mut [f32]) {
        let len = dst.len().min(LANES);
        dst[..len].copy_from_slice(&self.to_array()[..len]);
    }

    /// Loads values `at ..` of a slice, zero past its end.
    #[inline(always)]
    fn load_at(src: &[f32], at: usize) -> Self {
        match src.get(at..at + LANES) {
            // SAFETY: the part has eight values.
            Some(part) => unsafe { Self::load(part.as_ptr()) },
            None => Self::load_first(&src[at..]),
        }
    }

    /// Stores at values `at ..` of a slice, no further than its end.
    #[inline(always)]
    fn store_at(self, dst: &mut [f32], at: usize) {
        match dst.get_mut(at..at + LANES) {
            // SAFETY: the part has eight values.
            Some(part) => unsafe { self.store(part.as_mut_ptr()) },
            None => self.store_first(&mut dst[at..]),
        }
    }
}

/// Defines `fn NAME(isa, ..)` over a kernel `BODY::<L>(..)`: one compilation per instruction set, picked by `isa`.
macro_rules! lanes_entry {
    ($(#[$doc:meta])* $vis:vis fn $name:ident / $avx2:ident / $avx512:ident ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        #[allow(clippy::too_many_arguments)] // the kernel's own, passed through
        fn $avx2($($arg: $ty),*) $(-> $ret)? {
            $body::<crate::lanes::Avx2>($($arg),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        #[allow(clippy::too_many_arguments)] // the kernel's own, passed through
        fn $avx512($($arg: $ty),*) $(-> $ret)? {
            $body::<crate::lanes::Avx512>($($arg),*)
        }

        $(#[$doc])*
        #[allow(clippy::too_many_arguments)] // the kernel's own and `isa`
        $vis fn $name(isa: crate::dispatch::Isa, $($arg: $ty),*) $(-> $ret)? {
            match isa {
                // SAFETY: an `Isa` other than Scalar is only handed out where the processor has it.
                #[cfg(target_arch = "x86_64")]
                crate::dispatch::Isa::Avx2 | crate::dispatch::Isa::AvxVnni => unsafe { $avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                crate::dispatch::Isa::Avx512 => unsafe { $avx512($($arg),*) },
                // Lanes ask for nothing beyond every aarch64 target, so their kernels need no features of their own.
                #[cfg(target_arch = "aarch64")]
                crate::dispatch::Isa::Neon => $body::<crate::lanes::Neon>($($arg),*),
                _ => $body::<crate::lanes::Scalar8>($($arg),*),
            }
        }
    };
}
pub(crate) use lanes_entry;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Isa;

    #[inline(always)]
    fn every_operation<L: Lanes>(a: &[f32], b: &[f32], c: &[f32], out: &mut Vec<f32>) {
        let (a, b, c) = (L::load_at(a, 0), L::load_at(b, 0), L::load_at(c, 0));
        for lanes in [
            a.add(b),
            a.sub(b),
            a.mul(b),
            a.div(b),
            a.mul_add(b, c),
            a.min(b),
            a.max(b),
            a.round(),
            a.exp(),
            a.sigmoid(),
            a.if_less(b, c, a),
            L::splat(a.sum()),
            L::splat(a.largest()),
            L::load_first(&[1.0, 2.0, 3.0]),
        ] {
            out.extend(lanes.to_array());
        }
        for row in L::transpose([a, b, c, a, c, b, b, a]) {
            out.extend(row.to_array());
        }
        let mut halves = [f16::ZERO; LANES];
        // SAFETY: the array has eight values.
        let again = unsafe {
            a.store_f16(halves.as_mut_ptr());
            L::load_f16(halves.as_ptr())
        };
        out.extend(again.to_array());
        let brains = b.to_array().map(bf16::from_f32);
        // SAFETY: the array has eight values.
        out.extend(unsafe { L::load_bf16(brains.as_ptr()) }.to_array());
        let mut codes = [0i8; LANES];
        let bound = |x: L| L::splat(-128.0).max(L::splat(127.0).min(x.round()));
        // SAFETY: the array has eight values.
        let again = unsafe {
            bound(b).store_i8(codes.as_mut_ptr());
            L::load_i8(codes.as_ptr())
        };
        out.extend(bound(b).to_array());
        out.extend(again.to_array());
    }

    lanes_entry! {
        fn run_every / run_every_avx2 / run_every_avx512(a: &[f32], b: &[f32], c: &[f32], out: &mut Vec<f32>) = every_operation
    }

    #[test]
    fn instruction_sets_agree_bit_for_bit() {
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 65520.0, 2.5];
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for round in 0..200 {
            let scale = [1.0, 30.0, 1e-6, 1e30][round % 4];
            let mut draw = || -> Vec<f32> { (0..8).map(|_| next() * scale).collect() };
            let (mut a, b, c) = (draw(), draw(), draw());
            if round % 5 == 0 {
                a.copy_from_slice(&odd);
                a.rotate_left(round % 8);
            }
            let mut scalar = Vec::new();
            run_every(Isa::Scalar, &a, &b, &c, &mut scalar);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                let mut vector = Vec::new();
                run_every(isa, &a, &b, &c, &mut vector);
                for (i, (s, v)) in scalar.iter().zip(&vector).enumerate() {
                    assert!(
                        s.to_bits() == v.to_bits() || (s.is_nan() && v.is_nan()),
                        "{} value {i}: {s} or {v} of {a:?} {b:?} {c:?}",
                        isa.name()
                    );
                }
            }
        }
    }

    #[inline(always)]
    fn exp_of<L: Lanes>(x: f32) -> f32 {
        L::splat(x).exp().to_array()[3]
    }

    lanes_entry! { fn run_exp / run_exp_avx2 / run_exp_avx512(x: f32) -> f32 = exp_of }

    #[test]
    fn exp_is_within_one_part_in_eight_million() {
        let (mut worst, mut at) = (0f64, 0f32);
        let mut x = -87.33f32;
        while x <= 88.37 {
            let exact = f64::from(x).exp();
            let error = ((f64::from(run_exp(Isa::best(), x)) - exact) / exact).abs();
            if error > worst {
                (worst, at) = (error, x);
            }
            x += 1.7e-4;
        }
        assert!(worst < 1.2e-7, "relative error {worst:e} at {at}");
        for (x, expected) in [(0.0, 1.0), (-200.0, 0.0), (f32::NEG_INFINITY, 0.0), (200.0, f32::INFINITY)] {
            assert_eq!(run_exp(Isa::best(), x), expected, "exp({x})");
        }
        assert!(run_exp(Isa::best(), f32::NAN).is_nan());
    }
}
