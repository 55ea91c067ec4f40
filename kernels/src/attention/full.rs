//! Attention of encoders: each query over all keys of its own sequence, in both directions, no cache.
//!
//! Sequences stand one behind the other without padding. A row's scores are summed dimension by dimension and its values key
//! by key, in order, whatever stands beside it: a sequence's numbers are bit-equal alone and in any batch.
//! Positions, where a model has none of its own, come as ALiBi: <https://arxiv.org/abs/2108.12409>.

use std::cell::RefCell;

use super::CHUNK;
use super::error::AttentionError;
use super::kv::KvSlice;
use super::micro::{product, strip_rows};
use super::panel::gather_keys;
use crate::disjoint::{Disjoint, over_rows};
use crate::dispatch::{Isa, isa};
use crate::lanes::{LANES, Lanes, lanes_entry};
use crate::rows::Rows;
use crate::softmax::softmax_lanes;

/// Queries of a task, at most: their scores are kept at once.
const QUERIES: usize = 64;
/// And as many scores at most, where a sequence is long: they stay in the second-level cache.
const SCORES: usize = 64 << 10;
/// Rows of a product at once, at most: see [`strip_rows`].
const STRIP: usize = 6;

/// What an encoder's attention reads.
#[derive(Debug, Clone, Copy)]
pub struct FullAttention<'a> {
    /// Queries `[tokens, heads, head_dim]`.
    pub q: Rows<'a>,
    /// Keys, the same shape.
    pub k: Rows<'a>,
    /// Values, the same shape.
    pub v: Rows<'a>,
    /// Heads.
    pub heads: usize,
    /// Dimensions of a head, a multiple of eight.
    pub head_dim: usize,
    /// Tokens of each sequence, in order; together all rows.
    pub lengths: &'a [usize],
    /// Factor of the scores.
    pub scale: f32,
    /// ALiBi: `slopes[head] * |i - j|` is taken from the score of query i and key j; `None`: nothing is.
    pub slopes: Option<&'a [f32]>,
}

/// Some queries of one head of one sequence.
struct Task {
    first_row: usize,
    len: usize,
    head: usize,
    queries: std::ops::Range<usize>,
}

impl FullAttention<'_> {
    /// Writes `softmax(scale * q k^T - bias) v` to `out`, `[tokens, heads, head_dim]`.
    ///
    /// Errors: [`AttentionError::Length`], [`AttentionError::HeadDim`]; before the first write.
    pub fn run(&self, out: &mut [f32]) -> Result<(), AttentionError> {
        self.run_on(isa(), out)
    }

    pub(crate) fn run_on(&self, isa: Isa, out: &mut [f32]) -> Result<(), AttentionError> {
        self.check(out.len())?;
        let mut tasks = Vec::new();
        let (mut first_row, mut cost) = (0, 0);
        for &len in self.lengths {
            let step = (SCORES / len.max(1)).clamp(1, QUERIES);
            for start in (0..len).step_by(step) {
                let queries = start..len.min(start + step);
                cost += self.heads * queries.len() * len * self.head_dim;
                tasks.extend((0..self.heads).map(|head| Task { first_row, len, head, queries: queries.clone() }));
            }
            first_row += len;
        }
        let out = Disjoint::new(out);
        // Sixteen multiplications take about the time of moving a value.
        over_rows(tasks.len(), cost / 16 / tasks.len().max(1), &|run| {
            for task in &tasks[run] {
                attend(isa, self, task, &out);
            }
        });
        Ok(())
    }

    fn check(&self, out_len: usize) -> Result<(), AttentionError> {
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(LANES) {
            return Err(AttentionError::HeadDim { head_dim: self.head_dim });
        }
        let tokens = self.q.count;
        let row = self.heads * self.head_dim;
        let same = |what, expected, actual| {
            if expected == actual { Ok(()) } else { Err(AttentionError::Length { what, expected, actual }) }
        };
        same("tokens of the sequences", tokens, self.lengths.iter().sum())?;
        same("attention output", tokens * row, out_len)?;
        same("distance of rows of keys", self.k.stride.next_multiple_of(self.head_dim), self.k.stride)?;
        same("slopes of the heads", self.heads, self.slopes.map_or(self.heads, <[f32]>::len))?;
        for (what, rows) in [("queries", self.q), ("keys", self.k), ("values", self.v)] {
            same(what, tokens, rows.count)?;
            if !rows.hold(row) {
                return Err(AttentionError::Length { what, expected: tokens * row, actual: rows.values.len() });
            }
        }
        Ok(())
    }
}

