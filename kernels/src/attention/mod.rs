//! Causal attention over a paged KV cache: prefill chunks and decodes of many sequences in one call.
//! (Encoders, which look both ways and keep nothing, have [`FullAttention`].)
//!
//! Blocks: PagedAttention, <https://arxiv.org/abs/2309.06180>. Softmax in parts that merge: FlashAttention-2,
//! <https://arxiv.org/abs/2307.08691>; the parts of one query on several cores: Flash-Decoding,
//! <https://crfm.stanford.edu/2023/10/12/flashdecoding.html>.
//!
//! A query's answer depends on its own values and on the keys and values it sees, and on nothing else: the context is
//! cut at fixed positions (every [`PARTITION`] tokens from 0), each part is summed key by key, and the parts are merged
//! in order. So it is bit-equal in a prefill of any chunking and in a decode, alone and in a batch, on any number of
//! threads. All query heads of a kv head share each read of K and V, which are turned to f32 once a tile.

mod error;
mod full;
mod int8;
mod kv;
mod micro;
mod panel;
mod plan;
#[cfg(test)]
mod tests;
mod tile;

use std::cell::{Cell, RefCell};

pub use error::AttentionError;
pub use full::FullAttention;
pub(crate) use int8::int8_head_dim;
pub use int8::int8_row_len;
pub use kv::{KvShape, KvSlice, KvSliceMut, PagedKv, write_kv};
pub(crate) use plan::visible;
use tile::{Call, Scratch};

use crate::disjoint::Disjoint;
use crate::dispatch::{Isa, isa};
use crate::pool::{Pool, pool};
use crate::rows::Rows;

/// Keys of a part of the context: parts begin at multiples of this.
pub(crate) const PARTITION: usize = 512;
/// Keys brought into cache at a time: a panel of 64 x 64 f32 is half an L1 cache.
const CHUNK: usize = 64;
/// Below this many multiplications a call stays on its thread: waking another costs about a microsecond.
const WORTH_SHARING: usize = 1 << 16;

/// One sequence's part of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SequenceSpan {
    /// First row of the batch that is this sequence's.
    pub query_start: usize,
    /// Rows it has: its newest tokens, already written to the cache.
    pub query_len: usize,
    /// Tokens of the sequence up to and with these.
    pub context_len: usize,
    /// Blocks of the cache in order of position; ids past `context_len` are not read.
    pub block_table: Vec<u32>,
}

/// What a model says about its attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Factor of the scores, most often `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Sliding window: a query at position p sees keys in `(p - window, p]`; `None` sees all up to p.
    pub window: Option<usize>,
}

/// Attention of each query over its sequence's cached context, its own position included.
///
/// q rows of `[heads, head_dim]`, out `[tokens, heads, head_dim]`; kv of one layer, `heads` a multiple of its `kv_heads` (GQA); softmax in f32.
/// Rows in no span become zero. Finite inputs give finite outputs, also where scores overflow.
/// Errors: every [`AttentionError`] but `Slot`; all before the first write.
pub fn paged_attention(
    q: Rows<'_>,
    heads: usize,
    kv: PagedKv<'_>,
    spans: &[SequenceSpan],
    params: &AttentionParams,
    out: &mut [f32],
) -> Result<(), AttentionError> {
    let call = checked(q, heads, kv, spans, params, out.len())?;
    if spans.iter().map(|s| s.query_len).sum::<usize>() * heads * kv.shape.head_dim < out.len() {
        out.fill(0.0);
    }
    attend(isa(), pool(), &call, out);
    Ok(())
}

/// Checks all sizes against each other.
fn checked<'a>(
    q: Rows<'a>,
    heads: usize,
    kv: PagedKv<'a>,
    spans: &'a [SequenceSpan],
    params: &AttentionParams,
    out_len: usize,
) -> Result<Call<'a>, AttentionError> {
    let stored = |slice: &KvSlice<'_>| kv.shape.stored(slice.row_len(kv.shape.head_dim));
    let row = heads * kv.shape.head_dim;
    check(q.count, heads, kv.shape, spans, params)?;
    if !q.hold(row) {
        let expected = q.count.saturating_mul(row);
        return Err(AttentionError::Length { what: "attention queries", expected, actual: q.values.len() });
    }
    for (what, expected, actual) in [
        ("keys of the cache", stored(&kv.k)?, kv.k.len()),
        ("values of the cache", stored(&kv.v)?, kv.v.len()),
        ("attention output", q.count * row, out_len),
    ] {
        if expected != actual {
            return Err(AttentionError::Length { what, expected, actual });
        }
    }
    Ok(Call { q, heads, group: heads / kv.shape.kv_heads, kv, spans, params: *params })
}

