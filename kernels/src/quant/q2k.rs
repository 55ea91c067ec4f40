//! Q2_K: 256 codes of 2 bits in 16 groups of 16; scales and minimums of 4 bits.

use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * scale * code - dmin * min`; 84 bytes: scale | min << 4 16, codes 64, d f16, dmin f16.
pub(crate) struct Q2K;

impl BlockFormat for Q2K {
    const TYPE: GgmlType = GgmlType::Q2K;
    const GROUP: usize = 16;
    const ZERO: i32 = 0;
    const SUPER: bool = true;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 80);
        out.m = u16_at(block, 82);
        for (group, byte) in block[..16].iter().enumerate() {
            out.sub_scales[group] = byte & 15;
            out.sub_mins[group] = byte >> 4;
        }
        two_bits(&block[16..80], &mut out.codes);
    }

    fn group(block: &OpenBlock, group: usize) -> (f32, f32) {
        (block.scale() * f32::from(block.sub_scales[group]), block.min() * f32::from(block.sub_mins[group]))
    }
}

/// 64 bytes to 256 codes. Each half of 128 columns is 32 bytes; bits `2j` of byte `l` are its column `32 j + l`.
#[inline(always)]
pub(super) fn two_bits(bytes: &[u8], codes: &mut [u8; 256]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (byte, code) in bytes.iter().zip(codes) {
                *code = (byte >> (2 * j)) & 3;
            }
        }
    }
}
