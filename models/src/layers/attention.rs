//! Self-attention over the paged KV cache, with grouped-query heads.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use engram_kernels::Rows;
use engram_kernels::matmul::Input;
use engram_kernels::ops::{self, AttentionParams, Path, RopeLayout, RopeTable};

use crate::error::ModelError;
use crate::forward::{ForwardBatch, KvStore};
use crate::layers::{Linear, Loader, Norm};
use crate::workspace::{Stream, Workspace};

/// Projections, optional norms of q and k heads (qwen3), rotary positions, paged attention.
pub struct Attention {
    path: Path,
    qkv: Linear,
    out: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    rope: Arc<RopeTable>,
    rope_layout: RopeLayout,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    params: AttentionParams,
}

impl Attention {
    /// Loads `blk.{layer}.attn_*`.
    pub fn load(loader: &Loader<'_>, layer: usize, rope: Arc<RopeTable>) -> std::result::Result<Self, ModelError> {
        let config = loader.config;
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let (q_len, kv_len) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let parts = [(name("q"), q_len), (name("k"), kv_len), (name("v"), kv_len)];
        let head_norm = |part: &str| -> std::result::Result<Option<Norm>, ModelError> {
            if loader.has(&format!("{}.weight", name(part))) {
                loader.norm(&name(part), config.head_dim).map(Some)
            } else {
                Ok(None)
            }
        };
        Ok(Self {
            path: loader.form.path(),
            qkv: loader.linear(&parts, config.hidden)?,
            out: loader.linear(&[(name("output"), config.hidden)], q_len)?,
            q_norm: head_norm("q_norm")?,
            k_norm: head_norm("k_norm")?,
            rope,
            rope_layout: config.rope.layout,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            params: AttentionParams {
                scale: config.attention_scale.unwrap_or(1.0 / (config.head_dim as f32).sqrt()),
                window: config.window(layer),
            },
        })
    }

    /// `[tokens, hidden] -> [tokens, hidden]`; writes this batch's K and V into the cache of `layer`.
    pub fn forward(&self, x: &Tensor, batch: &ForwardBatch, kv: &dyn KvStore, layer: usize) -> Result<Tensor> {
        let tokens = batch.num_tokens();
        let q_len = self.heads * self.head_dim;
        let qkv = self.qkv.forward(x)?;
        // [tokens, q + k + v] -> [tokens, heads + 2 kv_heads, head_dim] -> three views of some of the heads
        let qkv = qkv.reshape((tokens, self.heads + 2 * self.kv_heads, self.head_dim))?;
        let (q, k) = match (&self.q_norm, &self.k_norm) {
            // All heads of q and k turn at once.
            (None, None) => {
                let both = self.turned(qkv.narrow(1, 0, self.heads + self.kv_heads)?, batch)?;
                (both.narrow(1, 0, self.heads)?, both.narrow(1, self.heads, self.kv_heads)?)
            }
            (q_norm, k_norm) => {
                let q = self.normed(qkv.narrow(1, 0, self.heads)?, q_norm.as_ref())?;
                let k = self.normed(qkv.narrow(1, self.heads, self.kv_heads)?, k_norm.as_ref())?;
                (self.turned(q, batch)?, self.turned(k, batch)?)
            }
        };
        let v = qkv.narrow(1, self.heads + self.kv_heads, self.kv_heads)?;

        let (k_cache, v_cache) = kv.layer(layer);
        ops::write_kv(self.path, &k, &v, k_cache, v_cache, &batch.slot_mapping)?;
        let attended = ops::paged_attention(self.path, &q, k_cache, v_cache, &batch.spans, &self.params)?;
        self.out.forward(&attended.reshape((tokens, q_len))?)
    }

    /// The stream through `norm` and this, to `workspace.out`: what is to be added to the stream next. The same numbers as
    /// [`Self::forward`] gives, on plain rows.
    pub(crate) fn run(
        &self,
        norm: &Norm,
        batch: &ForwardBatch,
        (kv, layer): (&dyn KvStore, usize),
        workspace: &mut Workspace,
    ) -> Result<()> {
        let Workspace { hidden, normed, qkv, attended, out, .. } = workspace;
        let tokens = batch.num_tokens();
        let (q_len, kv_len) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let stride = q_len + 2 * kv_len;
        self.qkv.run(norm.of(Stream { hidden, add: out, normed })?, tokens, qkv)?;

        let values = qkv.values_mut();
        if let Some(norm) = &self.q_norm {
            norm.heads(values, stride, self.heads)?;
        }
        if let Some(norm) = &self.k_norm {
            norm.heads(values.get_mut(q_len..).unwrap_or_default(), stride, self.kv_heads)?;
        }
        let turned = (self.heads + self.kv_heads, self.head_dim);
        ops::pass::rope(values, stride, turned, &batch.positions, &self.rope, self.rope_layout)?;

        let rows = |from: usize| Rows { values: values.get(from..).unwrap_or_default(), stride, count: tokens };
        let (k_cache, v_cache) = kv.layer(layer);
        ops::pass::write_kv(rows(q_len), k_cache, &batch.slot_mapping)?;
        ops::pass::write_kv(rows(q_len + kv_len), v_cache, &batch.slot_mapping)?;
        let attended = attended.sized(tokens * q_len);
        ops::pass::paged_attention(rows(0), self.heads, [k_cache, v_cache], &batch.spans, &self.params, attended)?;
        self.out.run(Input::Rows(attended), tokens, out)
    }

    /// Norms each head, where the model does.
    fn normed(&self, x: Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let Some(norm) = norm else { return Ok(x) };
        let (tokens, heads, head_dim) = x.dims3()?;
        norm.forward(&x.contiguous()?.reshape((tokens * heads, head_dim))?)?.reshape((tokens, heads, head_dim))
    }

    /// Turns each head to its token's position.
    fn turned(&self, x: Tensor, batch: &ForwardBatch) -> Result<Tensor> {
        ops::rope(self.path, x, &batch.positions, &self.rope, self.rope_layout)
    }
}
