//! Qwen3-MoE and Qwen3-Coder-30B-A3B (<https://arxiv.org/abs/2505.09388>): qwen3's attention, experts for
//! the feed-forward part.

use std::sync::Arc;

use engram_kernels::ops::RopeTable;

use crate::error::ModelError;
use crate::layers::{Decoder, FeedForward, Loader, SparseMoe};

pub(super) fn assemble(loader: &Loader<'_>, rope: &Arc<RopeTable>) -> Result<Decoder, ModelError> {
    super::expect(loader, &["attn_q_norm.weight", "attn_k_norm.weight", "ffn_gate_inp.weight"])?;
    super::decoder(loader, rope, |i| SparseMoe::load(loader, i).map(FeedForward::Sparse))
}
