//! ggml's block formats: which bytes a weight is, and the numbers they stand for.
//!
//! A quantised row is a run of blocks; a block is integer codes, a scale per group of 16 or 32 codes, and in some formats a minimum:
//! `value = scale * (code - zero) - min`. One file a family tells how its block opens into these parts ([`OpenBlock`]);
//! [`dequantize`] is the scalar definition that packing and matrix products are tested against.
//! Layouts: `block_*` in <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

mod float;
mod q2k;
mod q3k;
mod q4;
mod q4k;
mod q5;
mod q5k;
mod q6k;
mod q8;

use crate::error::KernelError;

pub(crate) use q2k::Q2K;
pub(crate) use q3k::Q3K;
pub(crate) use q4::{Q4_0, Q4_1};
pub(crate) use q4k::Q4K;
pub(crate) use q5::{Q5_0, Q5_1};
pub(crate) use q5k::Q5K;
pub(crate) use q6k::Q6K;
pub(crate) use q8::Q8_0;

/// A tensor type of ggml that the kernels read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)] // the variants are ggml's own names
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl GgmlType {
    /// Every type, in the order of their ids.
    pub const ALL: [GgmlType; 13] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2K,
        GgmlType::Q3K,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::BF16,
    ];

    /// The type a GGUF file's number stands for; `None` for types we do not read (IQ, ternary, integers).
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.ggml_id() == id)
    }

    /// The number that stands for the type in a GGUF file (`enum ggml_type`).
    pub fn ggml_id(self) -> u32 {
        match self {
            GgmlType::F32 => 0,
            GgmlType::F16 => 1,
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q5_0 => 6,
            GgmlType::Q5_1 => 7,
            GgmlType::Q8_0 => 8,
            GgmlType::Q2K => 10,
            GgmlType::Q3K => 11,
            GgmlType::Q4K => 12,
            GgmlType::Q5K => 13,
            GgmlType::Q6K => 14,
            GgmlType::BF16 => 30,
        }
    }

    /// The name ggml gives it.
    pub fn name(self) -> &'static str {
        match self {
            GgmlType::F32 => "F32",
            GgmlType::F16 => "F16",
            GgmlType::BF16 => "BF16",
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q2K => "Q2_K",
            GgmlType::Q3K => "Q3_K",
            GgmlType::Q4K => "Q4_K",
            GgmlType::Q5K => "Q5_K",
            GgmlType::Q6K => "Q6_K",
        }
    }

    /// Whether a value is a float of its own rather than a code in a block.
    pub fn is_float(self) -> bool {
        matches!(self, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16)
    }

    /// Values in a block.
    pub fn block_len(self) -> usize {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => 1,
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => 32,
            GgmlType::Q2K | GgmlType::Q3K | GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 | GgmlType::BF16 => 2,
            GgmlType::Q4_0 => 18,
            GgmlType::Q4_1 => 20,
            GgmlType::Q5_0 => 22,
            GgmlType::Q5_1 => 24,
            GgmlType::Q8_0 => 34,
            GgmlType::Q2K => 84,
            GgmlType::Q3K => 110,
            GgmlType::Q4K => 144,
            GgmlType::Q5K => 176,
            GgmlType::Q6K => 210,
        }
    }

    /// Bytes of a row; `None` where `cols` is not whole blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The parts of one block: codes as stored, scales still in their small integers.
pub(crate) struct OpenBlock {
    /// Codes in column order, as many valid as the type's blocks are long.
    pub codes: [u8; 256],
    /// Block scale, bits of an f16.
    pub d: u16,
    /// Block minimum (`m` of Q4_1 and Q5_1, `dmin` of the K formats), bits of an f16.
    pub m: u16,
    /// Scale of each group, to be multiplied by `d` (K formats; i8 in Q3_K and Q6_K).
    pub sub_scales: [u8; 16],
    /// Minimum of each group, to be multiplied by `m` (Q2_K, Q4_K, Q5_K).
    pub sub_mins: [u8; 16],
}

impl OpenBlock {
    pub(crate) const fn new() -> Self {
        Self { codes: [0; 256], d: 0, m: 0, sub_scales: [0; 16], sub_mins: [0; 16] }
    }

    pub(crate) fn scale(&self) -> f32 {
        half::f16::from_bits(self.d).to_f32()
    }

    pub(crate) fn min(&self) -> f32 {
        half::f16::from_bits(self.m).to_f32()
    }
}

/// How a quantised format's block opens.
pub(crate) trait BlockFormat {
    /// The type whose blocks these are.
    const TYPE: GgmlType;
    /// Columns that share a scale: 16 or 32.
    const GROUP: usize;
    /// What is subtracted from each code.
    const ZERO: i32;
    /// Whether a block holds several groups (K formats).
    const SUPER: bool;
    /// Opens one block of exactly the type's bytes.
    fn open(block: &[u8], out: &mut OpenBlock);
    /// (scale, min) of a group of the open block, in f32.
    fn group(block: &OpenBlock, group: usize) -> (f32, f32);
}

/// The numbers `data` stands for, in f32: the scalar definition of every format.
///
/// `out` is as many values as `data` holds, in order. Errors: [`KernelError::ColumnsNotBlocks`], [`KernelError::DataLength`].
pub fn dequantize(ty: GgmlType, data: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    let cols = out.len();
    let expected = ty.row_bytes(cols).ok_or(KernelError::ColumnsNotBlocks { ty, cols })?;
    if data.len() != expected {
        return Err(KernelError::DataLength { ty, rows: 1, cols, expected, actual: data.len() });
    }
    match ty {
        GgmlType::F32 => float::read_f32(data, out),
        GgmlType::F16 => float::read_f16(data, out),
        GgmlType::BF16 => float::read_bf16(data, out),
        GgmlType::Q4_0 => dequantize_blocks::<Q4_0>(data, out),
        GgmlType::Q4_1 => dequantize_blocks::<Q4_1>(data, out),
        GgmlType::Q5_0 => dequantize_blocks::<Q5_0>(data, out),
        GgmlType::Q5_1 => dequantize_blocks::<Q5_1>(data, out),
        GgmlType::Q8_0 => dequantize_blocks::<Q8_0>(data, out),
        GgmlType::Q2K => dequantize_blocks::<Q2K>(data, out),
        GgmlType::Q3K => dequantize_blocks::<Q3K>(data, out),
        GgmlType::Q4K => dequantize_blocks::<Q4K>(data, out),
        GgmlType::Q5K => dequantize_blocks::<Q5K>(data, out),
        GgmlType::Q6K => dequantize_blocks::<Q6K>(data, out),
    }
    Ok(())
}

fn dequantize_blocks<F: BlockFormat>(data: &[u8], out: &mut [f32]) {
    let mut open = OpenBlock::new();
    let blocks = data.chunks_exact(F::TYPE.block_bytes());
    for (block, values) in blocks.zip(out.chunks_exact_mut(F::TYPE.block_len())) {
        F::open(block, &mut open);
        let groups = values.chunks_exact_mut(F::GROUP).zip(open.codes.chunks_exact(F::GROUP));
        for (index, (values, codes)) in groups.enumerate() {
            let (scale, min) = F::group(&open, index);
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = scale * code_value::<F>(code) - min;
            }
        }
    }
}

/// A code as the number that its scale multiplies.
#[inline(always)]
pub(crate) fn code_value<F: BlockFormat>(code: u8) -> f32 {
    (i32::from(code) - F::ZERO) as f32
}

/// The little-endian u16 at `at`.
#[inline(always)]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
