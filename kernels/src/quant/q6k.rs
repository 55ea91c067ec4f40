//! Q6_K: 256 codes of 6 bits in 16 groups of 16; scales of 8 bits, signed.

use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * scale * (code - 32)`; 210 bytes: lower four bits 128, upper two 64, scales 16 x i8, d f16.
pub(crate) struct Q6K;

impl BlockFormat for Q6K {
    const TYPE: GgmlType = GgmlType::Q6K;
    const GROUP: usize = 16;
    const ZERO: i32 = 32;
    const SUPER: bool = true;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 208);
        out.sub_scales.copy_from_slice(&block[192..208]);
        let halves = block[..128].chunks_exact(64).zip(block[128..192].chunks_exact(32));
        for ((low, high), codes) in halves.zip(out.codes.chunks_exact_mut(128)) {
            // Columns 0, 32, 64, 96 onward: lower bytes 0..32 and 32..64, first their lower halves, then their upper.
            for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
                let low = &low[32 * (j % 2)..][..32];
                for ((low, high), code) in low.iter().zip(high).zip(codes) {
                    *code = ((low >> (4 * (j / 2))) & 15) | (((high >> (2 * j)) & 3) << 4);
                }
            }
        }
    }

    fn group(block: &OpenBlock, group: usize) -> (f32, f32) {
        (block.scale() * f32::from(block.sub_scales[group] as i8), 0.0)
    }
}
