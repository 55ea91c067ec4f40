//! What a quantised row becomes in a tile of sixteen rows.
//!
//! A tile is its scales, block after block, then its codes, unit after unit. A *unit* is 32 columns of 16 rows, eight *quads*;
//! a quad is 4 columns of 16 rows, one byte a code: 64 bytes, a cache line, `[row][column]`.
//! Packed, a unit keeps each type's bits in planes of whole lines:
//!
//! - `HIGH`, first: 1: one line, bit `q` of a byte belongs to quad `q`. 2: two lines of quads `4j .. 4j + 4`, two bits each.
//! - `LOW`, behind it: 8: the quads as they are. 4: line `j` holds quad `2j` in the lower halves and `2j + 1` in the upper.
//!   2: line `j` holds quads `4j .. 4j + 4`, the first lowest.
//!
//! So lines are read in the order they stand in, which is what a processor's prefetcher follows.
//!
//! Scales of a block: see [`Scales`]. Whatever the type, a row costs what it does in ggml's layout, at most 3.7 % more.

use crate::quant::{BlockFormat, OpenBlock};
use crate::quant::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Columns of a unit.
pub(super) const UNIT: usize = 32;
/// Units whose codes are opened at a time: one K block, 4 KiB of bytes.
pub(super) const CHUNK: usize = 8;

/// How the scales of a block of 16 rows are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// `d` f16 [16].
    Half,
    /// `d` f16 [16], `m` f16 [16].
    HalfMin,
    /// `d` f16 [16], scales i8 [groups][16].
    SubSigned,
    /// `d` f16 [16], `dmin` f16 [16], scales u8 [groups][16], mins u8 [groups][16].
    SubMin,
    /// `d` f16 [16], `dmin` f16 [16], scale | min << 4 [groups][16].
    SubNibbles,
}

/// A block format with a tile form.
pub(super) trait TileFormat: BlockFormat {
    /// Bits of a code in the lower plane: 8, 4 or 2.
    const LOW: usize;
    /// Bits of a code in the upper plane: 0, 1 or 2.
    const HIGH: usize;
    /// How its scales are kept.
    const SCALES: Scales;

    /// Bytes of a packed unit.
    const UNIT_BYTES: usize = 64 * (Self::LOW + Self::HIGH);
    /// Whether values have a minimum.
    const MINS: bool = !matches!(Self::SCALES, Scales::Half | Scales::SubSigned);
    /// Units of a block.
    const BLOCK_UNITS: usize = if Self::SUPER { 8 } else { 1 };
    /// Groups of a block.
    const BLOCK_GROUPS: usize = Self::BLOCK_UNITS * UNIT / Self::GROUP;
    /// What is subtracted from unsigned codes while they are summed in i16, so that a whole group fits: for 4, 5 and 6 bits
    /// half the range, `group * 127 * bias <= 2 * 32767` in the two columns of a lane. What [`BlockFormat::ZERO`] differs is made up in i32.
    const BIAS: i32 = 1 << (Self::LOW + Self::HIGH - 1);
    /// Bytes of the scales of a block of 16 rows.
    const SCALE_BYTES: usize = match Self::SCALES {
        Scales::Half => 32,
        Scales::HalfMin => 64,
        Scales::SubSigned => 32 + 16 * Self::BLOCK_GROUPS,
        Scales::SubMin => 64 + 32 * Self::BLOCK_GROUPS,
        Scales::SubNibbles => 64 + 16 * Self::BLOCK_GROUPS,
    };
}

macro_rules! tile_formats {
    ($($format:ty: $low:literal + $high:literal, $scales:ident;)*) => {
        $(impl TileFormat for $format {
            const LOW: usize = $low;
            const HIGH: usize = $high;
            const SCALES: Scales = Scales::$scales;
        })*
    };
}

tile_formats! {
    Q4_0: 4 + 0, Half;
    Q4_1: 4 + 0, HalfMin;
    Q5_0: 4 + 1, Half;
    Q5_1: 4 + 1, HalfMin;
    Q8_0: 8 + 0, Half;
    Q2K: 2 + 0, SubNibbles;
    Q3K: 2 + 1, SubSigned;
    Q4K: 4 + 0, SubMin;
    Q5K: 4 + 1, SubMin;
    Q6K: 4 + 2, SubSigned;
}

