//! Q5_0 and Q5_1: as Q4, and the fifth bits apart: bit `i` of a u32 belongs to column `i`.

use super::q4::nibbles;
use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * (code - 16)`; 22 bytes: d f16, fifth bits 4, lower bits 16.
pub(crate) struct Q5_0;

/// `d * code + m`; 24 bytes: d f16, m f16, fifth bits 4, lower bits 16.
pub(crate) struct Q5_1;

impl BlockFormat for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    const GROUP: usize = 32;
    const ZERO: i32 = 16;
    const SUPER: bool = false;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        nibbles(&block[6..22], &mut out.codes);
        fifth_bits(&block[2..6], &mut out.codes);
    }

    fn group(block: &OpenBlock, _group: usize) -> (f32, f32) {
        (block.scale(), 0.0)
    }
}

impl BlockFormat for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;
    const GROUP: usize = 32;
    const ZERO: i32 = 0;
    const SUPER: bool = false;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        out.m = u16_at(block, 2);
        nibbles(&block[8..24], &mut out.codes);
        fifth_bits(&block[4..8], &mut out.codes);
    }

    fn group(block: &OpenBlock, _group: usize) -> (f32, f32) {
        (block.scale(), -block.min())
    }
}

/// Adds bit `i` of the little-endian u32 to code `i` as its fifth bit.
#[inline(always)]
fn fifth_bits(bits: &[u8], codes: &mut [u8]) {
    for (byte, codes) in bits.iter().zip(codes[..32].chunks_exact_mut(8)) {
        for (bit, code) in codes.iter_mut().enumerate() {
            *code |= ((byte >> bit) & 1) << 4;
        }
    }
}
