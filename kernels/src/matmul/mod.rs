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
mod blocks;
mod format;
mod pack;
#[cfg(target_arch = "x86_64")]
mod quantize_zmm;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::cell::Cell;
use std::ops::Range;

use crate::disjoint::Disjoint;
use crate::dispatch::{Isa, isa};
use crate::error::KernelError;
use crate::pool::{Pool, pool};
use crate::quant::GgmlType;
use activations::{Activations, Plane};
pub(crate) use aligned::AlignedBytes;
use blocks::RowBlocks;
use format::ROWS;
use pack::TileLayout;

/// Rows of activations that meet an opened chunk of weights, about: their sums stay in the second-level cache.
const JOB_ROWS: usize = 256;
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
    linear_on(isa(), pool(), x, m, weights, None, out)
}

/// [`matmul`], with a bias `[sum of rows]` added to each output.
pub fn linear(
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    linear_on(isa(), pool(), x, m, weights, bias, out)
}

/// [`linear`] with the instruction set and pool chosen by the caller; one the processor lacks becomes scalar.
pub fn linear_on(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    bias: Option<&[f32]>,
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
    check_len("bias", total, bias.map_or(total, <[f32]>::len))?;

    // Buffers of a thread, kept between calls; a nested call finds them taken and starts its own.
    thread_local! {
        static BUFFER: Cell<Activations> = Cell::new(Activations::default());
    }
    let mut acts = BUFFER.take();
    let blocks = RowBlocks::new(m, block_rows(isa, m));
    if weights.iter().any(|w| !w.ty.is_float()) {
        let planes = weights.iter().flat_map(|w| planes(isa, w.ty)).flatten();
        if !acts.quantize(isa, pool, x, (blocks, cols), planes) {
            // So many formats side by side that one call cannot hold their planes: two calls can.
            BUFFER.set(acts);
            return in_halves(isa, pool, x, m, weights, bias, out);
        }
    }
    let call = Call { isa, x, acts: &acts, blocks, bias, total, out: Disjoint::new(out) };
    let plan = plan_tasks(isa, weights, m, pool.threads());
    let parts = blocks.rows().div_ceil(JOB_ROWS);
    pool.run(plan.len() * parts, &|task| {
        // Neighbours in time read the same tiles.
        let (range, part) = (&plan[task / parts], task % parts);
        call.run(range, part * blocks.count() / parts..(part + 1) * blocks.count() / parts);
    });
    BUFFER.set(acts);
    Ok(())
}

/// The weights in two calls, their outputs put side by side.
fn in_halves(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let total: usize = weights.iter().map(|w| w.rows).sum();
    let mut column = 0;
    for half in [&weights[..weights.len() / 2], &weights[weights.len() / 2..]] {
        let width: usize = half.iter().map(|w| w.rows).sum();
        let mut part = vec![0f32; m * width];
        linear_on(isa, pool, x, m, half, bias.map(|bias| &bias[column..column + width]), &mut part)?;
        for (out, part) in out.chunks_exact_mut(total).zip(part.chunks_exact(width)) {
            out[column..column + width].copy_from_slice(part);
        }
        column += width;
    }
    Ok(())
}

/// The planes that a kernel reads; those of other instruction sets read the infos themselves.
fn planes(isa: Isa, ty: GgmlType) -> [Option<Plane>; 3] {
    match isa {
        Isa::AvxVnni | Isa::Avx512 => for_quantised!(ty, F => Plane::of::<F>(), else [None; 3]),
        _ => [None; 3],
    }
}

/// Rows that the kernels of an instruction set multiply at once, of `m`.
fn block_rows(isa: Isa, m: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    fn of<W: wide::Wide>(m: usize) -> usize {
        if m <= W::STREAM_ROWS { W::STREAM_ROWS } else { W::BLOCK_ROWS }
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => of::<wide::Zmm>(m),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => of::<wide::Ymm>(m),
        _ => 4,
    }
}

/// Tiles that they take at once, where there are several blocks of rows; one stream reads tile after tile.
fn tiles_at_once(isa: Isa, blocks: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if blocks > 1 => <wide::Zmm as wide::Wide>::TILES,
        _ => 1,
    }
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
fn plan_tasks<'a>(isa: Isa, weights: &[&'a PackedMatrix], m: usize, threads: usize) -> Vec<TileRange<'a>> {
    let bytes: usize = weights.iter().map(|w| w.bytes()).sum();
    let least = MIN_TASK_BYTES / m.div_ceil(4).max(1);
    let task_bytes = (bytes / (threads * TASKS_PER_THREAD)).clamp(least, MAX_TASK_BYTES);
    let at_once = tiles_at_once(isa, m.div_ceil(block_rows(isa, m)));
    let mut plan = Vec::new();
    let mut column = 0;
    for weight in weights {
        let step = (task_bytes / weight.layout.bytes).max(1).next_multiple_of(at_once);
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
    acts: &'a Activations,
    blocks: RowBlocks,
    bias: Option<&'a [f32]>,
    total: usize,
    out: Disjoint<'a, f32>,
}

