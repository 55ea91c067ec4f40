//! Attention over the paged KV cache, and the writes to it.

use candle_core::{CpuStorage, CustomOp3, D, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::storage::{cache, cache_mut, floats};
use super::{AttentionParams, Path, SequenceSpan};
use crate::attention::{self as kernel, KvShape, PagedKv};

fn kv_shape(layout: &Layout) -> Result<KvShape> {
    let (num_blocks, kv_heads, block_size, head_dim) = layout.shape().dims4()?;
    Ok(KvShape { num_blocks, kv_heads, block_size, head_dim })
}

struct WriteKv<'a> {
    slots: &'a [u32],
}

impl InplaceOp2 for WriteKv<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(&self, target: &mut CpuStorage, tl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<()> {
        let x = floats(x, xl, "write-kv")?;
        let shape = kv_shape(tl)?;
        kernel::write_kv(x, self.slots, shape, cache_mut(target, tl, "write-kv")?).map_err(candle_core::Error::wrap)
    }
}

/// Writes K and V of a step into the cache, in place.
///
/// k, v `[tokens, kv_heads, head_dim]`; caches `[num_blocks, kv_heads, block_size, head_dim]`; token i goes to slot
/// `slot_mapping[i] = block * block_size + offset`. The engine's thread owns the caches and runs one pass at a time,
/// so nobody reads while this writes.
pub fn write_kv(
    path: Path,
    k: &Tensor,
    v: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    slot_mapping: &[u32],
) -> Result<()> {
    if slot_mapping.is_empty() {
        return Ok(());
    }
    for (x, target) in [(k, k_cache), (v, v_cache)] {
        match path {
            Path::Kernels => target.inplace_op2(&x.contiguous()?, &WriteKv { slots: slot_mapping })?,
            Path::Plain => scatter_kv(x, target, slot_mapping)?,
        }
    }
    Ok(())
}

/// The same in candle's ops: one scatter over the flattened cache.
fn scatter_kv(x: &Tensor, target: &Tensor, slots: &[u32]) -> Result<()> {
    let (num_blocks, kv_heads, block_size, head_dim) = target.dims4()?;
    if let Some(slot) = slots.iter().find(|&&slot| slot as usize >= num_blocks * block_size) {
        bail!("write-kv: slot {slot} is past the cache of {} tokens", num_blocks * block_size)
    }
    // Cache rows are (block, head, offset); the row of (slot, head) in [num_blocks * kv_heads * block_size].
    let row = |slot: u32, head: usize| {
        let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
        ((block * kv_heads + head) * block_size + offset) as u32
    };
    let rows: Vec<u32> = slots.iter().flat_map(|&slot| (0..kv_heads).map(move |head| row(slot, head))).collect();
    let count = rows.len();
    let index = Tensor::from_vec(rows, (count, 1), target.device())?.broadcast_as((count, head_dim))?.contiguous()?;
    let flat = target.reshape((num_blocks * kv_heads * block_size, head_dim))?;
    flat.scatter_set(&index, &x.reshape((count, head_dim))?.to_dtype(target.dtype())?.contiguous()?, 0)
}

struct PagedAttention<'a> {
    spans: &'a [SequenceSpan],
    params: &'a AttentionParams,
}

impl CustomOp3 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, heads, _) = ql.shape().dims3()?;
        let q = floats(q, ql, self.name())?;
        let kv = PagedKv { k: cache(k, kl, self.name())?, v: cache(v, vl, self.name())?, shape: kv_shape(kl)? };
        let mut out = vec![0f32; q.len()];
        kernel::paged_attention(q, heads, kv, self.spans, self.params, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Causal attention of a batch's queries over the cached contexts of their sequences.
///
/// q `[tokens, heads, head_dim]` f32; caches `[num_blocks, kv_heads, block_size, head_dim]`; gives
/// `[tokens, heads, head_dim]`. See [`kernel::paged_attention`].
pub fn paged_attention(
    path: Path,
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    spans: &[SequenceSpan],
    params: &AttentionParams,
) -> Result<Tensor> {
    if path == Path::Kernels {
        return q.contiguous()?.apply_op3_no_bwd(k_cache, v_cache, &PagedAttention { spans, params });
    }
    let parts = spans
        .iter()
        .map(|span| attend_span(q, k_cache, v_cache, span, params))
        .collect::<Result<Vec<_>>>()?;
    if parts.is_empty() { q.zeros_like() } else { Tensor::cat(&parts, 0) }
}

/// One sequence in candle's ops: gather its K and V, masked softmax of the scores, weighted sum.
fn attend_span(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    span: &SequenceSpan,
    params: &AttentionParams,
) -> Result<Tensor> {
    let (_, heads, head_dim) = q.dims3()?;
    let kv_heads = k_cache.dim(1)?;
    let group = heads / kv_heads;
    let context = span.context_len;
    let k = gather(k_cache, span)?;
    let v = gather(v_cache, span)?;
    // [queries, heads, head_dim] -> [kv_heads, group * queries, head_dim]
    let q = q.narrow(0, span.query_start, span.query_len)?.reshape((span.query_len, kv_heads, group, head_dim))?;
    let q = q.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * span.query_len, head_dim))?;
    let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(params.scale))?;
    let scores = scores.reshape((kv_heads, group, span.query_len, context))?;
    let scores = scores.broadcast_add(&mask(span, params, q.device())?)?;
    let max = scores.max_keepdim(D::Minus1)?;
    let exps = scores.broadcast_sub(&max)?.exp()?;
    let weights = exps.broadcast_div(&exps.sum_keepdim(D::Minus1)?)?;
    let out = weights.reshape((kv_heads, group * span.query_len, context))?.matmul(&v)?;
    // [kv_heads, group, queries, head_dim] -> [queries, heads, head_dim]
    let out = out.reshape((kv_heads, group, span.query_len, head_dim))?.permute((2, 0, 1, 3))?.contiguous()?;
    out.reshape((span.query_len, heads, head_dim))
}

/// A sequence's keys or values in order of position: `[kv_heads, context, head_dim]` f32.
fn gather(cache: &Tensor, span: &SequenceSpan) -> Result<Tensor> {
    let (_, kv_heads, block_size, head_dim) = cache.dims4()?;
    let used = span.context_len.div_ceil(block_size);
    let Some(ids) = span.block_table.get(..used) else {
        bail!("paged-attention: {} blocks for a context of {} tokens", span.block_table.len(), span.context_len)
    };
    let blocks = cache.index_select(&Tensor::new(ids, cache.device())?, 0)?.to_dtype(DType::F32)?;
    // [blocks, kv_heads, block_size, head_dim] -> [kv_heads, blocks * block_size, head_dim]
    let rows = blocks.transpose(0, 1)?.contiguous()?.reshape((kv_heads, used * block_size, head_dim))?;
    rows.narrow(1, 0, span.context_len)?.contiguous()
}

/// 0 where a query sees a key, -inf elsewhere: `[queries, context]`.
fn mask(span: &SequenceSpan, params: &AttentionParams, device: &candle_core::Device) -> Result<Tensor> {
    let first = span.context_len - span.query_len;
    let sees = |query: usize, key: usize| {
        let position = first + query;
        key <= position && params.window.is_none_or(|window| key + window > position)
    };
    let values: Vec<f32> = (0..span.query_len)
        .flat_map(|query| (0..span.context_len).map(move |key| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(values, (span.query_len, span.context_len), device)
}
