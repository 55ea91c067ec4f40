//! Matrix products with prepared weights: one packed form, one int8 kernel for every quantised type.
//!
//! Weights are packed once, at load, into tiles of sixteen rows ([`format`]); activations are quantised once a call
//! ([`activations`]), floats stay as they are. A tile meets all rows of a block before the next tile is read, so one new token
//! streams each weight once, and a long prompt opens each chunk of codes once per 64 rows.
//!
//! Every output is summed in one order, told by [`scalar`], whatever `m`, the other weights of the call, the number of
//! threads or the instruction set: results are equal bit for bit.

mod activations;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod format;
mod pack;
mod scalar;

use std::cell::Cell;
use std::ops::Range;

use crate::disjoint::Disjoint;
use crate::dispatch::{Isa, isa};
use crate::error::KernelError;
use crate::pool::{Pool, pool};
use crate::quant::GgmlType;
use activations::{Activations, BLOCK_ROWS};
use aligned::AlignedBytes;
use format::ROWS;
use pack::TileLayout;

/// Rows of activations that meet an opened chunk of weights, whole blocks of [`BLOCK_ROWS`].
const ROW_BLOCK: usize = 64;
/// Columns that are summed on their own in products of floats: short sums round less.
const FLOAT_CHUNK: usize = 256;
/// Tasks a thread gets of a large call, so that all finish together.
const TASKS_PER_THREAD: usize = 16;
/// A task reads at least so many bytes of weights (times rows / 4): less costs more to claim than to do.
const MIN_TASK_BYTES: usize = 16 << 10;
/// And at most so many.
const MAX_TASK_BYTES: usize = 256 << 10;
/// Bytes of ggml data a packing task takes.
const PACK_TASK_BYTES: usize = 64 << 10;

/// Runs `$body` with `$f` the format of a quantised type, `$other` for the types that are floats.
macro_rules! for_quantised {
    ($ty:expr, $f:ident => $body:expr, else $other:expr) => {
        match $ty {
            $crate::quant::GgmlType::Q4_0 => {
                type $f = $crate::quant::Q4_0;
                $body
            }
            $crate::quant::GgmlType::Q4_1 => {
                type $f = $crate::quant::Q4_1;
                $body
            }
            $crate::quant::GgmlType::Q5_0 => {
                type $f = $crate::quant::Q5_0;
                $body
            }
            $crate::quant::GgmlType::Q5_1 => {
                type $f = $crate::quant::Q5_1;
                $body
            }
            $crate::quant::GgmlType::Q8_0 => {
                type $f = $crate::quant::Q8_0;
                $body
            }
            $crate::quant::GgmlType::Q2K => {
                type $f = $crate::quant::Q2K;
                $body
            }
            $crate::quant::GgmlType::Q3K => {
                type $f = $crate::quant::Q3K;
                $body
            }
            $crate::quant::GgmlType::Q4K => {
                type $f = $crate::quant::Q4K;
                $body
            }
            $crate::quant::GgmlType::Q5K => {
                type $f = $crate::quant::Q5K;
                $body
            }
            $crate::quant::GgmlType::Q6K => {
                type $f = $crate::quant::Q6K;
                $body
            }
            $crate::quant::GgmlType::F32 | $crate::quant::GgmlType::F16 | $crate::quant::GgmlType::BF16 => $other,
        }
    };
}
use for_quantised;

