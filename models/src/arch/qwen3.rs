//! Qwen3, dense (<https://arxiv.org/abs/2505.09388>): no biases, RMSNorm on every q and k head.

use std::sync::Arc;

use engram_kernels::ops::RopeTable;

use crate::error::ModelError;
use crate::layers::{Decoder, FeedForward, GatedMlp, Loader};

pub(super) fn assemble(loader: &Loader<'_>, rope: &Arc<RopeTable>) -> Result<Decoder, ModelError> {
    super::expect(loader, &["attn_q_norm.weight", "attn_k_norm.weight"])?;
    super::decoder(loader, rope, |i| GatedMlp::load(loader, i).map(FeedForward::Gated))
}
