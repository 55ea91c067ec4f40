//! Matrix products with prepared weights: one packed form, one int8 kernel for every quantised type.
//!
//! Weights are packed once, at load, into tiles of sixteen rows ([`format`]); activations are quantised once a call
//! ([`activations`]), floats stay as they are. A tile meets all rows of a block before the next tile is read, so one new token
//! streams each weight once, and a long prompt opens each chunk of codes once per 64 rows.
//!
//! Every output is summed in one order, told by [`scalar`], whatever `m`, the other weights of the call, the number of
//! threads or the instruction set: results are equal bit for bit.

// Parts of what is shared, such as the planes of activations, serve the kernels of one architecture only.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]

mod activations;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod blocks;
mod epilogue;
mod format;
#[cfg(target_arch = "aarch64")]
mod neon;
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
use epilogue::{Epilogue, Place, Sums};
use format::ROWS;
use pack::TileLayout;

/// Rows of activations that meet an opened chunk of weights, about: their sums stay in the second-level cache.
const JOB_ROWS: usize = 256;
/// Columns that are summed on their own in products of floats: short sums round less.
const FLOAT_CHUNK: usize = 256;
/// Tasks a thread gets of a large call, so that all finish together.
const TASKS_PER_THREAD: usize = 32;
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

/// Gate and up of a SwiGLU, two matrices `[rows, cols]` of one type, packed for [`swiglu`]: tile by tile in turn.
#[derive(Debug)]
pub struct GatedMatrix(PackedMatrix);

