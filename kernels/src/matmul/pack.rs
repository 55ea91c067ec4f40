//! From ggml's rows of blocks to tiles of sixteen rows, and back for one row.

use super::aligned::LINE;
use super::brains::kept_pair;
use super::format::{ROWS, TileFormat, UNIT, open_row, pack_unit, read_scales, write_scales};
use crate::quant::{BlockFormat, GgmlType, OpenBlock, code_value};

/// Where things lie in a tile of one matrix, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileLayout {
    /// The codes begin here, the scales at 0.
    pub codes: usize,
    /// Size of a tile, whole cache lines.
    pub bytes: usize,
}

impl TileLayout {
    /// The layout of tiles `cols` wide, `None` if it overflows. Floats: `[cols][16]`, bf16: `[pairs of columns][16][2]`.
    pub(super) fn of(ty: GgmlType, cols: usize) -> Option<Self> {
        if ty.is_float() {
            let bytes = cols.checked_mul(ROWS * ty.block_bytes())?.checked_next_multiple_of(LINE)?;
            return Some(Self { codes: 0, bytes });
        }
        fn quantised<F: TileFormat>(cols: usize) -> Option<TileLayout> {
            let scales = (cols / F::TYPE.block_len()).checked_mul(F::SCALE_BYTES)?;
            let codes = scales.checked_next_multiple_of(LINE)?;
            let bytes = (cols / UNIT).checked_mul(F::UNIT_BYTES)?.checked_add(codes)?;
            Some(TileLayout { codes, bytes })
        }
        super::for_quantised!(ty, F => quantised::<F>(cols), else None)
    }
}

/// Packs up to sixteen rows, `data`, into a tile of zeros; rows that are missing stay zero.
pub(super) fn pack_tile(ty: GgmlType, cols: usize, data: &[u8], tile: &mut [u8]) {
    match ty {
        GgmlType::F32 => pack_floats::<4>(cols, data, tile),
        GgmlType::F16 => pack_floats::<2>(cols, data, tile),
        GgmlType::BF16 => pack_brains(cols, data, tile),
        _ => super::for_quantised!(ty, F => pack_blocks::<F>(cols, data, tile), else ()),
    }
}

/// `[row][cols]` to `[cols][16]` of `BYTES` wide values.
fn pack_floats<const BYTES: usize>(cols: usize, data: &[u8], tile: &mut [u8]) {
    for (row, values) in data.chunks_exact(cols * BYTES).enumerate() {
        let places = tile.chunks_exact_mut(ROWS * BYTES);
        for (value, place) in values.chunks_exact(BYTES).zip(places) {
            place[row * BYTES..][..BYTES].copy_from_slice(value);
        }
    }
}

/// `[row][cols]` to `[pair][16][2]` of bf16; the pair of a last odd column has a zero.
fn pack_brains(cols: usize, data: &[u8], tile: &mut [u8]) {
    for (row, values) in data.chunks_exact(cols * 2).enumerate() {
        let mut pairs = values.chunks_exact(4);
        let mut places = tile.chunks_exact_mut(ROWS * 4).map(|place| &mut place[row * 4..][..4]);
        for (pair, place) in (&mut pairs).zip(&mut places) {
            place.copy_from_slice(&kept_pair([pair[0], pair[1], pair[2], pair[3]]));
        }
        if let (&[low, high], Some(place)) = (pairs.remainder(), places.next()) {
            place.copy_from_slice(&kept_pair([low, high, 0, 0]));
        }
    }
}

fn pack_blocks<F: TileFormat>(cols: usize, data: &[u8], tile: &mut [u8]) {
    let block_bytes = F::TYPE.block_bytes();
    let blocks = cols / F::TYPE.block_len();
    let layout_codes = (blocks * F::SCALE_BYTES).next_multiple_of(LINE);
    let (scales, codes) = tile.split_at_mut(layout_codes);
    let block_codes = F::BLOCK_UNITS * F::UNIT_BYTES;
    let mut open = OpenBlock::new();
    let mut units = [[0u8; 512]; 8];
    for block in 0..blocks {
        let scales = &mut scales[block * F::SCALE_BYTES..][..F::SCALE_BYTES];
        for (row, data) in data.chunks_exact(blocks * block_bytes).enumerate() {
            F::open(&data[block * block_bytes..][..block_bytes], &mut open);
            write_scales::<F>(&open, row, scales);
            for (unit, codes) in units.iter_mut().zip(open.codes[..F::TYPE.block_len()].chunks_exact(UNIT)) {
                for (quad, codes) in unit.chunks_exact_mut(64).zip(codes.chunks_exact(4)) {
                    quad[4 * row..][..4].copy_from_slice(codes);
                }
            }
        }
        let out = codes[block * block_codes..][..block_codes].chunks_exact_mut(F::UNIT_BYTES);
        for (unit, out) in units.iter().zip(out) {
            pack_unit::<F>(unit, out);
        }
    }
}

/// One row of a quantised tile in f32, bit for bit what [`crate::quant::dequantize`] gives.
pub(super) fn dequantize_blocks<F: TileFormat>(tile: &[u8], layout: TileLayout, row: usize, out: &mut [f32]) {
    let mut open = OpenBlock::new();
    let mut codes = [0u8; UNIT];
    let units = tile[layout.codes..].chunks_exact(F::UNIT_BYTES);
    for (index, (unit, values)) in units.zip(out.chunks_exact_mut(UNIT)).enumerate() {
        let block = index / F::BLOCK_UNITS;
        if index.is_multiple_of(F::BLOCK_UNITS) {
            read_scales::<F>(&tile[block * F::SCALE_BYTES..][..F::SCALE_BYTES], row, &mut open);
        }
        open_row::<F>(unit, row, &mut codes);
        for (column, (value, &code)) in values.iter_mut().zip(&codes).enumerate() {
            let group = (index % F::BLOCK_UNITS * UNIT + column) / F::GROUP;
            let (scale, min) = <F as BlockFormat>::group(&open, group);
            *value = scale * code_value::<F>(code) - min;
        }
    }
}

/// One row of a tile of floats in f32.
pub(super) fn dequantize_floats(ty: GgmlType, tile: &[u8], row: usize, out: &mut [f32]) {
    for (column, value) in out.iter_mut().enumerate() {
        let half = |at: usize| [tile[at], tile[at + 1]];
        *value = match ty {
            GgmlType::F16 => half::f16::from_le_bytes(half(2 * (column * ROWS + row))).to_f32(),
            GgmlType::BF16 => {
                half::bf16::from_le_bytes(half(4 * (column / 2 * ROWS + row) + 2 * (column % 2))).to_f32()
            }
            _ => {
                let at = 4 * (column * ROWS + row);
                f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]])
            }
        };
    }
}
