//! Q8_0: 32 codes of 8 bits, signed in the file; opened as code + 128, so that all formats have unsigned codes and a zero.

use super::{BlockFormat, GgmlType, OpenBlock, u16_at};

/// `d * code`; 34 bytes: d f16, codes 32 x i8.
pub(crate) struct Q8_0;

impl BlockFormat for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const GROUP: usize = 32;
    const ZERO: i32 = 128;
    const SUPER: bool = false;

    fn open(block: &[u8], out: &mut OpenBlock) {
        out.d = u16_at(block, 0);
        for (code, byte) in out.codes.iter_mut().zip(&block[2..34]) {
            *code = byte ^ 0x80;
        }
    }

    fn group(block: &OpenBlock, _group: usize) -> (f32, f32) {
        (block.scale(), 0.0)
    }
}
