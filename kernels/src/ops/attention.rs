//! Attention over the paged KV cache.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::kv::{check_plain, kv_shape};
use super::storage::{cache, rows, unwritten};
use super::{AttentionParams, Path, SequenceSpan};
use crate::attention::{self as kernel, PagedKv};
use crate::profile::{Kernel, running};

/// Queries whose scores [`Path::Plain`] holds at once: 256 x context x heads f32.
const PLAIN_QUERIES: usize = 256;

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
        let _running = running(Kernel::Attention);
        let (_, heads, _) = ql.shape().dims3()?;
        let q = rows(q, ql, self.name())?;
        let shape = kv_shape(kl, k.dtype())?;
        let kv = PagedKv { k: cache(k, kl, self.name())?, v: cache(v, vl, self.name())?, shape };
        let mut out = unwritten(ql.shape().elem_count());
        kernel::paged_attention(q, heads, kv, self.spans, self.params, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Causal attention of a batch's queries over the cached contexts of their sequences.
///
/// q `[tokens, heads, head_dim]` f32, perhaps a view of wider rows; caches `[num_blocks, kv_heads, block_size, row]` as [`super::KvType`] says, contiguous; gives
/// `[tokens, heads, head_dim]`, zeros for rows in no span. Errors: [`kernel::AttentionError`], shapes that do not fit.
/// See [`kernel::paged_attention`].
pub fn paged_attention(
    path: Path,
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    spans: &[SequenceSpan],
    params: &AttentionParams,
) -> Result<Tensor> {
    let (tokens, heads, head_dim) = q.dims3()?;
    let shape = kv_shape(k_cache.layout(), k_cache.dtype())?;
    if shape.head_dim != head_dim || k_cache.shape() != v_cache.shape() {
        bail!("paged-attention: queries {:?} over keys {:?} and values {:?}", q.dims(), k_cache.dims(), v_cache.dims())
    }
    if path == Path::Kernels {
        return q.apply_op3_no_bwd(k_cache, v_cache, &PagedAttention { spans, params });
    }
    check_plain(k_cache, "paged-attention")?;
    kernel::check(tokens, heads, shape, spans, params).map_err(candle_core::Error::wrap)?;
    let out = Tensor::zeros(q.shape(), DType::F32, q.device())?;
    for span in spans.iter().filter(|span| span.query_len > 0) {
        let (k, v) = (gather(k_cache, span)?, gather(v_cache, span)?);
        for start in (0..span.query_len).step_by(PLAIN_QUERIES) {
            let len = PLAIN_QUERIES.min(span.query_len - start);
            let first = span.context_len - span.query_len + start;
            // Later keys than its last query's nobody of this part sees.
            let (k, v) = (k.narrow(1, 0, first + len)?, v.narrow(1, 0, first + len)?);
            let queries = q.narrow(0, span.query_start + start, len)?;
            out.slice_set(&attend(&queries, &k, &v, first, params)?, 0, span.query_start + start)?;
        }
    }
    Ok(out)
}

/// Queries at positions `first ..` of one sequence in candle's ops: masked softmax of the scores, weighted sum.
///
/// q `[queries, heads, head_dim]`; k, v `[kv_heads, context, head_dim]` f32.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, first: usize, params: &AttentionParams) -> Result<Tensor> {
    let (queries, heads, head_dim) = q.dims3()?;
    let (kv_heads, context, _) = k.dims3()?;
    let group = heads / kv_heads;
    // [queries, kv_heads, group, head_dim] -> [kv_heads, group * queries, head_dim]
    let q = q.reshape((queries, kv_heads, group, head_dim))?.permute((1, 2, 0, 3))?.contiguous()?;
    let q = q.reshape((kv_heads, group * queries, head_dim))?;
    let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(params.scale))?;
    let mut scores = scores.reshape((kv_heads, group, queries, context))?;
    if queries > 1 || params.window.is_some_and(|window| window < context) {
        scores = scores.broadcast_add(&mask(first, queries, context, params.window, q.device())?)?;
    }
    let exps = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = exps.broadcast_div(&exps.sum_keepdim(D::Minus1)?)?;
    let out = weights.reshape((kv_heads, group * queries, context))?.matmul(&v.contiguous()?)?;
    // [kv_heads, group, queries, head_dim] -> [queries, heads, head_dim]
    let out = out.reshape((kv_heads, group, queries, head_dim))?.permute((2, 0, 1, 3))?.contiguous()?;
    out.reshape((queries, heads, head_dim))
}

