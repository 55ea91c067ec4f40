//! AVX2: bytes widen to 16 bits first, since `vpmaddubsw` saturates where a row's code is large.

use std::arch::x86_64::*;

use super::codes::{Gather, prefetch_line};

/// Rows asked for ahead of the one that is read.
const AHEAD: usize = 4;

/// See [`Gather`].
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn gather(job: Gather<'_>) {
    let stride = job.query.len();
    let row = |id: u32| &job.rows[id as usize * stride..][..stride];
    for (at, sum) in job.sums.iter_mut().enumerate() {
        if let Some(&next) = job.ids.get(at + AHEAD) {
            row(next).iter().for_each(prefetch_line);
        }
        let mut sums = [_mm256_setzero_si256(); 4];
        for (row, query) in row(job.ids[at]).iter().zip(job.query) {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a quarter of a line of 64 bytes.
                let (row, query) = unsafe {
                    (
                        _mm_load_si128(row.0.as_ptr().add(16 * part).cast()),
                        _mm_load_si128(query.0.as_ptr().add(16 * part).cast()),
                    )
                };
                let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(row), _mm256_cvtepi8_epi16(query));
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        *sum = sum_of(_mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3])));
    }
}

/// The sum of eight i32.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn sum_of(x: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
}
