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

/// Adds bit `i` of the little-endian u32 to code `i` as its fifth bit, eight codes at a time.
#[inline(always)]
fn fifth_bits(bits: &[u8], codes: &mut [u8]) {
    let (eights, _) = codes[..32].as_chunks_mut::<8>();
    for (&byte, codes) in bits.iter().zip(eights) {
        // The byte in all eight places, bit `i` kept in the `i`-th; adding 0x7f carries what is not zero to the top bit.
        let one_each = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let top_bits = (one_each + 0x7f7f_7f7f_7f7f_7f7f) & 0x8080_8080_8080_8080;
        *codes = (u64::from_le_bytes(*codes) | (top_bits >> 3)).to_le_bytes();
    }
}