/// A weight matrix `[rows (output features), cols (input features)]`, prepared for [`matmul`].
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
        if rows == 0 || cols == 0 {
            return Err(KernelError::EmptyMatrix { rows, cols });
        }
        let too_large = KernelError::TooLarge { rows, cols };
        if !cols.is_multiple_of(ty.block_len()) {
            return Err(KernelError::ColumnsNotBlocks { ty, cols });
        }
        let row_bytes = ty.row_bytes(cols).ok_or(too_large.clone())?;
        let expected = row_bytes.checked_mul(rows).ok_or(too_large.clone())?;
        if data.len() != expected {
            return Err(KernelError::DataLength { ty, rows, cols, expected, actual: data.len() });
        }
        let layout = TileLayout::of(ty, cols).ok_or(too_large.clone())?;
        let bytes = layout.bytes.checked_mul(rows.div_ceil(ROWS)).ok_or(too_large)?;
        let mut tiles = AlignedBytes::zeroed(bytes)?;
        let tiles_per_task = (PACK_TASK_BYTES / (ROWS * row_bytes)).max(1);
        let packed = Disjoint::new(tiles.as_mut_slice());
        let sources: Vec<&[u8]> = data.chunks(tiles_per_task * ROWS * row_bytes).collect();
        pool().run(sources.len(), &|task| {
            for (index, rows) in sources[task].chunks(ROWS * row_bytes).enumerate() {
                let start = (task * tiles_per_task + index) * layout.bytes;
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

    /// One row in f32, bit for bit as [`crate::quant::dequantize`] gives it; `out` is `cols` long.
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

    fn num_tiles(&self) -> usize {
        self.rows.div_ceil(ROWS)
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

/// `out[m, sum of rows] = x[m, cols] * weights^T`, the weights' outputs side by side (as in q, k, v or gate, up).
///
/// For quantised weights `x` is rounded to int8 with a scale per 32 columns, once a call; float weights take `x` as it is.
/// Runs on the process's pool with the instruction set of [`isa`]. NaN and infinity in a row of `x` make its outputs NaN.
/// Errors: [`KernelError::ColumnsDiffer`], [`KernelError::Length`].
pub fn matmul(x: &[f32], m: usize, weights: &[&PackedMatrix], out: &mut [f32]) -> Result<(), KernelError> {
    matmul_on(isa(), pool(), x, m, weights, out)
}

/// [`matmul`] with the instruction set and pool chosen by the caller; one the processor lacks becomes scalar.
pub fn matmul_on(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let isa = isa.or_scalar();
    let Some(first) = weights.first() else {
        return check_len("output", 0, out.len());
    };
    let cols = first.cols;
    for (index, weight) in weights.iter().enumerate() {
        if weight.cols != cols {
            return Err(KernelError::ColumnsDiffer { index, expected: cols, actual: weight.cols });
        }
    }
    let total: usize = weights.iter().map(|w| w.rows).sum();
    check_len("activations", m.saturating_mul(cols), x.len())?;
    check_len("output", m.saturating_mul(total), out.len())?;

    // One buffer a thread, kept between calls; a nested call finds it taken and starts its own.
    thread_local! {
        static BUFFER: Cell<Activations> = Cell::new(Activations::default());
    }
    let mut acts = BUFFER.take();
    if weights.iter().any(|w| !w.ty.is_float()) {
        acts.quantize(isa, pool, x, cols);
    }
    let call = Call { isa, x, m, acts: &acts, total, out: Disjoint::new(out) };
    let plan = plan_tasks(weights, m, pool.threads());
    let row_blocks = m.div_ceil(ROW_BLOCK);
    pool.run(plan.len() * row_blocks, &|task| {
        let rows = task / plan.len() * ROW_BLOCK;
        call.run(&plan[task % plan.len()], rows..m.min(rows + ROW_BLOCK));
    });
    BUFFER.set(acts);
    Ok(())
}

fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if expected == actual { Ok(()) } else { Err(KernelError::Length { what, expected, actual }) }
}

/// Tiles of one weight that a thread takes at once.
struct TileRange<'a> {
    weight: &'a PackedMatrix,
    tiles: Range<usize>,
    /// Output column of the weight's first row.
    column: usize,
}

/// One list over all weights; sizes even out by themselves because tasks are claimed as threads get free.
fn plan_tasks<'a>(weights: &[&'a PackedMatrix], m: usize, threads: usize) -> Vec<TileRange<'a>> {
    let bytes: usize = weights.iter().map(|w| w.bytes()).sum();
    let least = MIN_TASK_BYTES / m.div_ceil(4).max(1);
    let task_bytes = (bytes / (threads * TASKS_PER_THREAD)).clamp(least, MAX_TASK_BYTES);
    let mut plan = Vec::new();
    let mut column = 0;
    for weight in weights {
        let step = (task_bytes / weight.layout.bytes).max(1);
        for start in (0..weight.num_tiles()).step_by(step) {
            let tiles = start..weight.num_tiles().min(start + step);
            plan.push(TileRange { weight, tiles, column });
        }
        column += weight.rows;
    }
    plan
}

