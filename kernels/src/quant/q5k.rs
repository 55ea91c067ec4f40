//! Q5_K: as Q4_K, and the fifth bits apart.

use super::q4k::{nibble_pairs, six_bits};
use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * scale * code - dmin * min`; 176 bytes: d f16, dmin f16, scales and mins 12, fifth bits 32, lower bits 128.
pub(crate) struct Q5K;

impl BlockFormat for Q5K {
    const TYPE: GgmlType = GgmlType::Q5K;
    const GROUP: usize = 32;
    const ZERO: i32 = 0;
    const SUPER: bool = true;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        out.m = u16_at(block, 2);
        six_bits(&block[4..16], out);
        nibble_pairs(&block[48..176], &mut out.codes);
        // Bit `j` of byte `l` is the fifth bit of column `32 j + l`.
        for (j, codes) in out.codes.chunks_exact_mut(32).enumerate() {
            for (byte, code) in block[16..48].iter().zip(codes) {
                *code |= ((byte >> j) & 1) << 4;
            }
        }
    }

    fn group(block: &OpenBlock, group: usize) -> (f32, f32) {
        (block.scale() * f32::from(block.sub_scales[group]), block.min() * f32::from(block.sub_mins[group]))
    }
}
