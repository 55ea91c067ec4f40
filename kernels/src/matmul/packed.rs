//! Weight matrices in the form that products take.

use super::aligned::AlignedBytes;
use super::format::ROWS;
use super::pack::{self, TileLayout};
use super::{check_len, for_quantised};
use crate::disjoint::Disjoint;
use crate::error::KernelError;
use crate::pool::pool;
use crate::quant::GgmlType;

/// Bytes of ggml data a packing task takes.
const PACK_TASK_BYTES: usize = 64 << 10;

/// A weight matrix `[rows (output features), cols (input features)]`, prepared for [`super::matmul`].
///
/// Keeps each type's bits: at most 3.7 % larger than ggml's layout, rows rounded up to sixteen.
pub struct PackedMatrix {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    layout: TileLayout,
    tiles: AlignedBytes,
}

impl PackedMatrix {
    /// Packs `rows` rows of ggml blocks, in parallel on the process's pool.
    ///
    /// Errors: [`KernelError::EmptyMatrix`], [`KernelError::ColumnsNotBlocks`], [`KernelError::DataLength`],
    /// [`KernelError::TooLarge`], [`KernelError::OutOfMemory`].
    pub fn pack(ty: GgmlType, rows: usize, cols: usize, data: &[u8]) -> Result<Self, KernelError> {
        Self::pack_parts(ty, rows, cols, [data])
    }

    /// Packs `N` matrices of one shape so that tile `t` of each follows tile `t` of the one before.
    fn pack_parts<const N: usize>(
        ty: GgmlType,
        rows: usize,
        cols: usize,
        parts: [&[u8]; N],
    ) -> Result<Self, KernelError> {
        if rows == 0 || cols == 0 {
            return Err(KernelError::EmptyMatrix { rows, cols });
        }
        let too_large = KernelError::TooLarge { rows, cols };
        if !cols.is_multiple_of(ty.block_len()) {
            return Err(KernelError::ColumnsNotBlocks { ty, cols });
        }
        let row_bytes = ty.row_bytes(cols).ok_or(too_large.clone())?;
        let expected = row_bytes.checked_mul(rows).ok_or(too_large.clone())?;
        if let Some(wrong) = parts.iter().find(|data| data.len() != expected) {
            return Err(KernelError::DataLength { ty, rows, cols, expected, actual: wrong.len() });
        }
        let layout = TileLayout::of(ty, cols).ok_or(too_large.clone())?;
        let bytes = layout.bytes.checked_mul(rows.div_ceil(ROWS)).and_then(|b| b.checked_mul(N)).ok_or(too_large)?;
        let mut tiles = AlignedBytes::zeroed(bytes)?;
        let tiles_per_task = (PACK_TASK_BYTES / (ROWS * row_bytes)).max(1);
        let packed = Disjoint::new(tiles.as_mut_slice());
        let tasks = rows.div_ceil(ROWS).div_ceil(tiles_per_task);
        pool().run(tasks * N, &|task| {
            let (task, part) = (task / N, task % N);
            let first = task * tiles_per_task;
            let sources = parts[part].chunks(ROWS * row_bytes).enumerate().skip(first).take(tiles_per_task);
            for (tile, rows) in sources {
                let start = (tile * N + part) * layout.bytes;
                // SAFETY: each tile belongs to one task.
                let tile = unsafe { packed.part(start..start + layout.bytes) };
                pack::pack_tile(ty, cols, rows, tile);
            }
        });
        Ok(Self { ty, rows, cols, layout, tiles })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type the weights came in.
    pub fn ggml_type(&self) -> GgmlType {
        self.ty
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.tiles.as_slice().len()
    }

    /// One row in f32, bit for bit as [`crate::quant::dequantize`] gives it (of bf16, what is below 2^-56 is zero); `out` is
    /// `cols` long.
    ///
    /// Errors: [`KernelError::RowOutOfRange`], [`KernelError::Length`].
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if row >= self.rows {
            return Err(KernelError::RowOutOfRange { row, rows: self.rows });
        }
        check_len("row of weights", self.cols, out.len())?;
        let (tile, row) = (self.tile(row / ROWS), row % ROWS);
        for_quantised!(
            self.ty,
            F => pack::dequantize_blocks::<F>(tile, self.layout, row, out),
            else pack::dequantize_floats(self.ty, tile, row, out)
        );
        Ok(())
    }

    /// Tiles of sixteen rows.
    pub(super) fn num_tiles(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    pub(super) fn layout(&self) -> TileLayout {
        self.layout
    }

    /// All tiles, one after the other.
    pub(super) fn bytes_of_tiles(&self) -> &[u8] {
        self.tiles.as_slice()
    }

    fn tile(&self, index: usize) -> &[u8] {
        &self.tiles.as_slice()[index * self.layout.bytes..][..self.layout.bytes]
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} [{}, {}], {} bytes)", self.ty, self.rows, self.cols, self.bytes())
    }
}

/// Gate and up of a SwiGLU, two matrices `[rows, cols]` of one type, packed for [`super::swiglu`]: tile by tile in turn.
#[derive(Debug)]
pub struct GatedMatrix(PackedMatrix);

impl GatedMatrix {
    /// Packs both. Errors: as [`PackedMatrix::pack`].
    pub fn pack(ty: GgmlType, rows: usize, cols: usize, gate: &[u8], up: &[u8]) -> Result<Self, KernelError> {
        PackedMatrix::pack_parts(ty, rows, cols, [gate, up]).map(Self)
    }

    /// Tiles of both in turn, counted as one matrix.
    pub(super) fn tiles(&self) -> &PackedMatrix {
        &self.0
    }

    /// Outputs: features of the gate, and of what it lets through.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}