impl GatedMatrix {
    /// Packs both. Errors: as [`PackedMatrix::pack`].
    pub fn pack(ty: GgmlType, rows: usize, cols: usize, gate: &[u8], up: &[u8]) -> Result<Self, KernelError> {
        PackedMatrix::pack_parts(ty, rows, cols, [gate, up]).map(Self)
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

/// `out = silu(x gate^T) * (x up^T)`, bit for bit what [`matmul`] and [`crate::activation::silu_mul`] give, without the sums
/// between them ever being written.
///
/// x `[m, cols]`, out `[m, rows]`. Errors: [`KernelError::Length`].
pub fn swiglu(x: &[f32], m: usize, weight: &GatedMatrix, out: &mut [f32]) -> Result<(), KernelError> {
    swiglu_on(isa(), pool(), x, m, weight, out)
}

/// [`swiglu`] with the instruction set and pool chosen by the caller.
pub fn swiglu_on(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    m: usize,
    weight: &GatedMatrix,
    out: &mut [f32],
) -> Result<(), KernelError> {
    multiply(isa, pool, (x, m), &[&weight.0], Epilogue::SwiGlu, out)
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
    let total: usize = weights.iter().map(|w| w.rows).sum();
    check_len("bias", total, bias.map_or(total, <[f32]>::len))?;
    multiply(isa, pool, (x, m), weights, bias.map_or(Epilogue::Store, Epilogue::Bias), out)
}

/// All products there are: checks the sizes, quantises, and hands out tiles.
fn multiply(
    isa: Isa,
    pool: &Pool,
    (x, m): (&[f32], usize),
    weights: &[&PackedMatrix],
    epilogue: Epilogue<'_>,
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
            return in_halves(isa, pool, (x, m), weights, epilogue, out);
        }
    }
    let call = Call { isa, x, acts: &acts, blocks, epilogue, total, out: Disjoint::new(out) };
    let plan = plan_tasks(isa, weights, m, pool.threads(), call.tiles_of_an_output());
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
    (x, m): (&[f32], usize),
    weights: &[&PackedMatrix],
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let total: usize = weights.iter().map(|w| w.rows).sum();
    let mut column = 0;
    for half in [&weights[..weights.len() / 2], &weights[weights.len() / 2..]] {
        let width: usize = half.iter().map(|w| w.rows).sum();
        let mut part = vec![0f32; m * width];
        let epilogue = match epilogue {
            Epilogue::Bias(bias) => Epilogue::Bias(&bias[column..column + width]),
            other => other,
        };
        multiply(isa, pool, (x, m), half, epilogue, &mut part)?;
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
fn plan_tasks<'a>(
    isa: Isa,
    weights: &[&'a PackedMatrix],
    m: usize,
    threads: usize,
    tiles_of_an_output: usize,
) -> Vec<TileRange<'a>> {
    let bytes: usize = weights.iter().map(|w| w.bytes()).sum();
    let least = MIN_TASK_BYTES / m.div_ceil(4).max(1);
    let task_bytes = (bytes / (threads * TASKS_PER_THREAD)).clamp(least, MAX_TASK_BYTES);
    let together = tiles_at_once(isa, m.div_ceil(block_rows(isa, m))).max(tiles_of_an_output);
    let mut plan = Vec::new();
    let mut column = 0;
    for weight in weights {
        let step = (task_bytes / weight.layout.bytes).max(1).next_multiple_of(together);
        let all = weight.num_tiles() * tiles_of_an_output;
        for start in (0..all).step_by(step) {
            plan.push(TileRange { weight, tiles: start..all.min(start + step), column });
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
    epilogue: Epilogue<'a>,
    total: usize,
    out: Disjoint<'a, f32>,
}

impl Call<'_> {
    /// Two where sixteen outputs come of a tile of the gate and one of what it lets through.
    fn tiles_of_an_output(&self) -> usize {
        if matches!(self.epilogue, Epilogue::SwiGlu) { 2 } else { 1 }
    }

    /// Some tiles times some blocks of rows, written to their place.
    fn run(&self, range: &TileRange<'_>, blocks: Range<usize>) {
        // Sums of a thread; kernels overwrite them, so they are not cleared between jobs.
        thread_local! {
            static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
        }
        let weight = range.weight;
        let rows = self.blocks.rows_of(blocks.clone());
        let at_once = tiles_at_once(self.isa, self.blocks.count());
        let pairs = self.tiles_of_an_output();
        let together = at_once.max(pairs);
        let mut sums = SUMS.take();
        if sums.len() < rows.len() * together * ROWS {
            sums.resize(rows.len() * together * ROWS, 0.0);
        }
        for tile in range.tiles.clone().step_by(together) {
            let tiles = together.min(range.tiles.end - tile);
            // Tiles that the kernel takes one by one have their sums one behind the other.
            let stride = ROWS * at_once.min(tiles);
            for (index, first) in (0..tiles).step_by(at_once).enumerate() {
                let acc = &mut sums[index * rows.len() * stride..][..rows.len() * stride];
                let more = tile + first + at_once < range.tiles.end;
                self.multiply(weight, (tile + first, at_once.min(tiles), more), (rows.clone(), blocks.clone()), acc);
            }
            let row = tile / pairs * ROWS;
            let place = Place {
                out: &self.out,
                first_row: rows.start,
                column: range.column + row,
                width: (tiles / pairs * ROWS).min(weight.rows - row),
                stride: self.total,
            };
            let up = if at_once == 1 { rows.len() * ROWS } else { ROWS };
            epilogue::write(self.isa, Sums { values: &sums, rows: rows.len(), stride, up }, self.epilogue, place);
        }
        SUMS.set(sums);
    }

    /// One job of the kernel.
    fn multiply(
        &self,
        weight: &PackedMatrix,
        (tile, tiles, more): (usize, usize, bool),
        (rows, blocks): (Range<usize>, Range<usize>),
        acc: &mut [f32],
    ) {
        let job = TileJob {
            data: &weight.tiles.as_slice()[tile * weight.layout.bytes..][..tiles * weight.layout.bytes],
            tiles,
            more,
            layout: weight.layout,
            cols: weight.cols,
            x: self.x,
            acts: self.acts,
            rows,
            blocks,
        };
        tile_kernel(self.isa, weight.ty)(&job, acc);
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
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => table!(neon::quantised_tile, neon::float_tile),
        _ => table!(scalar::quantised_tile, scalar::float_tile),
    }
}

#[cfg(test)]
mod tests;
