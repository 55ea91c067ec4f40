//! Activations as int8: quantised once a call, whatever the number of weights they meet.
//!
//! 32 values share a scale `max |x| / 127`; codes are `round(x * 127 / max |x|)`, ties to even, so |code| <= 127.
//! A unit with a NaN or an infinity gets a NaN scale and zero codes: what is not finite stays visible in the output.

use super::format::UNIT;
use super::shared::SharedMut;
use crate::dispatch::Isa;
use crate::pool::Pool;

/// Below this maximum a unit counts as zero: its inverse would overflow.
const TINY: f32 = 1e-30;
/// Values quantised in one task.
const TASK_VALUES: usize = 1 << 15;

/// What a unit of 32 codes needs beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(super) struct UnitInfo {
    /// `x ~ scale * code`.
    pub scale: f32,
    /// `scale * sum`, what a minimum is multiplied by.
    pub weighted: f32,
    /// Sum of the 32 codes.
    pub sum: i32,
    /// Sums of the first and the last 16.
    pub halves: [i16; 2],
}

/// `m` rows of codes and their unit infos.
#[derive(Default)]
pub(super) struct Activations {
    /// `[m][cols]`.
    pub codes: Vec<i8>,
    /// `[m][cols / 32]`.
    pub infos: Vec<UnitInfo>,
}

impl Activations {
    /// Quantises `x` `[m, cols]`, `cols` a multiple of 32, into this buffer.
    pub(super) fn quantize(&mut self, isa: Isa, pool: &Pool, x: &[f32], cols: usize) {
        self.codes.resize(x.len(), 0);
        self.infos.resize(x.len() / UNIT, UnitInfo::default());
        let quantize: fn(&[f32], &mut [i8], &mut [UnitInfo]) = match isa {
            Isa::Scalar => quantize_scalar,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::quantize,
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => quantize_scalar,
        };
        let task_len = (TASK_VALUES / cols).max(1) * cols;
        let (codes, infos) = (
            SharedMut::new(&mut self.codes),
            SharedMut::new(&mut self.infos),
        );
        pool.run(x.len().div_ceil(task_len), &|task| {
            let start = task * task_len;
            let len = task_len.min(x.len() - start);
            // SAFETY: tasks take consecutive, disjoint ranges.
            let (codes, infos) = unsafe {
                (
                    codes.slice(start, len),
                    infos.slice(start / UNIT, len / UNIT),
                )
            };
            quantize(&x[start..start + len], codes, infos);
        });
    }
}

/// The scalar definition: whole units of 32.
pub(super) fn quantize_scalar(x: &[f32], codes: &mut [i8], infos: &mut [UnitInfo]) {
    let units = x.chunks_exact(UNIT).zip(codes.chunks_exact_mut(UNIT));
    for ((x, codes), info) in units.zip(infos) {
        // As integers, magnitudes order like floats, with NaN above infinity above all that is finite.
        let bits = x
            .iter()
            .map(|v| v.to_bits() & 0x7fff_ffff)
            .max()
            .unwrap_or(0);
        let (scale, inverse) = scale_of(f32::from_bits(bits));
        for (code, v) in codes.iter_mut().zip(x) {
            *code = (v * inverse).round_ties_even() as i8;
        }
        let sum = |half: &[i8]| half.iter().map(|&c| i16::from(c)).sum::<i16>();
        *info = unit_info(scale, [sum(&codes[..16]), sum(&codes[16..])]);
    }
}

/// (scale, 1 / scale) of a unit whose largest magnitude is `max`.
#[inline(always)]
pub(super) fn scale_of(max: f32) -> (f32, f32) {
    if !max.is_finite() {
        (f32::NAN, 0.0)
    } else if max < TINY {
        (0.0, 0.0)
    } else {
        (max / 127.0, 127.0 / max)
    }
}

/// The info of a unit from its scale and the sums of its halves.
#[inline(always)]
pub(super) fn unit_info(scale: f32, halves: [i16; 2]) -> UnitInfo {
    let sum = i32::from(halves[0]) + i32::from(halves[1]);
    UnitInfo {
        scale,
        weighted: scale * sum as f32,
        sum,
        halves,
    }
}