impl Call<'_> {
    /// Some tiles times some blocks of rows, written to their place.
    fn run(&self, range: &TileRange<'_>, blocks: Range<usize>) {
        // Sums of a thread; kernels overwrite them, so they are not cleared between jobs.
        thread_local! {
            static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
        }
        let weight = range.weight;
        let kernel = tile_kernel(self.isa, weight.ty);
        let rows = self.blocks.rows_of(blocks.clone());
        let at_once = tiles_at_once(self.isa, self.blocks.count());
        let mut sums = SUMS.take();
        if sums.len() < rows.len() * at_once * ROWS {
            sums.resize(rows.len() * at_once * ROWS, 0.0);
        }
        for tile in range.tiles.clone().step_by(at_once) {
            let tiles = at_once.min(range.tiles.end - tile);
            let acc = &mut sums[..rows.len() * tiles * ROWS];
            let job = TileJob {
                data: &weight.tiles.as_slice()[tile * weight.layout.bytes..][..tiles * weight.layout.bytes],
                tiles,
                more: tile + tiles < range.tiles.end,
                layout: weight.layout,
                cols: weight.cols,
                x: self.x,
                acts: self.acts,
                rows: rows.clone(),
                blocks: blocks.clone(),
            };
            kernel(&job, acc);
            let valid = (tiles * ROWS).min(weight.rows - tile * ROWS);
            for (m, acc) in rows.clone().zip(acc.chunks_exact(tiles * ROWS)) {
                let column = range.column + tile * ROWS;
                let at = m * self.total + column;
                // SAFETY: (row block, tile) pairs are tasks' own, and so are their outputs.
                let out = unsafe { self.out.part(at..at + valid) };
                match self.bias {
                    None => out.copy_from_slice(&acc[..valid]),
                    Some(bias) => {
                        let sums = acc.iter().zip(&bias[column..column + valid]);
                        out.iter_mut().zip(sums).for_each(|(out, (sum, bias))| *out = sum + bias);
                    }
                }
            }
        }
        SUMS.set(sums);
    }
}

/// One tile, or as many as the kernel takes at once, times some rows of activations.
struct TileJob<'a> {
    /// The tiles, one after the other.
    data: &'a [u8],
    tiles: usize,
    /// The thread takes the tiles behind these next.
    more: bool,
    layout: TileLayout,
    cols: usize,
    /// All rows, `[m, cols]`.
    x: &'a [f32],
    /// The same as codes; empty where no weight of the call is quantised.
    acts: &'a Activations,
    rows: Range<usize>,
    /// The blocks that are these rows.
    blocks: Range<usize>,
}

impl TileJob<'_> {
    /// What the unsafe kernels rely on; cheap beside a tile.
    fn check(&self, ty: GgmlType, acc_len: usize) {
        let fits = TileLayout::of(ty, self.cols).is_some_and(|layout| {
            self.tiles > 0 && self.tiles * layout.bytes == self.data.len() && layout.codes == self.layout.codes
        });
        assert!(fits && self.cols.is_multiple_of(ty.block_len()), "{} tiles of {ty} x {}", self.tiles, self.cols);
        assert!(acc_len == self.rows.len() * self.tiles * ROWS, "{acc_len} sums for {:?}", self.rows);
        if ty.is_float() {
            assert!(self.rows.end * self.cols <= self.x.len(), "rows {:?}", self.rows);
        } else {
            let blocks = self.acts.blocks();
            assert!(self.blocks.end <= blocks.count() && self.cols == self.acts.cols(), "blocks {:?}", self.blocks);
            assert!(blocks.rows_of(self.blocks.clone()) == self.rows, "rows {:?} of {:?}", self.rows, self.blocks);
        }
    }
}

/// `acc[row of x][row of the tiles]`, overwritten.
type TileKernel = fn(&TileJob<'_>, &mut [f32]);

/// The table of kernels: instruction set by type.
fn tile_kernel(isa: Isa, ty: GgmlType) -> TileKernel {
    macro_rules! table {
        ($quantised:path, $float:path) => {
            match ty {
                GgmlType::F32 => |job, acc| $float(GgmlType::F32, job, acc),
                GgmlType::F16 => |job, acc| $float(GgmlType::F16, job, acc),
                GgmlType::BF16 => |job, acc| $float(GgmlType::BF16, job, acc),
                _ => for_quantised!(ty, F => { use $quantised as kernel; kernel::<F> }, else unreachable!("floats are above")),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => table!(avx2::quantised_tile, avx2::float_tile),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => table!(vnni::quantised_tiles_ymm, vnni::float_tiles_ymm),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => table!(vnni::quantised_tiles_zmm, vnni::float_tiles_zmm),
        _ => table!(scalar::quantised_tile, scalar::float_tile),
    }
}

#[cfg(test)]
mod tests;
