//! Encoders that are decoders: a causal pass over the text, the last token's row is its vector (Qwen3-Embedding,
//! <https://arxiv.org/abs/2506.05176>).
//!
//! The layers are those that generate; only the head is left out. The real weights were not run in this project's tests, only
//! small random ones.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::error::ModelError;
use crate::forward::{ForwardBatch, KvStore, SequenceSpan};
use crate::model::{LoadOptions, Model};

/// Tokens of a block of the cache that lives for one pass.
const BLOCK: usize = 16;

/// A decoder used for its last hidden state.
pub(super) struct CausalEncoder {
    model: Model,
}

/// K and V of one layer, used for all of them in turn: a layer reads what it has just written, nothing else.
struct OneLayerKv {
    k: Tensor,
    v: Tensor,
}

impl KvStore for OneLayerKv {
    fn layer(&self, _layer: usize) -> (&Tensor, &Tensor) {
        (&self.k, &self.v)
    }

    fn block_size(&self) -> usize {
        BLOCK
    }
}

impl CausalEncoder {
    pub fn load(shards: &[PathBuf], config_json: &Path, max_tokens: Option<usize>) -> Result<Self, ModelError> {
        let options = LoadOptions { max_len: max_tokens, ..LoadOptions::default() };
        Ok(Self { model: Model::load_safetensors(shards, config_json, &options)? })
    }

    pub fn dim(&self) -> usize {
        self.model.config().hidden
    }

    pub fn vocab(&self) -> usize {
        self.model.config().vocab_size
    }

    pub fn positions(&self) -> usize {
        self.model.config().context_len
    }

    /// The last row of each sequence `[sequences, hidden]`; ids are in the vocabulary, no sequence is empty.
    pub fn forward(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor, ModelError> {
        let (mut batch, mut blocks) = (ForwardBatch { token_ids: ids.to_vec(), ..ForwardBatch::default() }, 0);
        let mut query_start = 0;
        for &len in lengths {
            let own = len.div_ceil(BLOCK);
            batch.positions.extend(0..len as u32);
            batch.slot_mapping.extend((0..len).map(|i| (blocks * BLOCK + i) as u32));
            let block_table = (blocks as u32..(blocks + own) as u32).collect();
            batch.spans.push(SequenceSpan { query_start, query_len: len, context_len: len, block_table });
            query_start += len;
            batch.logit_rows.push(query_start.saturating_sub(1) as u32);
            blocks += own;
        }
        let config = self.model.config();
        let shape = (blocks.max(1), config.kv_heads, BLOCK, config.head_dim);
        let cache = || Tensor::zeros(shape, DType::F32, &Device::Cpu);
        self.model.hidden(&batch, &OneLayerKv { k: cache()?, v: cache()? })
    }
}
