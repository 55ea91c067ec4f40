//! The model as the engine sees it: a batch in, logits out.

use candle_core::Device;
use engram_models::forward::ForwardBatch;
use engram_models::{Model, ModelError, Workspace};

use crate::kv_cache::KvCache;

/// Sizes that the KV cache and the checks of a request follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Layers, each with its K and V.
    pub layers: usize,
    /// Heads of K and V.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Tokens the model knows.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_len: usize,
}

/// One pass over a batch. Owned and called by the engine's thread alone.
pub trait ForwardPass: Send {
    /// Runs `batch`: writes its K and V at `batch.slot_mapping`, reads by its block tables.
    ///
    /// Leaves the logits `[batch.logit_rows.len(), vocab_size]`, f32, in `workspace`.
    fn forward(&mut self, batch: &ForwardBatch, kv: &KvCache, workspace: &mut Workspace) -> Result<(), ModelError>;

    /// Sizes of the model.
    fn geometry(&self) -> Geometry;

    /// Where it runs, and where the KV cache has to be.
    fn device(&self) -> Device;
}

impl ForwardPass for Model {
    fn forward(&mut self, batch: &ForwardBatch, kv: &KvCache, workspace: &mut Workspace) -> Result<(), ModelError> {
        self.pass(batch, kv, workspace)
    }

    fn geometry(&self) -> Geometry {
        let config = self.config();
        Geometry {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            max_len: config.context_len,
        }
    }

    fn device(&self) -> Device {
        Model::device(self).clone()
    }
}
