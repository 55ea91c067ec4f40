//! One tile of queries against its context, a partition at a time.

use super::micro::{product, strip_rows};
use super::panel::{gather_keys, gather_values, key_rows, prefetch};
use super::plan::{Tile, visible};
use super::{AttentionParams, CHUNK, PARTITION, PagedKv, SequenceSpan};
use crate::disjoint::Disjoint;
use crate::lanes::{LANES, Lanes, lanes_entry};
use crate::rows::Rows;

/// Distance of score rows: more than a partition, so that rows do not all fall into the same cache sets.
const SCORE_STRIDE: usize = PARTITION + 16;

/// All that a call's tiles share.
pub(super) struct Call<'a> {
    pub q: Rows<'a>,
    pub heads: usize,
    pub group: usize,
    pub kv: PagedKv<'a>,
    pub spans: &'a [SequenceSpan],
    pub params: AttentionParams,
}

impl Call<'_> {
    /// Head width in panels and states: `head_dim`, rounded up to whole vectors.
    pub fn width(&self) -> usize {
        self.kv.shape.head_dim.next_multiple_of(LANES)
    }

    /// Values of the state of a tile: see [`State`].
    pub fn state_len(&self, tile: &Tile) -> usize {
        tile.tokens * self.group * (self.width() + 2)
    }

    /// Token and first dimension of a row of a tile.
    fn place(&self, tile: &Tile, row: usize) -> (usize, usize) {
        let head = tile.kv_head * self.group + row % self.group;
        (tile.first_row + row / self.group, head * self.kv.shape.head_dim)
    }
}

/// Softmax in progress for each row of a tile: the largest score (-inf: nothing seen), the sum of
/// `e^(score - largest)`, and the values weighted by these.
pub(super) struct State<'a> {
    largest: &'a mut [f32],
    sum: &'a mut [f32],
    /// `[rows, width]`
    values: &'a mut [f32],
}

impl<'a> State<'a> {
    /// A state kept in `memory`, which has [`Call::state_len`] values.
    pub fn of(memory: &'a mut [f32], rows: usize) -> Self {
        let (largest, rest) = memory.split_at_mut(rows);
        let (sum, values) = rest.split_at_mut(rows);
        Self { largest, sum, values }
    }

    fn clear(&mut self) {
        self.largest.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.values.fill(0.0);
    }
}

