//! Q4_0 and Q4_1: 32 codes of 4 bits. Byte `i` holds column `i` below and column `16 + i` above.

use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * (code - 8)`; 18 bytes: d f16, codes 16.
pub(crate) struct Q4_0;

/// `d * code + m`; 20 bytes: d f16, m f16, codes 16.
pub(crate) struct Q4_1;

impl BlockFormat for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const GROUP: usize = 32;
    const ZERO: i32 = 8;
    const SUPER: bool = false;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        nibbles(&block[2..18], &mut out.codes);
    }

    fn group(block: &OpenBlock, _group: usize) -> (f32, f32) {
        (block.scale(), 0.0)
    }
}

impl BlockFormat for Q4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;
    const GROUP: usize = 32;
    const ZERO: i32 = 0;
    const SUPER: bool = false;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        out.m = u16_at(block, 2);
        nibbles(&block[4..20], &mut out.codes);
    }

    fn group(block: &OpenBlock, _group: usize) -> (f32, f32) {
        (block.scale(), -block.min())
    }
}

/// 16 bytes to 32 codes: the lower halves, then the upper halves.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes[..32].split_at_mut(16);
    for ((byte, low), high) in bytes[..16].iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}