/// Writes one row's scales of a block into the block's scales of its tile.
pub(super) fn write_scales<F: TileFormat>(open: &OpenBlock, row: usize, scales: &mut [u8]) {
    scales[2 * row..][..2].copy_from_slice(&open.d.to_le_bytes());
    if F::MINS {
        scales[32 + 2 * row..][..2].copy_from_slice(&open.m.to_le_bytes());
    }
    let sub = if F::MINS { 64 } else { 32 };
    for group in 0..F::BLOCK_GROUPS {
        let at = sub + 16 * group + row;
        match F::SCALES {
            Scales::Half | Scales::HalfMin => {}
            Scales::SubSigned => scales[at] = open.sub_scales[group],
            Scales::SubNibbles => scales[at] = open.sub_scales[group] | (open.sub_mins[group] << 4),
            Scales::SubMin => {
                scales[at] = open.sub_scales[group];
                scales[at + 16 * F::BLOCK_GROUPS] = open.sub_mins[group];
            }
        }
    }
}

/// The reverse of [`write_scales`], so that the format itself tells (scale, min) of each group of one row.
pub(super) fn read_scales<F: TileFormat>(scales: &[u8], row: usize, open: &mut OpenBlock) {
    let half = |at: usize| u16::from_le_bytes([scales[at], scales[at + 1]]);
    open.d = half(2 * row);
    open.m = if F::MINS { half(32 + 2 * row) } else { 0 };
    let sub = if F::MINS { 64 } else { 32 };
    for group in 0..F::BLOCK_GROUPS {
        let at = sub + 16 * group + row;
        match F::SCALES {
            Scales::Half | Scales::HalfMin => {}
            Scales::SubSigned => open.sub_scales[group] = scales[at],
            Scales::SubNibbles => {
                open.sub_scales[group] = scales[at] & 15;
                open.sub_mins[group] = scales[at] >> 4;
            }
            Scales::SubMin => {
                open.sub_scales[group] = scales[at];
                open.sub_mins[group] = scales[at + 16 * F::BLOCK_GROUPS];
            }
        }
    }
}

/// Codes of a unit, a byte each (`[quad][row][column]`), to planes.
pub(super) fn pack_unit<F: TileFormat>(codes: &[u8; 512], out: &mut [u8]) {
    let (high, low) = out[..F::UNIT_BYTES].split_at_mut(64 * F::HIGH);
    let low_mask = ((1u32 << F::LOW) - 1) as u8;
    pack_plane(codes, F::LOW, 0, low_mask, low);
    pack_plane(codes, F::HIGH, F::LOW, ((1u32 << F::HIGH) - 1) as u8, high);
}

/// `bits` bits of each code, from bit `from` on, into lines of `8 / bits` quads.
#[inline(always)]
fn pack_plane(codes: &[u8; 512], bits: usize, from: usize, mask: u8, lines: &mut [u8]) {
    if bits == 0 {
        return;
    }
    let quads = 8 / bits;
    for (line, codes) in lines.chunks_exact_mut(64).zip(codes.chunks_exact(64 * quads)) {
        line.fill(0);
        for (quad, codes) in codes.chunks_exact(64).enumerate() {
            for (byte, code) in line.iter_mut().zip(codes) {
                *byte |= ((code >> from) & mask) << (bits * quad);
            }
        }
    }
}

/// The reverse of [`pack_unit`]: planes to one byte a code.
pub(super) fn open_unit<F: TileFormat>(packed: &[u8], codes: &mut [u8; 512]) {
    let packed = &packed[..F::UNIT_BYTES];
    for (quad, codes) in codes.chunks_exact_mut(64).enumerate() {
        for (at, code) in codes.iter_mut().enumerate() {
            *code = code_at::<F>(packed, quad, at);
        }
    }
}

/// The codes of one row of a packed unit.
pub(super) fn open_row<F: TileFormat>(packed: &[u8], row: usize, codes: &mut [u8; UNIT]) {
    let packed = &packed[..F::UNIT_BYTES];
    for (quad, codes) in codes.chunks_exact_mut(4).enumerate() {
        for (column, code) in codes.iter_mut().enumerate() {
            *code = code_at::<F>(packed, quad, 4 * row + column);
        }
    }
}

/// Byte `at` of a quad: the code of row `at / 4`, column `at % 4`.
#[inline(always)]
fn code_at<F: TileFormat>(packed: &[u8], quad: usize, at: usize) -> u8 {
    let plane = |first_line: usize, bits: usize| {
        let quads = 8 / bits;
        let byte = packed[64 * (first_line + quad / quads) + at];
        (byte >> (bits * (quad % quads))) & ((1u32 << bits) - 1) as u8
    };
    let low = plane(F::HIGH, F::LOW);
    if F::HIGH == 0 { low } else { low | (plane(0, F::HIGH.max(1)) << F::LOW) }
}
