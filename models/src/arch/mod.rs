//! The architectures: which parts each is put together from. Assembly only; the parts are in [`crate::layers`].

use std::sync::Arc;

use engram_kernels::ops::RopeTable;

use crate::config::Architecture;
use crate::error::ModelError;
use crate::layers::{Attention, Decoder, DecoderLayer, Embedding, FeedForward, Linear, Loader, WeightForm};

mod llama;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod starcoder2;

/// Assembles the decoder of the loader's architecture.
pub fn assemble(loader: &Loader<'_>, rope: &Arc<RopeTable>) -> Result<Decoder, ModelError> {
    match loader.config.architecture {
        Architecture::Llama => llama::assemble(loader, rope),
        Architecture::Qwen2 => qwen2::assemble(loader, rope),
        Architecture::Qwen3 => qwen3::assemble(loader, rope),
        Architecture::Qwen3Moe => qwen3_moe::assemble(loader, rope),
        Architecture::Starcoder2 => starcoder2::assemble(loader, rope),
    }
}

/// The frame every architecture shares; `ffn` loads the feed-forward part of a layer.
fn decoder(
    loader: &Loader<'_>,
    rope: &Arc<RopeTable>,
    ffn: impl Fn(usize) -> Result<FeedForward, ModelError>,
) -> Result<Decoder, ModelError> {
    let config = loader.config;
    let embedding = Embedding::new(
        loader.table("token_embd.weight", config.vocab_size, config.hidden)?,
        config.embedding_scale.unwrap_or(1.0),
    );
    let layers = (0..config.layers)
        .map(|i| {
            Ok(DecoderLayer {
                attention_norm: loader.norm(&format!("blk.{i}.attn_norm"), config.hidden)?,
                attention: Attention::load(loader, i, rope.clone())?,
                ffn_norm: loader.norm(&format!("blk.{i}.ffn_norm"), config.hidden)?,
                ffn: ffn(i)?,
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    let norm = loader.norm("output_norm", config.hidden)?;
    let head = head(loader, &embedding)?;
    Ok(Decoder {
        embedding,
        layers,
        norm,
        head,
        residual_scale: config.residual_scale.unwrap_or(1.0),
        logit_scale: config.logit_scale.unwrap_or(1.0),
    })
}

/// The output head: its own matrix where the file has one, else the token table.
fn head(loader: &Loader<'_>, embedding: &Embedding) -> Result<Linear, ModelError> {
    let config = loader.config;
    if loader.has("output.weight") {
        return loader.linear(&[("output".to_owned(), config.vocab_size)], config.hidden);
    }
    let tied = match loader.form {
        WeightForm::Packed | WeightForm::Dense => embedding.table().clone(),
        WeightForm::Candle => loader.matrix("token_embd.weight", config.vocab_size, config.hidden)?,
    };
    Ok(Linear::new(vec![tied], None)?)
}

/// Refuses a file that lacks what makes the architecture: `parts` of layer 0.
fn expect(loader: &Loader<'_>, parts: &[&str]) -> Result<(), ModelError> {
    for part in parts {
        let name = format!("blk.0.{part}");
        if loader.config.layers > 0 && !loader.has(&name) {
            return Err(ModelError::MissingTensor { name });
        }
    }
    Ok(())
}
