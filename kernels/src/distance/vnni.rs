//! `vpdpbusd`: four products of unsigned and signed bytes summed into each i32, exact.
//!
//! Rows lie anywhere, so their lines are asked for some rows ahead; two rows go side by side, since one alone
//! waits on its own sums.

use std::arch::x86_64::*;

use super::Line;
use super::codes::{Gather, prefetch_line};

/// Rows asked for ahead of the one that is read: lines of eight rows of 256 values keep the core's misses in flight.
const AHEAD: usize = 8;

macro_rules! gather_by {
    ($(#[$doc:meta])* $name:ident, $features:literal, $sum:ident) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(job: Gather<'_>) {
            let stride = job.query.len();
            let ids = job.ids;
            let row = |id: u32| &job.rows[id as usize * stride..][..stride];
            ids.iter().take(AHEAD).for_each(|&id| row(id).iter().for_each(prefetch_line));
            let mut at = 0;
            while at + 2 <= ids.len() {
                for &id in ids[at..].iter().skip(AHEAD).take(2) {
                    row(id).iter().for_each(prefetch_line);
                }
                let (first, second) = $sum(job.query, row(ids[at]), row(ids[at + 1]));
                (job.sums[at], job.sums[at + 1]) = (first, second);
                at += 2;
            }
            if at < ids.len() {
                job.sums[at] = $sum(job.query, row(ids[at]), row(ids[at])).0;
            }
        }
    };
}

gather_by! {
    /// See [`Gather`].
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VNNI.
    gather_avx512, "avx512f,avx512bw,avx512vnni", pair_zmm
}

gather_by! {
    /// See [`Gather`].
    ///
    /// # Safety
    /// The processor has AVX2 and AVX-VNNI.
    gather_avx_vnni, "avx2,avxvnni", pair_ymm
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn pair_zmm(query: &[Line], a: &[Line], b: &[Line]) -> (i32, i32) {
    let mut sums = [_mm512_setzero_si512(); 4];
    for (i, ((query, a), b)) in query.iter().zip(a).zip(b).enumerate() {
        // SAFETY: a line is 64 bytes on a boundary of 64.
        let (query, a, b) = unsafe {
            (
                _mm512_load_si512(query.0.as_ptr().cast()),
                _mm512_load_si512(a.0.as_ptr().cast()),
                _mm512_load_si512(b.0.as_ptr().cast()),
            )
        };
        let half = i % 2 * 2;
        sums[half] = _mm512_dpbusd_epi32(sums[half], a, query);
        sums[half + 1] = _mm512_dpbusd_epi32(sums[half + 1], b, query);
    }
    (
        _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[2])),
        _mm512_reduce_add_epi32(_mm512_add_epi32(sums[1], sums[3])),
    )
}

#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn pair_ymm(query: &[Line], a: &[Line], b: &[Line]) -> (i32, i32) {
    let mut sums = [_mm256_setzero_si256(); 4];
    for ((query, a), b) in query.iter().zip(a).zip(b) {
        for half in 0..2 {
            // SAFETY: both halves of a line of 64 bytes.
            let (query, a, b) = unsafe {
                (
                    _mm256_load_si256(query.0.as_ptr().add(32 * half).cast()),
                    _mm256_load_si256(a.0.as_ptr().add(32 * half).cast()),
                    _mm256_load_si256(b.0.as_ptr().add(32 * half).cast()),
                )
            };
            sums[2 * half] = _mm256_dpbusd_avx_epi32(sums[2 * half], a, query);
            sums[2 * half + 1] = _mm256_dpbusd_avx_epi32(sums[2 * half + 1], b, query);
        }
    }
    (super::avx2::sum_of(_mm256_add_epi32(sums[0], sums[2])), super::avx2::sum_of(_mm256_add_epi32(sums[1], sums[3])))
}
