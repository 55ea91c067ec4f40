//! One call: its weights cut into tasks, and what a task does.

use std::borrow::Borrow;
use std::cell::Cell;
use std::ops::Range;

use super::activations::Activations;
use super::blocks::RowBlocks;
use super::brains::Brains;
use super::epilogue::{self, Epilogue, Place, Sums};
use super::format::ROWS;
use super::job::{TileJob, tile_kernel};
use super::packed::PackedMatrix;
use crate::disjoint::Disjoint;
use crate::dispatch::Isa;

/// Tasks a thread gets of a large call, so that all finish together.
const TASKS_PER_THREAD: usize = 32;
/// A task reads at least so many bytes of weights (times rows / 4): less costs more to claim than to do.
const MIN_TASK_BYTES: usize = 16 << 10;
/// And at most so many.
const MAX_TASK_BYTES: usize = 256 << 10;

/// Rows that the kernels of an instruction set multiply at once, of `m`.
pub(super) fn block_rows(isa: Isa, m: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    fn of<W: super::wide::Wide>(m: usize) -> usize {
        if m <= W::STREAM_ROWS { W::STREAM_ROWS } else { W::BLOCK_ROWS }
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => of::<super::wide::Zmm>(m),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => of::<super::wide::Ymm>(m),
        _ => 4,
    }
}

/// Tiles that they take at once, where there are several blocks of rows; one stream reads tile after tile.
fn tiles_at_once(isa: Isa, blocks: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if blocks > 1 => <super::wide::Zmm as super::wide::Wide>::TILES,
        _ => 1,
    }
}

/// Tiles of one weight that a thread takes at once.
pub(super) struct TileRange {
    /// Which of the call's weights.
    weight: usize,
    tiles: Range<usize>,
    /// Output column of the weight's first row.
    column: usize,
}

/// One list over all weights, in place of what `plan` held; sizes even out by themselves because threads that are done take
/// over from others.
pub(super) fn plan_tasks<M: Borrow<PackedMatrix>>(
    isa: Isa,
    weights: &[M],
    m: usize,
    threads: usize,
    tiles_of_an_output: usize,
    plan: &mut Vec<TileRange>,
) {
    let bytes: usize = weights.iter().map(|w| w.borrow().bytes()).sum();
    let least = MIN_TASK_BYTES / m.div_ceil(4).max(1);
    let task_bytes = (bytes / (threads * TASKS_PER_THREAD)).clamp(least, MAX_TASK_BYTES);
    let together = tiles_at_once(isa, m.div_ceil(block_rows(isa, m))).max(tiles_of_an_output);
    plan.clear();
    let mut column = 0;
    for (index, weight) in weights.iter().enumerate() {
        let weight = weight.borrow();
        let step = (task_bytes / weight.layout().bytes).max(1).next_multiple_of(together);
        let all = weight.num_tiles() * tiles_of_an_output;
        for start in (0..all).step_by(step) {
            plan.push(TileRange { weight: index, tiles: start..all.min(start + step), column });
        }
        column += weight.rows();
    }
}

/// What the tasks of one call share.
pub(super) struct Call<'a, M> {
    pub isa: Isa,
    pub weights: &'a [M],
    pub x: &'a [f32],
    pub acts: &'a Activations,
    pub brains: &'a Brains,
    pub blocks: RowBlocks,
    pub epilogue: Epilogue<'a>,
    pub total: usize,
    pub out: Disjoint<'a, f32>,
}

impl<M: Borrow<PackedMatrix>> Call<'_, M> {
    /// Two where sixteen outputs come of a tile of the gate and one of what it lets through.
    pub(super) fn tiles_of_an_output(&self) -> usize {
        if matches!(self.epilogue, Epilogue::SwiGlu) { 2 } else { 1 }
    }

    /// Some tiles times some blocks of rows, written to their place.
    pub(super) fn run(&self, range: &TileRange, blocks: Range<usize>) {
        // Sums of a thread; kernels overwrite them, so they are not cleared between jobs.
        thread_local! {
            static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
        }
        let weight = self.weights[range.weight].borrow();
        let rows = self.blocks.rows_of(blocks.clone());
        let at_once = tiles_at_once(self.isa, self.blocks.count());
        let pairs = self.tiles_of_an_output();
        let together = at_once.max(pairs);
        let all_tiles = weight.num_tiles() * pairs;
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
                let more = tile + first + at_once < all_tiles;
                self.multiply(weight, (tile + first, at_once.min(tiles), more), (rows.clone(), blocks.clone()), acc);
            }
            let row = tile / pairs * ROWS;
            let place = Place {
                out: &self.out,
                first_row: rows.start,
                column: range.column + row,
                width: (tiles / pairs * ROWS).min(weight.rows() - row),
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
            data: &weight.bytes_of_tiles()[tile * weight.layout().bytes..][..tiles * weight.layout().bytes],
            tiles,
            more,
            layout: weight.layout(),
            cols: weight.cols(),
            x: self.x,
            acts: self.acts,
            brains: self.brains,
            rows,
            blocks,
        };
        tile_kernel(self.isa, weight.ggml_type(), self.brains.in_pairs())(&job, acc);
    }
}
