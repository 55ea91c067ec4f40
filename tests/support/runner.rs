//! Runs a model directly, without an engine: one sequence, its blocks in a shuffled order.

use candle_core::{DType, Device, Tensor};
use engram_models::forward::{ForwardBatch, KvStore, SequenceSpan};
use engram_models::{Model, Workspace};

const BLOCK: usize = 16;

/// A KV cache in f32 or f16 with a block table that is not the identity.
pub struct Runner<'m> {
    model: &'m Model,
    layers: Vec<(Tensor, Tensor)>,
    block_table: Vec<u32>,
    len: usize,
}

impl KvStore for Runner<'_> {
    fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (k, v) = &self.layers[layer];
        (k, v)
    }
    fn block_size(&self) -> usize {
        BLOCK
    }
}

impl<'m> Runner<'m> {
    /// Room for `max_len` tokens.
    pub fn new(model: &'m Model, max_len: usize, dtype: DType) -> Self {
        let config = model.config();
        let blocks = max_len.div_ceil(BLOCK) + 1;
        let shape = (blocks, config.kv_heads, BLOCK, config.head_dim);
        let layers = (0..config.layers)
            .map(|_| {
                let zeros = || Tensor::zeros(shape, dtype, &Device::Cpu).expect("a KV cache of a small model");
                (zeros(), zeros())
            })
            .collect();
        // Odd blocks first, then even ones, so that a wrong table shows.
        let block_table = (0..blocks as u32).filter(|b| b % 2 == 1).chain((0..blocks as u32).filter(|b| b % 2 == 0));
        Self { model, layers, block_table: block_table.collect(), len: 0 }
    }

    /// Appends `ids` and returns the logits of each, one row a token.
    pub fn append(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let start = self.len;
        self.len += ids.len();
        let slot = |position: usize| self.block_table[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32;
        let batch = ForwardBatch {
            token_ids: ids.to_vec(),
            positions: (start as u32..self.len as u32).collect(),
            slot_mapping: (start..self.len).map(slot).collect(),
            spans: vec![SequenceSpan {
                query_start: 0,
                query_len: ids.len(),
                context_len: self.len,
                block_table: self.block_table.clone(),
            }],
            logit_rows: (0..ids.len() as u32).collect(),
        };
        let mut workspace = Workspace::default();
        self.model.pass(&batch, self, &mut workspace).expect("a forward pass");
        workspace.logits().chunks(self.model.config().vocab_size).map(<[f32]>::to_vec).collect()
    }
}