/// Checks what a call says about its batch and cache, whatever holds them.
pub(crate) fn check(
    tokens: usize,
    heads: usize,
    shape: KvShape,
    spans: &[SequenceSpan],
    params: &AttentionParams,
) -> Result<(), AttentionError> {
    shape.values()?;
    if heads == 0 || !heads.is_multiple_of(shape.kv_heads) {
        return Err(AttentionError::Heads { heads, kv_heads: shape.kv_heads });
    }
    if params.window == Some(0) {
        return Err(AttentionError::EmptyWindow);
    }
    plan::check_spans(spans, tokens, shape)
}

/// What a call is cut into, kept from call to call by its thread.
#[derive(Default)]
struct Cut {
    tiles: Vec<plan::Tile>,
    work: Vec<Work>,
    /// Tiles whose partitions are tasks of their own, and where their states begin.
    split: Vec<(usize, usize)>,
    states: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static CUT: Cell<Cut> = Cell::default();
}

/// One task: a tile with all its context, or one partition of a tile whose state goes to `state_at` of the shared states.
struct Work {
    tile: usize,
    partition: Option<(usize, usize)>,
}

/// Runs the call's tiles on the pool; where there are few of them, the partitions of each as tasks of their own.
fn attend(isa: Isa, pool: &Pool, call: &Call<'_>, out: &mut [f32]) {
    let mut cut = CUT.take();
    let Cut { tiles, work, split, states } = &mut cut;
    plan::tiles(call.spans, call.kv.shape.kv_heads, call.group, &call.params, tiles);
    work.clear();
    split.clear();
    let few = tiles.len() < 4 * pool.threads() && pool.threads() > 1;
    let (mut cost, mut states_len) = (0, 0);
    for (index, tile) in tiles.iter().enumerate() {
        cost += 2 * tile.tokens * call.group * tile.visible.len() * call.kv.shape.head_dim;
        let partitions = tile.partitions();
        if few && partitions.len() > 1 {
            split.push((index, states_len));
            for partition in partitions {
                work.push(Work { tile: index, partition: Some((partition, states_len)) });
                states_len += call.state_len(tile);
            }
        } else {
            work.push(Work { tile: index, partition: None });
        }
    }
    if states.len() < states_len {
        states.resize(states_len, 0.0);
    }
    let (tiles, work) = (&*tiles, &*work);
    let out = Disjoint::new(out);
    let shared_states = Disjoint::new(states);
    let run = |index: usize| {
        // A decode reads little, and all of it from memory: what the thread most likely takes next is asked for first.
        if let Some(next) = work.get(index + 1).filter(|next| tiles[next.tile].tokens == 1) {
            let next_tile = &tiles[next.tile];
            let partition = next.partition.map_or(next_tile.partitions().start, |(partition, _)| partition);
            tile::fetch(isa, call, next_tile, partition);
        }
        let Work { tile, partition } = work[index];
        let tile = &tiles[tile];
        SCRATCH.with_borrow_mut(|scratch| match partition {
            None => tile::whole(isa, call, tile, scratch, &out),
            Some((partition, at)) => {
                // SAFETY: each task has its own state.
                let state = unsafe { shared_states.part(at..at + call.state_len(tile)) };
                tile::part(isa, call, tile, partition, scratch, state);
            }
        });
    };
    if cost < WORTH_SHARING {
        (0..work.len()).for_each(run);
    } else {
        pool.run(work.len(), &run);
    }
    for &(index, at) in &*split {
        let tile = &tiles[index];
        let len = tile.partitions().len() * call.state_len(tile);
        tile::merged(isa, call, tile, &mut states[at..at + len], &out);
    }
    CUT.set(cut);
}
