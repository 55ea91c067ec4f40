//! Qwen2 and Qwen2.5-Coder (<https://arxiv.org/abs/2409.12186>): llama's frame with biases on q, k and v.

use std::sync::Arc;

use engram_kernels::ops::RopeTable;

use crate::error::ModelError;
use crate::layers::{Decoder, FeedForward, GatedMlp, Loader};

pub(super) fn assemble(loader: &Loader<'_>, rope: &Arc<RopeTable>) -> Result<Decoder, ModelError> {
    super::expect(loader, &["attn_q.bias", "attn_k.bias", "attn_v.bias"])?;
    super::decoder(loader, rope, |i| GatedMlp::load(loader, i).map(FeedForward::Gated))
}
