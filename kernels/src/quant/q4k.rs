//! Q4_K: 256 codes of 4 bits in 8 groups of 32; scales and minimums of 6 bits.

use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * scale * code - dmin * min`; 144 bytes: d f16, dmin f16, scales and mins 12, codes 128.
pub(crate) struct Q4K;

impl BlockFormat for Q4K {
    const TYPE: GgmlType = GgmlType::Q4K;
    const GROUP: usize = 32;
    const ZERO: i32 = 0;
    const SUPER: bool = true;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        out.m = u16_at(block, 2);
        six_bits(&block[4..16], out);
        nibble_pairs(&block[16..144], &mut out.codes);
    }

    fn group(block: &OpenBlock, group: usize) -> (f32, f32) {
        (block.scale() * f32::from(block.sub_scales[group]), block.min() * f32::from(block.sub_mins[group]))
    }
}

/// 12 bytes to 8 scales and 8 minimums of 6 bits; those of groups 4..8 borrow the top bits of groups 0..4.
#[inline(always)]
pub(super) fn six_bits(packed: &[u8], out: &mut OpenBlock) {
    for i in 0..4 {
        out.sub_scales[i] = packed[i] & 63;
        out.sub_mins[i] = packed[i + 4] & 63;
        out.sub_scales[i + 4] = (packed[i + 8] & 15) | ((packed[i] >> 6) << 4);
        out.sub_mins[i + 4] = (packed[i + 8] >> 4) | ((packed[i + 4] >> 6) << 4);
    }
}

/// 128 bytes to 256 codes: each 32 bytes are 32 columns below and the next 32 above.
#[inline(always)]
pub(super) fn nibble_pairs(bytes: &[u8], codes: &mut [u8; 256]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        let (low, high) = codes.split_at_mut(32);
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            *low = byte & 15;
            *high = byte >> 4;
        }
    }
}
