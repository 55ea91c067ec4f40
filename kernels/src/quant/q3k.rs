//! Q3_K: 256 codes of 3 bits in 16 groups of 16; scales of 6 bits, signed.

use super::q2k::two_bits;
use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * (scale - 32) * (code - 4)`; 110 bytes: third bits 32, lower bits 64, scales 12, d f16.
pub(crate) struct Q3K;

impl BlockFormat for Q3K {
    const TYPE: GgmlType = GgmlType::Q3K;
    const GROUP: usize = 16;
    const ZERO: i32 = 4;
    const SUPER: bool = true;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 108);
        let scales = &block[96..108];
        for group in 0..16 {
            let low = (scales[group % 8] >> (4 * (group / 8))) & 15;
            let high = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
            out.sub_scales[group] = (low | (high << 4)).wrapping_sub(32);
        }
        two_bits(&block[32..96], &mut out.codes);
        // Bit `j` of byte `l` is the third bit of column `32 j + l`.
        for (j, codes) in out.codes.chunks_exact_mut(32).enumerate() {
            for (byte, code) in block[..32].iter().zip(codes) {
                *code |= ((byte >> j) & 1) << 2;
            }
        }
    }

    fn group(block: &OpenBlock, group: usize) -> (f32, f32) {
        (block.scale() * f32::from(block.sub_scales[group] as i8), 0.0)
    }
}
