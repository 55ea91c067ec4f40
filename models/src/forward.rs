//! What one forward pass needs: the batch it runs and the KV cache it reads and writes.

use candle_core::Tensor;
pub use engram_kernels::SequenceSpan;

/// One step's tokens, flattened over all sequences that take part.
///
/// The tokens of `spans[s]` are rows `query_start .. query_start + query_len` of every
/// `[tokens, ..]` tensor of the pass; prefill chunks and decodes stand side by side.
#[derive(Debug, Clone, Default)]
pub struct ForwardBatch {
    /// Token ids, `[tokens]`.
    pub token_ids: Vec<u32>,
    /// Position of each token in its own sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// Where each token's K and V go: `block * block_size + offset`, `[tokens]`.
    pub slot_mapping: Vec<u32>,
    /// Who attends to what, one span a sequence.
    pub spans: Vec<SequenceSpan>,
    /// Rows whose logits are wanted, in the order in which they are returned.
    pub logit_rows: Vec<u32>,
}

impl ForwardBatch {
    /// Number of tokens in the pass.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }
}

/// The paged KV cache as a model sees it.
///
/// The owner is the engine; a model only writes the slots of its batch and reads by block tables.
pub trait KvStore {
    /// K and V of one layer, each `[num_blocks, kv_heads, block_size, head_dim]`.
    fn layer(&self, layer: usize) -> (&Tensor, &Tensor);
    /// Tokens a block holds.
    fn block_size(&self) -> usize;
}
