//! Activations as bf16 ("brains"): rounded once a call, for weights that are bf16.
//!
//! To nearest, ties to even, as the weights themselves were; what is below 2^-56 in magnitude, there as here, counts as zero.
//! Then every product is a multiple of 2^-126, and so is every sum of them: no sum is ever subnormal, and whether an
//! instruction flushes those (`vdpbf16ps` does, a fused multiply-add does not) cannot be seen. NaN stays NaN.
//!
//! Kernels of pairs read rows of bf16, an odd last column followed by a zero; the others read them in f32.

use crate::disjoint::Disjoint;
use crate::dispatch::Isa;
use crate::lanes::{Lanes, lanes_entry};
use crate::pool::Pool;

/// 2^-56, as the bits of an f32.
const LEAST: u32 = (127 - 56) << 23;
/// Values rounded in one task, at least: some microseconds.
const TASK_VALUES: usize = 1 << 13;

/// `x` as bf16: the upper half of an f32, its lower half zero.
#[inline(always)]
pub(super) fn brain_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    let quiet = (bits | 0x0040_0000) & 0xffff_0000;
    let number = if magnitude > 0x7f80_0000 { quiet } else { rounded };
    if magnitude < LEAST { 0 } else { number }
}

/// A pair of bf16 weights as it is kept: zero where one is too small to count.
pub(super) fn kept_pair(pair: [u8; 4]) -> [u8; 4] {
    let pair = u32::from_le_bytes(pair);
    let even = if pair << 17 < LEAST << 1 { 0 } else { pair & 0xffff };
    let odd = if pair << 1 < LEAST << 1 { 0 } else { pair & 0xffff_0000 };
    (odd | even).to_le_bytes()
}

/// Whether the kernel for bf16 takes pairs, by `vdpbf16ps`.
pub(super) fn in_pairs(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Rows of rounded activations, in the form that a kernel reads.
#[derive(Default)]
pub(super) struct Brains {
    pairs: Vec<u16>,
    rows: Vec<f32>,
    m: usize,
    cols: usize,
    in_pairs: bool,
}

impl Brains {
    /// Rounds rows `[m, cols]` into this buffer.
    pub(super) fn round(&mut self, isa: Isa, in_pairs: bool, pool: &Pool, x: &[f32], (m, cols): (usize, usize)) {
        (self.m, self.cols, self.in_pairs) = (m, cols, in_pairs);
        let width = self.width();
        let (pairs, rows) = if in_pairs { (m * width, 0) } else { (0, m * width) };
        // Not cut, so that the next call need not clear them again.
        self.pairs.resize(pairs.max(self.pairs.len()), 0);
        self.rows.resize(rows.max(self.rows.len()), 0.0);
        let (pairs, rows) = (Disjoint::new(&mut self.pairs), Disjoint::new(&mut self.rows));
        let rows_each = (TASK_VALUES / cols.max(1)).max(1);
        pool.run(m.div_ceil(rows_each), &|task| {
            for row in task * rows_each..m.min((task + 1) * rows_each) {
                let (x, place) = (&x[row * cols..][..cols], row * width..(row + 1) * width);
                // SAFETY: a row is a range of its own of either buffer, and one task's.
                unsafe {
                    if in_pairs {
                        round_pairs(isa, x, pairs.part(place));
                    } else {
                        round_row(isa, x, rows.part(place));
                    }
                }
            }
        });
    }

    /// Whether they were rounded in pairs.
    pub(super) fn in_pairs(&self) -> bool {
        self.in_pairs
    }

    /// Rows `[m, cols]`. Panics where they were rounded in pairs.
    pub(super) fn rows(&self) -> &[f32] {
        assert!(!self.in_pairs, "rows asked for, rounded in pairs");
        &self.rows[..self.m * self.cols]
    }

    /// Rows of whole pairs, `[m, pairs, 2]`. Panics where they were not rounded in pairs.
    pub(super) fn pairs(&self) -> &[u16] {
        assert!(self.in_pairs, "pairs asked for, rounded one by one");
        &self.pairs[..self.m * self.width()]
    }

    /// Rows held, and columns of each.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.m, self.cols)
    }

    /// Numbers of a row.
    pub(super) fn width(&self) -> usize {
        if self.in_pairs { self.cols.next_multiple_of(2) } else { self.cols }
    }
}

lanes_entry! { fn round_row / round_row_avx2 / round_row_avx512(x: &[f32], out: &mut [f32]) = row_lanes }
lanes_entry! { fn round_pairs / round_pairs_avx2 / round_pairs_avx512(x: &[f32], out: &mut [u16]) = pairs_lanes }

// Integers alone, which the compiler makes vectors of: the lanes say for which processor.
#[inline(always)]
fn row_lanes<L: Lanes>(x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = f32::from_bits(brain_bits(x)));
}

#[inline(always)]
fn pairs_lanes<L: Lanes>(x: &[f32], out: &mut [u16]) {
    out[x.len()..].fill(0);
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = (brain_bits(x) >> 16) as u16);
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn values_round_as_the_format_says() {
        let mut bits = 1u32;
        let check = |x: f32| {
            let expected = if x.abs() < 2f32.powi(-56) { 0.0 } else { bf16::from_f32(x).to_f32() };
            let got = f32::from_bits(brain_bits(x));
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{x:e}: {got:e}");
            let weight = bf16::from_f32(x);
            let kept = if weight.to_f32().abs() < 2f32.powi(-56) { [0; 2] } else { weight.to_le_bytes() };
            let [low, high] = weight.to_le_bytes();
            assert_eq!(kept_pair([low, high, 0, 0]), [kept[0], kept[1], 0, 0], "{x:e}");
            assert_eq!(kept_pair([0x80, 0x3f, low, high]), [0x80, 0x3f, kept[0], kept[1]], "{x:e}");
        };
        for x in [0.0, -0.0, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-40, 1e-17, 1.5e-17]
        {
            check(x);
        }
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            check(f32::from_bits(bits));
            // Exactly between two, and beside it.
            (0..3).for_each(|off| check(f32::from_bits((bits & 0xffff_0000) + 0x7fff + off)));
        }
    }

    #[test]
    fn both_forms_hold_the_same() {
        let pool = Pool::new(3);
        let (mut pairs, mut rows) = (Brains::default(), Brains::default());
        for (m, cols) in [(30, 255), (1, 1), (1, 7), (13, 130), (70, 300), (2, 9000)] {
            let x: Vec<f32> = (0..m * cols).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                pairs.round(isa, true, &pool, &x, (m, cols));
                rows.round(isa, false, &pool, &x, (m, cols));
                assert_eq!((pairs.shape(), rows.shape()), ((m, cols), (m, cols)));
                assert_eq!(rows.rows().len(), x.len());
                let width = cols.next_multiple_of(2);
                assert_eq!(pairs.pairs().len(), m * width);
                for (at, &half) in pairs.pairs().iter().enumerate() {
                    let (row, column) = (at / width, at % width);
                    let expected = if column < cols { brain_bits(x[row * cols + column]) } else { 0 };
                    assert_eq!(u32::from(half) << 16, expected, "{} {m}x{cols} [{row}, {column}]", isa.name());
                    let value = if column < cols { rows.rows()[row * cols + column] } else { 0.0 };
                    assert_eq!(value.to_bits(), expected, "{} {m}x{cols} [{row}, {column}]", isa.name());
                }
            }
        }
    }
}
