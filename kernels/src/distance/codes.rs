//! Rows of int8 codes, a scale each, and the scores of a query against some of them.

use super::{LINE, Line};
use crate::dispatch::{Isa, isa};

/// Zero of a row's unsigned codes.
const ZERO: u8 = 128;
/// Largest code, either side of zero.
const PEAK: f32 = 127.0;

/// A query in codes: `value = code * scale`, symmetric, the largest value 127.
#[derive(Debug, Clone, Default)]
pub struct CodeQuery {
    /// Signed codes as bytes.
    lines: Vec<Line>,
    /// Sum of the codes: what the rows' zero adds to a product, 128 times.
    sum: i32,
    scale: f32,
}

impl CodeQuery {
    /// An empty one, to be set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the codes of a vector. Values that are not finite become some code; whoever lets them in checks first.
    pub fn set(&mut self, values: &[f32]) {
        self.lines.clear();
        self.lines.resize(values.len().div_ceil(LINE), Line([0; LINE]));
        self.scale = scale_of(values);
        self.sum = 0;
        for (line, values) in self.lines.iter_mut().zip(values.chunks(LINE)) {
            for (byte, &value) in line.0.iter_mut().zip(values) {
                let code = code_of(value, self.scale);
                self.sum += i32::from(code);
                *byte = code as u8;
            }
        }
    }

    /// Takes row `row` of `rows` as the query. Panics if there is no such row.
    pub fn set_to_row(&mut self, rows: &CodeRows, row: u32) {
        self.lines.clear();
        self.lines.extend_from_slice(rows.row(row));
        self.sum = 0;
        for line in &mut self.lines {
            let mut sum = 0i32;
            for byte in &mut line.0 {
                *byte ^= ZERO;
                sum += i32::from(*byte as i8);
            }
            self.sum += sum;
        }
        self.scale = rows.scales[row as usize];
    }
}

/// Vectors as int8 codes in rows of whole cache lines: a byte a value, and one scale a row.
#[derive(Debug, Clone, Default)]
pub struct CodeRows {
    lines: Vec<Line>,
    scales: Vec<f32>,
    /// Lines of a row.
    stride: usize,
    dim: usize,
}

/// What a kernel is handed: where lines begin, and which rows are meant. The entry has checked all of them.
pub(super) struct Gather<'a> {
    pub(super) query: &'a [Line],
    pub(super) rows: &'a [Line],
    /// Rows, each below `rows.len() / query.len()`.
    pub(super) ids: &'a [u32],
    /// One sum a row: `sum(row * query)`, the row unsigned.
    pub(super) sums: &'a mut [i32],
}

impl CodeRows {
    /// No rows yet, of `dim` values each.
    pub fn new(dim: usize) -> Self {
        Self { lines: Vec::new(), scales: Vec::new(), stride: dim.div_ceil(LINE), dim }
    }

    /// No rows yet, with room for some.
    pub fn with_capacity(dim: usize, rows: usize) -> Self {
        let mut new = Self::new(dim);
        new.reserve(rows);
        new
    }

    /// Makes room for `more` rows.
    pub fn reserve(&mut self, more: usize) {
        self.lines.reserve_exact(more * self.stride);
        self.scales.reserve_exact(more);
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * LINE + self.scales.capacity() * 4
    }

    /// Appends a vector's codes: `value = (code - 128) * scale`, the scale its largest value over 127.
    ///
    /// Panics if it has not [`CodeRows::dim`] values.
    pub fn push(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.dim, "values of a row");
        let scale = scale_of(values);
        self.lines.extend(values.chunks(LINE).map(|values| {
            let mut line = Line([ZERO; LINE]);
            for (byte, &value) in line.0.iter_mut().zip(values) {
                *byte = code_of(value, scale) as u8 ^ ZERO;
            }
            line
        }));
        self.scales.push(scale);
    }

    /// Appends a copy of row `row` of `other`. Panics if there is no such row or it has another length.
    pub fn push_row(&mut self, other: &Self, row: u32) {
        assert_eq!(other.dim, self.dim, "values of a row");
        self.lines.extend_from_slice(other.row(row));
        self.scales.push(other.scales[row as usize]);
    }

    fn row(&self, row: u32) -> &[Line] {
        &self.lines[row as usize * self.stride..][..self.stride]
    }

    /// `scores[i]`: the inner product of the query and row `ids[i]`, as their codes say it.
    ///
    /// ids, scores `[n]`. Panics if an id is no row, if scores are fewer than ids, or if the query has another length.
    pub fn scores(&self, query: &CodeQuery, ids: &[u32], scores: &mut [f32]) {
        self.scores_by(isa(), query, ids, scores);
    }

    pub(super) fn scores_by(&self, isa: Isa, query: &CodeQuery, ids: &[u32], scores: &mut [f32]) {
        const BATCH: usize = 64;
        assert_eq!(query.lines.len(), self.stride, "lines of the query");
        assert!(scores.len() >= ids.len(), "{} scores for {} ids", scores.len(), ids.len());
        let mut sums = [0i32; BATCH];
        for (ids, scores) in ids.chunks(BATCH).zip(scores.chunks_mut(BATCH)) {
            // This also is the check that every id is a row.
            let mut scales = [0f32; BATCH];
            for (scale, &id) in scales.iter_mut().zip(ids) {
                *scale = self.scales[id as usize];
            }
            let sums = &mut sums[..ids.len()];
            gather(isa, Gather { query: &query.lines, rows: &self.lines, ids, sums });
            let offset = i32::from(ZERO) * query.sum;
            for ((score, sum), scale) in scores.iter_mut().zip(sums).zip(scales) {
                *score = (*sum - offset) as f32 * (scale * query.scale);
            }
        }
    }
}

fn gather(isa: Isa, job: Gather<'_>) {
    match isa {
        // SAFETY: an `Isa` other than Scalar is only handed out where the processor has it, here and below.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { super::vnni::gather_avx512(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { super::vnni::gather_avx_vnni(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { super::avx2::gather(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { super::neon::gather(job) },
        _ => super::scalar::gather(job),
    }
}

/// The scale of a vector's codes; 1 for a vector of zeros, whose codes then are zeros.
fn scale_of(values: &[f32]) -> f32 {
    let peak = values.iter().fold(0f32, |peak, value| peak.max(value.abs()));
    if peak > 0.0 && peak.is_finite() { peak / PEAK } else { 1.0 }
}

fn code_of(value: f32, scale: f32) -> i8 {
    (value / scale).round_ties_even().clamp(-PEAK, PEAK) as i8
}

#[inline(always)]
pub(super) fn prefetch_line(line: &Line) {
    prefetch_at(line.0.as_ptr());
}

#[inline(always)]
pub(super) fn prefetch_at(address: *const u8) {
    // SAFETY: a prefetch reads nothing that the program sees and never faults, whatever the address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