/// What the tasks of one call share.
struct Call<'a> {
    isa: Isa,
    x: &'a [f32],
    m: usize,
    acts: &'a Activations,
    total: usize,
    out: Disjoint<'a, f32>,
}

impl Call<'_> {
    /// Some tiles times some rows of x, written to their place.
    fn run(&self, range: &TileRange<'_>, rows: Range<usize>) {
        debug_assert!(rows.end <= self.m, "rows {rows:?} of {}", self.m);
        let weight = range.weight;
        let kernel = tile_kernel(self.isa, weight.ty);
        // Kernels overwrite the sums; clearing the large array would cost a decode step's task a tenth.
        let (mut few, mut many);
        let acc: &mut [f32] = if rows.len() <= BLOCK_ROWS {
            few = [0f32; BLOCK_ROWS * ROWS];
            &mut few
        } else {
            many = [0f32; ROW_BLOCK * ROWS];
            &mut many
        };
        let acc = &mut acc[..rows.len() * ROWS];
        for tile in range.tiles.clone() {
            let job = TileJob {
                tile: weight.tile(tile),
                layout: weight.layout,
                cols: weight.cols,
                x: self.x,
                acts: self.acts,
                rows: rows.clone(),
            };
            kernel(&job, acc);
            let valid = ROWS.min(weight.rows - tile * ROWS);
            for (m, acc) in rows.clone().zip(acc.chunks_exact(ROWS)) {
                let at = m * self.total + range.column + tile * ROWS;
                // SAFETY: (row block, tile) pairs are tasks' own, and so are their outputs.
                unsafe { self.out.part(at..at + valid) }.copy_from_slice(&acc[..valid]);
            }
        }
    }
}

/// A tile times some rows of activations.
struct TileJob<'a> {
    tile: &'a [u8],
    layout: TileLayout,
    cols: usize,
    /// All rows, `[m, cols]`.
    x: &'a [f32],
    /// The same as codes; empty where no weight of the call is quantised.
    acts: &'a Activations,
    rows: Range<usize>,
}

impl TileJob<'_> {
    /// What the unsafe kernels rely on; cheap beside a tile.
    fn check(&self, ty: GgmlType, acc_len: usize) {
        let fits = TileLayout::of(ty, self.cols)
            .is_some_and(|layout| layout.bytes == self.tile.len() && layout.codes == self.layout.codes);
        assert!(fits && self.cols.is_multiple_of(ty.block_len()), "tile of {ty} x {}", self.cols);
        assert!(acc_len == self.rows.len() * ROWS, "{acc_len} sums for {:?}", self.rows);
        if ty.is_float() {
            assert!(self.rows.end * self.cols <= self.x.len(), "rows {:?}", self.rows);
        } else {
            assert!(self.rows.end <= self.acts.m() && self.cols == self.acts.cols(), "rows {:?}", self.rows);
            assert!(self.rows.start.is_multiple_of(BLOCK_ROWS), "rows {:?} begin inside a block", self.rows);
        }
    }
}

type TileKernel = fn(&TileJob<'_>, &mut [f32]);

/// The table of kernels: instruction set by type.
fn tile_kernel(isa: Isa, ty: GgmlType) -> TileKernel {
    macro_rules! table {
        ($set:ident) => {
            match ty {
                GgmlType::F32 => |job, acc| $set::float_tile(GgmlType::F32, job, acc),
                GgmlType::F16 => |job, acc| $set::float_tile(GgmlType::F16, job, acc),
                GgmlType::BF16 => |job, acc| $set::float_tile(GgmlType::BF16, job, acc),
                _ => for_quantised!(ty, F => $set::quantised_tile::<F>, else unreachable!("floats are above")),
            }
        };
    }
    match isa {
        Isa::Scalar => table!(scalar),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => table!(avx2),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 => table!(scalar),
    }
}

#[cfg(test)]
mod tests;
