//! Rows of an int8 KV cache: the codes of a head's K or V and, right behind them, what one of them is worth.
//!
//! A row is `head_dim` signed bytes and an f32 (native byte order, not aligned): value `d` is `codes[d] * step`, with
//! `step = largest / 127`. So a row is one piece of memory, and what it holds depends on no other row.

use crate::lanes::{LANES, Lanes, lanes_entry};

/// Bytes of a step.
const STEP: usize = size_of::<f32>();
/// The largest code; -128 is not used.
const MOST_CODE: f32 = 127.0;
/// Values hold at this instead of turning infinite: what f16 holds.
const MOST: f32 = 65504.0;

/// Bytes of a row of `head_dim` values.
pub fn int8_row_len(head_dim: usize) -> usize {
    head_dim + STEP
}

/// Values of a row of `bytes` bytes: the inverse of [`int8_row_len`]; `None` where none fit.
pub(crate) fn int8_head_dim(bytes: usize) -> Option<usize> {
    bytes.checked_sub(STEP).filter(|&head_dim| head_dim > 0)
}

/// One row, read.
#[derive(Clone, Copy)]
pub(super) struct Int8Row<'a> {
    /// `head_dim` signed bytes.
    codes: &'a [u8],
    step: f32,
}

impl<'a> Int8Row<'a> {
    /// Row `row` of a cache.
    #[inline(always)]
    pub fn of(cache: &'a [u8], row: usize, head_dim: usize) -> Self {
        let (codes, step) = cache[row * int8_row_len(head_dim)..][..int8_row_len(head_dim)].split_at(head_dim);
        Self { codes, step: f32::from_ne_bytes([step[0], step[1], step[2], step[3]]) }
    }

    /// # Safety
    /// `d + 8` is at most `head_dim`.
    #[inline(always)]
    pub unsafe fn load<L: Lanes>(self, d: usize) -> L {
        // SAFETY: the caller's promise: eight codes are there.
        unsafe { L::load_i8(self.codes.as_ptr().add(d).cast()) }.mul(L::splat(self.step))
    }

    /// Value `d`.
    #[inline(always)]
    pub fn value(self, d: usize) -> f32 {
        f32::from(self.codes[d] as i8) * self.step
    }
}

lanes_entry! {
    /// Writes the row that holds `x`, [`int8_row_len`] bytes.
    ///
    /// Codes are `x / step` to the nearest, ties to even. Infinities and what is larger hold at +-65504; a row with a NaN
    /// is NaN throughout (its step is), one of only zeros, or of numbers too small for a step that is normal, is zero.
    pub(super) fn quantize / quantize_avx2 / quantize_avx512(x: &[f32], out: &mut [u8]) = quantize_lanes
}

#[inline(always)]
fn quantize_lanes<L: Lanes>(x: &[f32], out: &mut [u8]) {
    let (codes, to_step) = out.split_at_mut(x.len());
    let step = step_of::<L>(x);
    to_step.copy_from_slice(&step.to_ne_bytes());
    if step.is_nan() || step == 0.0 {
        codes.fill(0);
        return;
    }
    let step = L::splat(step);
    for (d, codes) in codes.chunks_mut(LANES).enumerate() {
        let code = held::<L>(x, d * LANES).div(step).round();
        let mut eight = [0i8; LANES];
        // SAFETY: the array has eight values. The quotient is at most 127 and a rounding error, which rounds to 127.
        unsafe { code.store_i8(eight.as_mut_ptr()) };
        for (to, code) in codes.iter_mut().zip(eight) {
            *to = code as u8;
        }
    }
}

/// What a code of the row `x` is worth: NaN where one of its values is, zero where all are next to nothing.
#[inline(always)]
fn step_of<L: Lanes>(x: &[f32]) -> f32 {
    let none = L::splat(f32::INFINITY);
    let mut largest = L::zero();
    for d in (0..x.len()).step_by(LANES) {
        let value = held::<L>(x, d);
        let size = value.max(L::zero().sub(value));
        // Held values are finite, so an infinite size says NaN, and stays the largest.
        largest = size.if_less(none, size, none).max(largest);
    }
    match largest.largest() / MOST_CODE {
        f32::INFINITY => f32::NAN,
        step if step < f32::MIN_POSITIVE => 0.0,
        step => step,
    }
}

/// Values `d ..` of the row within +-[`MOST`], zero past its end; NaN stays.
#[inline(always)]
fn held<L: Lanes>(x: &[f32], d: usize) -> L {
    L::splat(-MOST).max(L::splat(MOST).min(L::load_at(x, d)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Isa;

    fn row(isa: Isa, x: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0xaa; int8_row_len(x.len())];
        quantize(isa, x, &mut bytes);
        bytes
    }

    fn values(bytes: &[u8]) -> Vec<f32> {
        let head_dim = int8_head_dim(bytes.len()).unwrap();
        (0..head_dim).map(|d| Int8Row::of(bytes, 0, head_dim).value(d)).collect()
    }

    /// The definition, value by value.
    fn textbook(x: &[f32]) -> Vec<u8> {
        let held: Vec<f32> = x.iter().map(|x| x.clamp(-65504.0, 65504.0)).collect();
        let largest = held.iter().fold(0f32, |a, b| a.max(b.abs()));
        let step = match largest / 127.0 {
            _ if x.iter().any(|x| x.is_nan()) => f32::NAN,
            step if step < f32::MIN_POSITIVE => 0.0,
            step => step,
        };
        let code = |x: &f32| if step > 0.0 { (x / step).round_ties_even() as i8 as u8 } else { 0 };
        held.iter().map(code).chain(step.to_ne_bytes()).collect()
    }

    #[test]
    fn every_instruction_set_writes_the_bytes_of_the_definition() {
        let mut state = 3u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX, 65504.0, -70000.0];
        for head_dim in [1, 2, 7, 8, 11, 20, 64, 80, 127, 128] {
            for scale in [1.0, 300.0, 1e-36, 1e-42, 0.0, 1e6] {
                for &odd in &odd {
                    let mut x: Vec<f32> = (0..head_dim).map(|_| next() * scale).collect();
                    x[head_dim / 2] = odd;
                    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                        assert_eq!(row(isa, &x), textbook(&x), "{} {x:?}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn values_come_back_within_half_a_step() {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
        for (value, exact) in values(&row(Isa::best(), &x)).iter().zip(&x) {
            assert!((value - exact).abs() <= largest / 127.0 * 0.5001, "{value} {exact}");
        }
        // Codes of ties go to the even side: the step is 1.
        assert_eq!(values(&row(Isa::best(), &[127.0, 0.5, 1.5, -2.5])), [127.0, 0.0, 2.0, -2.0]);
    }

    #[test]
    fn what_is_no_number_stays_within_its_row() {
        assert!(values(&row(Isa::best(), &[1.0, f32::NAN, 2.0])).iter().all(|x| x.is_nan()));
        let held = values(&row(Isa::best(), &[f32::INFINITY, f32::NEG_INFINITY, 1.0]));
        assert!((held[0] - 65504.0).abs() < 0.01 && (held[1] + 65504.0).abs() < 0.01 && held[2] == 0.0, "{held:?}");
        assert!(values(&row(Isa::best(), &[0.0; 5])).iter().all(|&x| x == 0.0));
        assert_eq!((int8_head_dim(68), int8_head_dim(4), int8_head_dim(0)), (Some(64), None, None));
    }
}