/// A sequence's keys or values in order of position: `[kv_heads, context, head_dim]` f32.
fn gather(cache: &Tensor, span: &SequenceSpan) -> Result<Tensor> {
    let (_, kv_heads, block_size, head_dim) = cache.dims4()?;
    let ids = &span.block_table[..span.context_len.div_ceil(block_size)];
    let blocks = cache.index_select(&Tensor::new(ids, cache.device())?, 0)?.to_dtype(DType::F32)?;
    // [blocks, kv_heads, block_size, head_dim] -> [kv_heads, blocks * block_size, head_dim]
    let rows = blocks.transpose(0, 1)?.contiguous()?.reshape((kv_heads, ids.len() * block_size, head_dim))?;
    rows.narrow(1, 0, span.context_len)
}

/// 0 where a query sees a key, -inf elsewhere: `[queries, context]`.
fn mask(first: usize, queries: usize, context: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let mut values = vec![f32::NEG_INFINITY; queries * context];
    for (query, row) in values.chunks_exact_mut(context).enumerate() {
        row[kernel::visible(first + query, window)].fill(0.0);
    }
    Tensor::from_vec(values, (queries, context), device)
}

struct EncoderAttention<'a> {
    lengths: &'a [usize],
    scale: f32,
    slopes: Option<&'a [f32]>,
}

impl CustomOp3 for EncoderAttention<'_> {
    fn name(&self) -> &'static str {
        "full-attention"
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
        let _running = running(Kernel::Attention);
        let (_, heads, head_dim) = ql.shape().dims3()?;
        let call = kernel::FullAttention {
            q: rows(q, ql, self.name())?,
            k: rows(k, kl, self.name())?,
            v: rows(v, vl, self.name())?,
            heads,
            head_dim,
            lengths: self.lengths,
            scale: self.scale,
            slopes: self.slopes,
        };
        let mut out = unwritten(ql.shape().elem_count());
        call.run(&mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Attention in both directions within each of the sequences that stand one behind the other: what encoders do.
///
/// q, k, v `[tokens, heads, head_dim]` f32, perhaps views of wider rows; `lengths` adds up to the tokens; `slopes` are ALiBi's, one a
/// head; gives `[tokens, heads, head_dim]`. See [`kernel::FullAttention`].
pub fn full_attention(
    path: Path,
    [q, k, v]: [&Tensor; 3],
    lengths: &[usize],
    scale: f32,
    slopes: Option<&[f32]>,
) -> Result<Tensor> {
    let (tokens, heads, _) = q.dims3()?;
    if q.shape() != k.shape() || q.shape() != v.shape() || lengths.iter().sum::<usize>() != tokens {
        let shapes = [q.dims(), k.dims(), v.dims()];
        bail!("full-attention: queries, keys, values {shapes:?}, {} tokens in sequences", lengths.iter().sum::<usize>())
    }
    if path == Path::Kernels {
        return q.apply_op3_no_bwd(k, v, &EncoderAttention { lengths, scale, slopes });
    }
    let out = Tensor::zeros(q.shape(), DType::F32, q.device())?;
    let mut first = 0;
    for &len in lengths.iter().filter(|&&len| len > 0) {
        // [len, heads, head_dim] -> [heads, len, head_dim]
        let part = |x: &Tensor| x.narrow(0, first, len)?.transpose(0, 1)?.contiguous();
        let mut scores = (part(q)?.matmul(&part(k)?.transpose(1, 2)?.contiguous()?)? * f64::from(scale))?;
        if let Some(slopes) = slopes {
            let places = Tensor::arange(0, len as i64, q.device())?.to_dtype(DType::F32)?;
            let apart = places.reshape((1, len))?.broadcast_sub(&places.reshape((len, 1))?)?.abs()?;
            let slopes = Tensor::new(slopes, q.device())?.reshape((heads, 1, 1))?;
            scores = scores.broadcast_sub(&slopes.broadcast_mul(&apart.unsqueeze(0)?)?)?;
        }
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        out.slice_set(&weights.matmul(&part(v)?)?.transpose(0, 1)?.contiguous()?, 0, first)?;
        first += len;
    }
    Ok(out)
}