/// Buffers of a thread, kept from call to call.
#[derive(Default)]
pub(super) struct Scratch {
    q: Vec<f32>,
    scores: Vec<f32>,
    panel: Vec<f32>,
    part: Vec<f32>,
    total: Vec<f32>,
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

lanes_entry! {
    /// Answers a tile: partition after partition, merged in order, written to `out` (shaped like q).
    pub(super) fn whole / whole_avx2 / whole_avx512(call: &Call<'_>, tile: &Tile, scratch: &mut Scratch, out: &Disjoint<'_, f32>) = whole_lanes
}

lanes_entry! {
    /// One partition of a tile, left in `state`.
    pub(super) fn part / part_avx2 / part_avx512(call: &Call<'_>, tile: &Tile, partition: usize, scratch: &mut Scratch, state: &mut [f32]) = part_lanes
}

lanes_entry! {
    /// Merges the states of a tile's partitions, which follow each other in `states`, and writes to `out`.
    pub(super) fn merged / merged_avx2 / merged_avx512(call: &Call<'_>, tile: &Tile, states: &mut [f32], out: &Disjoint<'_, f32>) = merged_lanes
}

lanes_entry! {
    /// Asks for the first keys and values of a tile that comes soon.
    pub(super) fn fetch / fetch_avx2 / fetch_avx512(call: &Call<'_>, tile: &Tile, partition: usize) = fetch_lanes
}

#[inline(always)]
fn fetch_lanes<L: Lanes>(call: &Call<'_>, tile: &Tile, partition: usize) {
    let first = tile.visible.start.max(partition * PARTITION) / CHUNK * CHUNK;
    let mut rows = [0usize; CHUNK];
    let rows = &mut rows[..tile.visible.end.saturating_sub(first).min(CHUNK)];
    key_rows(&call.spans[tile.span].block_table, first, call.kv.shape, tile.kv_head, rows);
    prefetch::<L>(call.kv.k, rows, call.kv.shape.head_dim);
    prefetch::<L>(call.kv.v, rows, call.kv.shape.head_dim);
}

#[inline(always)]
fn whole_lanes<L: Lanes>(call: &Call<'_>, tile: &Tile, scratch: &mut Scratch, out: &Disjoint<'_, f32>) {
    let rows = tile.tokens * call.group;
    let mut part = std::mem::take(&mut scratch.part);
    let mut total = std::mem::take(&mut scratch.total);
    let mut state = State::of(sized(&mut part, call.state_len(tile)), rows);
    let mut sum = State::of(sized(&mut total, call.state_len(tile)), rows);
    sum.clear();
    load_queries::<L>(call, tile, scratch);
    for partition in tile.partitions() {
        attend::<L>(call, tile, partition, scratch, &mut state);
        merge::<L>(&mut sum, &state, call.width());
    }
    finish::<L>(call, tile, &sum, out);
    scratch.part = part;
    scratch.total = total;
}

#[inline(always)]
fn part_lanes<L: Lanes>(call: &Call<'_>, tile: &Tile, partition: usize, scratch: &mut Scratch, state: &mut [f32]) {
    load_queries::<L>(call, tile, scratch);
    let mut state = State::of(state, tile.tokens * call.group);
    attend::<L>(call, tile, partition, scratch, &mut state);
}

#[inline(always)]
fn merged_lanes<L: Lanes>(call: &Call<'_>, tile: &Tile, states: &mut [f32], out: &Disjoint<'_, f32>) {
    let rows = tile.tokens * call.group;
    let mut states = states.chunks_exact_mut(call.state_len(tile));
    if let Some(first) = states.next() {
        let mut sum = State::of(first, rows);
        for state in states {
            merge::<L>(&mut sum, &State::of(state, rows), call.width());
        }
        finish::<L>(call, tile, &sum, out);
    }
}

/// The tile's queries, scaled, into `scratch.q [rows, head_dim]`.
#[inline(always)]
fn load_queries<L: Lanes>(call: &Call<'_>, tile: &Tile, scratch: &mut Scratch) {
    let head_dim = call.kv.shape.head_dim;
    let q = sized(&mut scratch.q, tile.tokens * call.group * head_dim);
    let scale = L::splat(call.params.scale);
    for (row, to) in q.chunks_exact_mut(head_dim).enumerate() {
        let (token, at) = call.place(tile, row);
        let from = &call.q.values[token * call.q.stride + at..][..head_dim];
        for d in (0..head_dim).step_by(LANES) {
            L::load_at(from, d).mul(scale).store_at(to, d);
        }
    }
}

/// Softmax and values over the keys of one partition: scores of all, then weights, then values.
#[inline(always)]
fn attend<L: Lanes>(call: &Call<'_>, tile: &Tile, partition: usize, scratch: &mut Scratch, state: &mut State<'_>) {
    let (head_dim, width) = (call.kv.shape.head_dim, call.width());
    let base = partition * PARTITION;
    let rows = tile.tokens * call.group;
    // Within the partition: from the chunk where the first visible key is, to the last visible key.
    let first = tile.visible.start.saturating_sub(base) / CHUNK * CHUNK;
    let end = tile.visible.end.min(base + PARTITION) - base;
    let mut key_at = [0usize; PARTITION];
    let key_at = &mut key_at[..end];
    let table = &call.spans[tile.span].block_table;
    key_rows(table, base + first, call.kv.shape, tile.kv_head, &mut key_at[first..]);
    // What the strip of `count` rows from `row` on sees of this partition.
    let seen = |row: usize, count: usize| {
        let position = |row: usize| tile.first_position + row / call.group;
        let from = visible(position(row), call.params.window).start;
        let to = position(row + count - 1) + 1;
        from.saturating_sub(base)..to.saturating_sub(base).min(end)
    };

    let q = &scratch.q[..rows * head_dim];
    let scores = sized(&mut scratch.scores, rows * SCORE_STRIDE);
    let panel = sized(&mut scratch.panel, width * CHUNK);
    for chunk in (first..end).step_by(CHUNK) {
        let keys = &key_at[chunk..end.min(chunk + CHUNK)];
        let next = &key_at[end.min(chunk + CHUNK)..end.min(chunk + 2 * CHUNK)];
        prefetch::<L>(call.kv.k, next, head_dim);
        gather_keys::<L>(call.kv.k, keys, head_dim, panel);
        let mut row = 0;
        while row < rows {
            let count = strip_rows(rows - row);
            let seen = seen(row, count);
            if seen.start < chunk + CHUNK && seen.end > chunk {
                let columns = (seen.end - chunk).min(CHUNK).next_multiple_of(LANES);
                // SAFETY: rows row .. row + count of q and of the scores; the panel has head_dim rows of CHUNK keys,
                // and chunk + CHUNK is at most PARTITION, less than a score row.
                unsafe {
                    product::<L, false>(
                        count,
                        (q.as_ptr().add(row * head_dim), head_dim),
                        (panel.as_ptr(), CHUNK),
                        (scores.as_mut_ptr().add(row * SCORE_STRIDE + chunk), SCORE_STRIDE),
                        head_dim,
                        columns,
                    );
                }
            }
            row += count;
        }
    }

    prefetch::<L>(call.kv.v, &key_at[first..end.min(first + CHUNK)], head_dim);
    for (row, scores) in scores.chunks_exact_mut(SCORE_STRIDE).enumerate() {
        let seen = seen(row, 1);
        (state.largest[row], state.sum[row]) = weigh::<L>(scores, first, seen, end);
    }

    state.values.fill(0.0);
    for chunk in (first..end).step_by(CHUNK) {
        let keys = &key_at[chunk..end.min(chunk + CHUNK)];
        let next = &key_at[end.min(chunk + CHUNK)..end.min(chunk + 2 * CHUNK)];
        prefetch::<L>(call.kv.v, next, head_dim);
        gather_values::<L>(call.kv.v, keys, head_dim, panel);
        let mut row = 0;
        while row < rows {
            let count = strip_rows(rows - row);
            let seen = seen(row, count);
            let (from, to) = (seen.start.max(chunk), seen.end.min(chunk + CHUNK));
            if from < to {
                // SAFETY: rows row .. row + count of the scores and of the state; the panel has a row of `width`
                // for each key of the chunk, and from .. to are keys of it.
                unsafe {
                    product::<L, true>(
                        count,
                        (scores.as_ptr().add(row * SCORE_STRIDE + from), SCORE_STRIDE),
                        (panel.as_ptr().add((from - chunk) * width), width),
                        (state.values.as_mut_ptr().add(row * width), width),
                        to - from,
                        width,
                    );
                }
            }
            row += count;
        }
    }
}

/// Scores `seen` of a row become `e^(score - largest)`, the others from `first` to `end` zero.
///
/// Returns the largest score and the sum. The largest is held within f32, so that an overflown score (infinite)
/// still gives weights that are numbers.
#[inline(always)]
fn weigh<L: Lanes>(scores: &mut [f32], first: usize, seen: std::ops::Range<usize>, end: usize) -> (f32, f32) {
    if seen.start >= seen.end {
        scores[first..end].fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    // Whole vectors; keys of them that are not seen weigh nothing.
    let (from, to) = (seen.start / LANES * LANES, seen.end.next_multiple_of(LANES));
    scores[from..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..to].fill(f32::NEG_INFINITY);
    let mut largest = L::splat(f32::NEG_INFINITY);
    for part in scores[from..to].chunks_exact(LANES) {
        // SAFETY: the part has eight values.
        largest = unsafe { L::load(part.as_ptr()) }.max(largest);
    }
    let largest = largest.largest().clamp(f32::MIN, f32::MAX);
    let (center, mut sum) = (L::splat(largest), L::zero());
    for part in scores[from..to].chunks_exact_mut(LANES) {
        // SAFETY: the part has eight values.
        unsafe {
            let below = L::load(part.as_ptr()).sub(center).min(L::zero());
            let weight = below.exp();
            weight.store(part.as_mut_ptr());
            sum = sum.add(weight);
        }
    }
    scores[first..from.max(first)].fill(0.0);
    if to < end {
        scores[to..end].fill(0.0);
    }
    (largest, sum.sum())
}

/// Adds the state of a later partition.
#[inline(always)]
fn merge<L: Lanes>(sum: &mut State<'_>, part: &State<'_>, width: usize) {
    let values = sum.values.chunks_exact_mut(width).zip(part.values.chunks_exact(width));
    for (row, (to, from)) in values.enumerate() {
        let (a, b) = (sum.largest[row], part.largest[row]);
        if b == f32::NEG_INFINITY {
            continue;
        }
        if a == f32::NEG_INFINITY {
            to.copy_from_slice(from);
            (sum.largest[row], sum.sum[row]) = (b, part.sum[row]);
            continue;
        }
        let largest = L::splat(a.max(b));
        let keep = L::splat(a).sub(largest).exp();
        let take = L::splat(b).sub(largest).exp();
        for d in (0..width).step_by(LANES) {
            let taken = L::load_at(from, d).mul(take);
            L::load_at(to, d).mul_add(keep, taken).store_at(to, d);
        }
        let taken = L::splat(part.sum[row]).mul(take);
        sum.sum[row] = L::splat(sum.sum[row]).mul_add(keep, taken).to_array()[0];
        sum.largest[row] = a.max(b);
    }
}

/// Divides by the sums and writes the rows where they belong.
#[inline(always)]
fn finish<L: Lanes>(call: &Call<'_>, tile: &Tile, state: &State<'_>, out: &Disjoint<'_, f32>) {
    let (head_dim, width) = (call.kv.shape.head_dim, call.width());
    for (row, values) in state.values.chunks_exact(width).enumerate() {
        let (token, at) = call.place(tile, row);
        let at = token * call.heads * head_dim + at;
        // SAFETY: rows of different tiles, and of one tile, are different rows of out: spans do not overlap (checked).
        let out = unsafe { out.part(at..at + head_dim) };
        let sum = state.sum[row];
        let scale = L::splat(if sum > 0.0 { 1.0 / sum } else { 0.0 });
        for d in (0..head_dim).step_by(LANES) {
            L::load_at(values, d).mul(scale).store_at(out, d);
        }
    }
}
