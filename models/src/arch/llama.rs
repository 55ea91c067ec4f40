//! Llama (<https://arxiv.org/abs/2302.13971>) and what is built like it: SmolLM2, Llama 3, CodeLlama,
//! Mistral and Codestral, DeepSeek-Coder v1, Granite (which adds four constants, all in the config).

use std::sync::Arc;

use engram_kernels::ops::RopeTable;

use crate::error::ModelError;
use crate::layers::{Decoder, FeedForward, GatedMlp, Loader};

pub(super) fn assemble(loader: &Loader<'_>, rope: &Arc<RopeTable>) -> Result<Decoder, ModelError> {
    super::decoder(loader, rope, |i| GatedMlp::load(loader, i).map(FeedForward::Gated))
}
