//! NEON with dot products of signed bytes: rows are taken signed, and what that took off is added again.

use std::arch::aarch64::*;

use super::codes::{Gather, prefetch_line};

/// Rows asked for ahead of the one that is read.
const AHEAD: usize = 4;

/// See [`Gather`].
///
/// # Safety
/// The processor has `dotprod`.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn gather(job: Gather<'_>) {
    let stride = job.query.len();
    let query_sum: i32 = job.query.iter().flat_map(|line| &line.0).map(|&byte| i32::from(byte as i8)).sum();
    let row = |id: u32| &job.rows[id as usize * stride..][..stride];
    for (at, sum) in job.sums.iter_mut().enumerate() {
        if let Some(&next) = job.ids.get(at + AHEAD) {
            row(next).iter().for_each(prefetch_line);
        }
        let mut sums = [vdupq_n_s32(0); 4];
        for (row, query) in row(job.ids[at]).iter().zip(job.query) {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a quarter of a line of 64 bytes.
                let (row, query) = unsafe {
                    (vld1q_u8(row.0.as_ptr().add(16 * part)), vld1q_s8(query.0.as_ptr().add(16 * part).cast()))
                };
                let signed = vreinterpretq_s8_u8(veorq_u8(row, vdupq_n_u8(128)));
                *sum = dot(*sum, signed, query);
            }
        }
        let all = vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3]));
        *sum = vaddvq_s32(all) + 128 * query_sum;
    }
}

/// `sdot`, spelled out: its intrinsic is not stable.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the feature is this function's own; only the named registers change.
    unsafe {
        std::arch::asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
