//! The decoder: embed, layers, norm, head. One residual stream, pre-norm, for every architecture we read.

use candle_core::{Result, Tensor};
use engram_kernels::ops;

use crate::forward::{ForwardBatch, KvStore};
use crate::layers::{Attention, Embedding, GatedMlp, Linear, Norm, PlainMlp, SparseMoe};
use crate::workspace::Workspace;

/// The feed-forward part of a layer.
pub enum FeedForward {
    /// SwiGLU.
    Gated(GatedMlp),
    /// GELU.
    Plain(PlainMlp),
    /// Mixture of experts.
    Sparse(SparseMoe),
}

impl FeedForward {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            FeedForward::Gated(mlp) => mlp.forward(x),
            FeedForward::Plain(mlp) => mlp.forward(x),
            FeedForward::Sparse(moe) => moe.forward(x),
        }
    }

    fn run(&self, norm: &Norm, rows: usize, workspace: &mut Workspace) -> Result<()> {
        match self {
            FeedForward::Gated(mlp) => mlp.run(norm, rows, workspace),
            FeedForward::Plain(mlp) => mlp.run(norm, rows, workspace),
            FeedForward::Sparse(moe) => moe.run(norm, rows, workspace),
        }
    }
}

/// One layer: `h += attention(norm(h)); h += feed_forward(norm(h))`.
pub struct DecoderLayer {
    /// Before attention.
    pub attention_norm: Norm,
    /// Attention.
    pub attention: Attention,
    /// Before the feed-forward part.
    pub ffn_norm: Norm,
    /// Feed-forward part.
    pub ffn: FeedForward,
}

/// All of a model between token ids and logits.
pub struct Decoder {
    /// Token table.
    pub embedding: Embedding,
    /// Layers, first to last.
    pub layers: Vec<DecoderLayer>,
    /// After the last layer.
    pub norm: Norm,
    /// Output head.
    pub head: Linear,
    /// What a layer adds to the residual stream is multiplied by this (Granite; else 1).
    pub residual_scale: f32,
    /// Logits are multiplied by this (Granite; else 1).
    pub logit_scale: f32,
}

impl Decoder {
    /// Logits `[logit_rows, vocab]` of the batch; K and V of all its tokens are written to `kv`.
    ///
    /// `None` when no row's logits are wanted (a prefill chunk that does not end its prompt).
    pub fn forward(
        &self,
        batch: &ForwardBatch,
        kv: &dyn KvStore,
        device: &candle_core::Device,
    ) -> Result<Option<Tensor>> {
        let Some(normed) = self.hidden(batch, kv, device)? else { return Ok(None) };
        let logits = self.head.forward(&normed)?;
        Ok(Some(if self.logit_scale == 1.0 { logits } else { logits.affine(f64::from(self.logit_scale), 0.0)? }))
    }

    /// What the head is given: the last hidden state, normed, `[logit_rows, hidden]`; else as [`Decoder::forward`].
    pub fn hidden(
        &self,
        batch: &ForwardBatch,
        kv: &dyn KvStore,
        device: &candle_core::Device,
    ) -> Result<Option<Tensor>> {
        let mut hidden = self.embedding.forward(&batch.token_ids, device)?;
        let mut normed = match self.layers.first() {
            Some(first) => first.attention_norm.forward(&hidden)?,
            None => self.norm.forward(&hidden)?,
        };
        for (i, layer) in self.layers.iter().enumerate() {
            let mut attended = self.scaled(layer.attention.forward(&normed, batch, kv, i)?)?;
            let next_norm = self.layers.get(i + 1).map(|next| &next.attention_norm);
            if next_norm.is_none() {
                // Past the last attention only the rows whose logits are wanted matter.
                if batch.logit_rows.is_empty() {
                    return Ok(None);
                }
                hidden = ops::select_rows(&hidden, &batch.logit_rows)?;
                attended = ops::select_rows(&attended, &batch.logit_rows)?;
            }
            (hidden, normed) = layer.ffn_norm.add_forward(&hidden, &attended)?;
            let out = self.scaled(layer.ffn.forward(&normed)?)?;
            (hidden, normed) = next_norm.unwrap_or(&self.norm).add_forward(&hidden, &out)?;
        }
        Ok(Some(normed))
    }

    /// The same pass on plain rows, for weights packed for the CPU: bit for bit the logits of [`Self::forward`], left in
    /// `workspace`; no tensor is made, and norms are part of the products behind them.
    pub fn run(&self, batch: &ForwardBatch, kv: &dyn KvStore, workspace: &mut Workspace) -> Result<()> {
        self.embedding.run(&batch.token_ids, &mut workspace.hidden)?;
        workspace.out.sized(0);
        let mut rows = batch.num_tokens();
        let wanted = batch.logit_rows.len();
        for (i, layer) in self.layers.iter().enumerate() {
            layer.attention.run(&layer.attention_norm, batch, (kv, i), workspace)?;
            self.scale(workspace);
            if i + 1 == self.layers.len() {
                // Past the last attention only the rows whose logits are wanted matter.
                if wanted == 0 {
                    break;
                }
                let cols = workspace.hidden.values().len() / rows;
                workspace.hidden.select_rows(&batch.logit_rows, cols);
                workspace.out.select_rows(&batch.logit_rows, cols);
                rows = wanted;
            }
            layer.ffn.run(&layer.ffn_norm, rows, workspace)?;
            self.scale(workspace);
        }
        let (stream, logits) = workspace.head(wanted, self.head.outs());
        if wanted > 0 {
            self.head.run_into(self.norm.of(stream)?, wanted, logits)?;
            if self.logit_scale != 1.0 {
                logits.iter_mut().for_each(|logit| *logit *= self.logit_scale);
            }
        }
        Ok(())
    }

    /// Scales what is to be added to the stream, where the model does.
    fn scale(&self, workspace: &mut Workspace) {
        if self.residual_scale != 1.0 {
            workspace.out.values_mut().iter_mut().for_each(|value| *value *= self.residual_scale);
        }
    }

    fn scaled(&self, x: Tensor) -> Result<Tensor> {
        if self.residual_scale == 1.0 { Ok(x) } else { x.affine(f64::from(self.residual_scale), 0.0) }
    }
}