/// Buffers of a thread, kept from call to call.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    panel: Vec<f32>,
    values: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn attend(isa: Isa, call: &FullAttention<'_>, task: &Task, out: &Disjoint<'_, f32>) {
    SCRATCH.with_borrow_mut(|scratch| run_task(isa, call, task, scratch, out));
}

lanes_entry! {
    fn run_task / run_task_avx2 / run_task_avx512(call: &FullAttention<'_>, task: &Task, scratch: &mut Scratch, out: &Disjoint<'_, f32>) = task_lanes
}

#[inline(always)]
fn task_lanes<L: Lanes>(call: &FullAttention<'_>, task: &Task, scratch: &mut Scratch, out: &Disjoint<'_, f32>) {
    let (head_dim, rows) = (call.head_dim, task.queries.len());
    let at = task.head * head_dim;
    // More than the keys, so that rows do not all fall into the same cache sets.
    let stride = task.len.next_multiple_of(CHUNK) + 16;
    scratch.scores.resize(scratch.scores.len().max(rows * stride), 0.0);
    scratch.panel.resize(scratch.panel.len().max(head_dim * CHUNK), 0.0);
    scratch.values.resize(scratch.values.len().max(STRIP * head_dim), 0.0);
    let scores = &mut scratch.scores[..rows * stride];
    let values = &mut scratch.values[..STRIP * head_dim];
    let panel = &mut scratch.panel[..head_dim * CHUNK];
    let first_query = task.first_row + task.queries.start;

    for first in (0..task.len).step_by(CHUNK) {
        let mut starts = [0usize; CHUNK];
        let starts = &mut starts[..CHUNK.min(task.len - first)];
        for (i, start) in starts.iter_mut().enumerate() {
            // A panel is gathered by numbers of rows of `head_dim`; rows of keys are whole numbers of them apart (`check`).
            *start = ((task.first_row + first + i) * call.k.stride + at) / head_dim;
        }
        gather_keys::<L>(KvSlice::F32(call.k.values), starts, head_dim, panel);
        let columns = starts.len().next_multiple_of(LANES);
        let mut row = 0;
        while row < rows {
            let count = strip_rows(rows - row);
            let q = &call.q.values[(first_query + row) * call.q.stride + at..];
            let c = &mut scores[row * stride + first..];
            // SAFETY: `check` has found `count` rows of `head_dim` values at `q`; the panel is [head_dim, CHUNK] and `columns` at
            // most CHUNK; the rows of scores have room for all chunks.
            unsafe {
                product::<L, false>(
                    count,
                    (q.as_ptr(), call.q.stride),
                    (panel.as_ptr(), CHUNK),
                    (c.as_mut_ptr(), stride),
                    head_dim,
                    columns,
                );
            }
            row += count;
        }
    }

    for (query, scores) in task.queries.clone().zip(scores.chunks_exact_mut(stride)) {
        let slope = call.slopes.map_or(0.0, |slopes| slopes[task.head]);
        let scores = &mut scores[..task.len];
        if slope == 0.0 {
            scores.iter_mut().for_each(|score| *score *= call.scale);
        } else {
            for (key, score) in scores.iter_mut().enumerate() {
                *score = *score * call.scale - slope * key.abs_diff(query) as f32;
            }
        }
        softmax_lanes::<L>(scores);
    }

    let width = call.heads * head_dim;
    let mut row = 0;
    while row < rows {
        let count = strip_rows(rows - row);
        let v = &call.v.values[task.first_row * call.v.stride + at..];
        // SAFETY: scores hold `len` values a row, `check` has found `len` rows of values at `v`, and there is room for six rows.
        unsafe {
            product::<L, false>(
                count,
                (scores[row * stride..].as_ptr(), stride),
                (v.as_ptr(), call.v.stride),
                (values.as_mut_ptr(), head_dim),
                task.len,
                head_dim,
            );
        }
        for (r, values) in values.chunks_exact(head_dim).take(count).enumerate() {
            let start = (first_query + row + r) * width + at;
            // SAFETY: each task writes its own head of its own rows.
            unsafe { out.part(start..start + head_dim) }.copy_from_slice(values);
        }
        row += count;
    }
}

#[cfg(test)]
#[path = "full_tests.rs"]
mod tests;
