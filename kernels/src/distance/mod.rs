//! How near two vectors are: f32 inner products, and those of int8 codes that an index walks on.
//!
//! A row of codes is unsigned with zero at 128, a query signed: `sum((row - 128) * query)` is exact in i32, so every
//! instruction set gives the same score, bit for bit. Both are whole cache lines, zero past their end: no kernel has
//! a tail.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod codes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use codes::{CodeQuery, CodeRows};

use crate::dispatch::isa;
use crate::lanes::{LANES, Lanes, lanes_entry};

/// Codes of one cache line, and one widest register.
const LINE: usize = 64;

/// A cache line of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// `sum(a_i * b_i)`; the longer one is read as far as the shorter.
///
/// Four sums of eight lanes each, one order for a length.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    run_dot(isa(), &a[..len], &b[..len])
}

/// Asks for every cache line of a slice before it is needed.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    let start = values.as_ptr().cast::<u8>();
    for at in (0..size_of_val(values)).step_by(LINE) {
        codes::prefetch_at(start.wrapping_add(at));
    }
}

lanes_entry! { fn run_dot / run_dot_avx2 / run_dot_avx512(a: &[f32], b: &[f32]) -> f32 = dot_lanes }

#[inline(always)]
fn dot_lanes<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    const STEP: usize = 4 * LANES;
    let mut sums = [L::zero(); 4];
    let whole = a.len() / STEP * STEP;
    for at in (0..whole).step_by(STEP) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = at + part * LANES;
            *sum = L::load_at(a, at).mul_add(L::load_at(b, at), *sum);
        }
    }
    for at in (whole..a.len()).step_by(LANES) {
        sums[0] = L::load_at(a, at).mul_add(L::load_at(b, at), sums[0]);
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
}

#[cfg(test)]
mod tests;
