//! What this machine can do at most: bytes read from memory, int8 multiplications on registers; measured, not looked up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use crate::dispatch::Isa;
use crate::dispatch::isa;
use crate::matmul::AlignedBytes;
use crate::pool::{Pool, pool};

/// Bytes read a pass: more than any cache holds.
const BYTES: usize = 256 << 20;
/// Bytes of a task.
const PART: usize = 1 << 20;
/// Passes; the best one counts.
const PASSES: usize = 8;
/// Dot products of a thread in a pass.
const DOTS: usize = 1 << 22;

/// Limits of a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Bytes read from memory, GB/s, by all threads of the pool.
    pub memory_gb_s: f64,
    /// The same by one thread.
    pub memory_gb_s_1_core: f64,
    /// Multiplications of int8 added into i32, 10^9 a second, by all threads.
    pub int8_gmac_s: f64,
    /// The same by one thread.
    pub int8_gmac_s_1_core: f64,
}

impl Peak {
    /// Measures for about a second, on the process's pool; `None` where memory for it cannot be had.
    pub fn measure() -> Option<Self> {
        let one = Pool::new(1);
        let mut bytes = AlignedBytes::zeroed(BYTES).ok()?;
        bytes.as_mut_slice().fill(1); // a page that was never written is not memory
        let bytes = bytes.as_slice();
        Some(Self {
            memory_gb_s: memory(pool(), bytes),
            memory_gb_s_1_core: memory(&one, bytes),
            int8_gmac_s: int8(pool()),
            int8_gmac_s_1_core: int8(&one),
        })
    }

    /// Seconds that reading `bytes` of weights and multiplying `macs` of them takes at least, where both overlap.
    pub fn floor_seconds(&self, bytes: f64, macs: f64) -> f64 {
        (bytes / (self.memory_gb_s * 1e9)).max(macs / (self.int8_gmac_s * 1e9))
    }
}

fn best_seconds(mut pass: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..PASSES {
        let begun = Instant::now();
        pass();
        best = best.min(begun.elapsed().as_secs_f64());
    }
    best
}

fn memory(pool: &Pool, bytes: &[u8]) -> f64 {
    let seen = AtomicU64::new(0);
    let seconds = best_seconds(|| {
        pool.run(bytes.len() / PART, &|task| {
            seen.fetch_add(read(&bytes[task * PART..][..PART]), Ordering::Relaxed);
        });
    });
    std::hint::black_box(seen.into_inner());
    bytes.len() as f64 / seconds / 1e9
}

fn int8(pool: &Pool) -> f64 {
    let seen = AtomicU64::new(0);
    let macs_a_dot = AtomicU64::new(0);
    // More tasks than threads, so that a thread that starts late does not count twice.
    let tasks = pool.threads() * 8;
    let seconds = best_seconds(|| {
        pool.run(tasks, &|_| {
            let (sum, macs) = dots(DOTS / 8);
            seen.fetch_add(sum, Ordering::Relaxed);
            macs_a_dot.store(macs, Ordering::Relaxed);
        });
    });
    std::hint::black_box(seen.into_inner());
    (tasks * (DOTS / 8)) as f64 * macs_a_dot.into_inner() as f64 / seconds / 1e9
}

/// Reads all of it, in the widest registers there are.
fn read(bytes: &[u8]) -> u64 {
    match isa() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` gives only what the processor has; the bytes are whole lines.
        Isa::Avx512 => unsafe { x86::read_zmm(bytes) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::AvxVnni => unsafe { x86::read_ymm(bytes) },
        _ => bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
            .fold(0, u64::wrapping_add),
    }
}

/// `count` dot products of bytes on registers, and the multiplications of each.
fn dots(count: usize) -> (u64, u64) {
    match isa() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` gives only what the processor has.
        Isa::Avx512 => (unsafe { x86::dots_zmm(count) }, 64),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => (unsafe { x86::dots_ymm(count) }, 32),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => (unsafe { x86::maddubs(count) }, 32),
        _ => {
            let (a, b) = std::hint::black_box(([3u8; 16], [5i8; 16]));
            let mut sums = [0i32; 16];
            for _ in 0..count {
                for i in 0..16 {
                    sums[i] = sums[i].wrapping_add(i32::from(a[i]) * i32::from(b[i]));
                }
                sums = std::hint::black_box(sums);
            }
            (sums.iter().map(|&s| s as u64).fold(0, u64::wrapping_add), 16)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    /// # Safety
    /// AVX-512 F; whole lines.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn read_zmm(bytes: &[u8]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        for lines in bytes.chunks_exact(256) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: four lines a chunk.
                *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(lines.as_ptr().add(64 * i).cast()) });
            }
        }
        let [a, b, c, d] = sums;
        _mm512_reduce_add_epi64(_mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d))) as u64
    }

    /// # Safety
    /// AVX2; whole lines.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn read_ymm(bytes: &[u8]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 4];
        for lines in bytes.chunks_exact(128) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: four halves of a line a chunk.
                *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(lines.as_ptr().add(32 * i).cast()) });
            }
        }
        let [a, b, c, d] = sums;
        _mm256_extract_epi64::<0>(_mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d))) as u64
    }

    /// # Safety
    /// AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn dots_zmm(count: usize) -> u64 {
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(5));
        let mut sums = [_mm512_setzero_si512(); 16];
        for _ in 0..count / 16 {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
                // SAFETY: no instruction; keeps the compiler from adding the products up itself.
                unsafe { asm!("/* {0} */", inout(zmm_reg) * sum, options(nomem, nostack, preserves_flags)) };
            }
        }
        sums.iter().map(|&s| _mm512_reduce_add_epi32(s) as u64).fold(0, u64::wrapping_add)
    }

    /// # Safety
    /// AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) unsafe fn dots_ymm(count: usize) -> u64 {
        let (a, b) = (_mm256_set1_epi8(3), _mm256_set1_epi8(5));
        let mut sums = [_mm256_setzero_si256(); 12];
        for _ in 0..count / 12 {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
                // SAFETY: as above.
                unsafe { asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) };
            }
        }
        sums.iter().map(|&s| _mm256_extract_epi64::<0>(s) as u64).fold(0, u64::wrapping_add)
    }

    /// What AVX2 has for it, summed in i16 as our kernel does; widening to i32, once a group, is left out.
    ///
    /// # Safety
    /// AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn maddubs(count: usize) -> u64 {
        let (a, b) = (_mm256_set1_epi8(3), _mm256_set1_epi8(5));
        let mut sums = [_mm256_setzero_si256(); 12];
        for _ in 0..count / 12 {
            for sum in &mut sums {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(a, b));
                // SAFETY: as above.
                unsafe { asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) };
            }
        }
        sums.iter().map(|&s| _mm256_extract_epi64::<0>(s) as u64).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_the_slower_of_both() {
        let peak = Peak { memory_gb_s: 40.0, memory_gb_s_1_core: 30.0, int8_gmac_s: 800.0, int8_gmac_s_1_core: 400.0 };
        assert_eq!(peak.floor_seconds(40e9, 1.0), 1.0);
        assert_eq!(peak.floor_seconds(40e9, 1600e9), 2.0);
    }
}
