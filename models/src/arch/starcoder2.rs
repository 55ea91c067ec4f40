//! StarCoder2 (<https://arxiv.org/abs/2402.19173>): LayerNorm, biases on every matrix, GELU, sliding window.

use std::sync::Arc;

use engram_kernels::ops::RopeTable;

use crate::error::ModelError;
use crate::layers::{Decoder, FeedForward, Loader, PlainMlp};

pub(super) fn assemble(loader: &Loader<'_>, rope: &Arc<RopeTable>) -> Result<Decoder, ModelError> {
    super::expect(loader, &["attn_norm.bias", "ffn_norm.bias", "attn_q.bias", "ffn_up.bias"])?;
    super::decoder(loader, rope, |i| PlainMlp::load(loader, i).map(FeedForward::Plain))
}
