//! What a model is made of: one immutable struct, from GGUF metadata or from a checkpoint's `config.json`.
//!
//! Every value is checked before it is believed: a count of zero or of billions, heads that do not divide, or a
//! rope that is not implemented is refused with the key that says so.

use std::path::Path;

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::safetensors::Shards;
use crate::weights::{HfWeights, Weights};

mod check;
mod gguf;
mod hf;
mod rope;

pub use rope::{ROPE_FACTORS, RopeConfig, RopeLayout, RopeScaling};

/// The families of models that are assembled from the layers of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama and what is built like it: SmolLM2, CodeLlama, Mistral, Codestral, DeepSeek-Coder v1, Granite.
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: norms on the heads of q and k.
    Qwen3,
    /// Qwen3 with a sparse mixture of experts.
    Qwen3Moe,
    /// StarCoder2: LayerNorm, biases everywhere, an MLP without a gate.
    Starcoder2,
}

/// How activations are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm (<https://arxiv.org/abs/1910.07467>).
    Rms,
    /// LayerNorm with bias (<https://arxiv.org/abs/1607.06450>).
    Layer,
}

/// The feed-forward part of a mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// Experts a layer.
    pub experts: usize,
    /// Experts that work on one token.
    pub experts_per_token: usize,
    /// Inner width of an expert.
    pub expert_ffn: usize,
    /// Whether the chosen experts' shares are scaled to add up to one.
    pub norm_topk: bool,
}

/// The dimensions and constants of a model. Widths are in features, lengths in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which assembly runs it.
    pub architecture: Architecture,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Inner width of the feed-forward part (of the dense one, where a model has both kinds).
    pub ffn: usize,
    /// Added to the variance in norms.
    pub norm_eps: f32,
    /// Which norm.
    pub norm: NormKind,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// Longest context that the model is made for.
    pub context_len: usize,
    /// Tokens that a query sees, its own included; `None` sees all. See [`ModelConfig::window`].
    pub sliding_window: Option<usize>,
    /// First layer that has the sliding window; the layers before it see all.
    pub window_from_layer: usize,
    /// Whether the output head is the token table.
    pub tie_embeddings: bool,
    /// Whether the q projection has a bias in the files.
    pub attention_bias: bool,
    /// Whether the feed-forward part has biases in the files.
    pub mlp_bias: bool,
    /// Whether the heads of q and k are normed.
    pub qk_norm: bool,
    /// Experts, where the model has them.
    pub moe: Option<MoeConfig>,
    /// Embeddings are multiplied by this (Granite).
    pub embedding_scale: Option<f32>,
    /// What a layer adds to the residual stream is multiplied by this (Granite).
    pub residual_scale: Option<f32>,
    /// Attention scores are multiplied by this in place of `1 / sqrt(head_dim)` (Granite).
    pub attention_scale: Option<f32>,
    /// Logits are multiplied by this (Granite; the reciprocal of the value in its files, which divide).
    pub logit_scale: Option<f32>,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 5] = [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Qwen3Moe,
        Architecture::Starcoder2,
    ];

    /// The name as configuration files have it, `llama` for those that are built like it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen3Moe => "qwen3_moe",
            Architecture::Starcoder2 => "starcoder2",
        }
    }

    /// From `general.architecture` (GGUF) or `model_type` (`config.json`); the two spell alike but for `qwen3moe`.
    ///
    /// Errors: [`ModelError::UnknownArchitecture`], which lists the known ones.
    pub fn from_name(name: &str) -> Result<Self, ModelError> {
        match name {
            "llama" | "mistral" | "granite" => Ok(Architecture::Llama),
            "qwen2" => Ok(Architecture::Qwen2),
            "qwen3" => Ok(Architecture::Qwen3),
            "qwen3_moe" | "qwen3moe" => Ok(Architecture::Qwen3Moe),
            "starcoder2" => Ok(Architecture::Starcoder2),
            _ => Err(ModelError::UnknownArchitecture {
                found: name.to_owned(),
                known: "llama, mistral, granite, qwen2, qwen3, qwen3_moe, starcoder2".to_owned(),
            }),
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelConfig {
    /// Reads the configuration of a GGUF file.
    ///
    /// Errors: [`ModelError::Metadata`], [`ModelError::Config`], [`ModelError::UnknownArchitecture`], and
    /// [`ModelError::MissingTensor`] without a token table.
    pub fn from_gguf(file: &Gguf) -> Result<Self, ModelError> {
        let mut config = gguf::read(file)?;
        config.tie_embeddings = file.tensor("output.weight").is_none();
        config.observe(file);
        config.check()?;
        Ok(config)
    }

    /// Reads the text of a checkpoint's `config.json`.
    ///
    /// What only the tensors tell (biases, norms of heads) is not known yet: [`open_safetensors`] adds it.
    /// Errors: [`ModelError::ConfigJson`], [`ModelError::Config`], [`ModelError::UnknownArchitecture`].
    pub fn from_hf(config_json: &str) -> Result<Self, ModelError> {
        let config = hf::read(config_json)?;
        config.check()?;
        Ok(config)
    }

    /// The window of a layer: tokens that a query sees, its own included; `None` sees all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| layer >= self.window_from_layer)
    }

    /// Notes what the presence of tensors tells.
    fn observe(&mut self, weights: &dyn Weights) {
        self.attention_bias = weights.info("blk.0.attn_q.bias").is_some();
        self.mlp_bias = weights.info("blk.0.ffn_up.bias").is_some();
        self.qk_norm = weights.info("blk.0.attn_q_norm.weight").is_some();
    }
}

/// Opens a GGUF model and reads its configuration.
pub fn open_gguf(path: impl AsRef<Path>) -> Result<(ModelConfig, Gguf), ModelError> {
    let file = Gguf::open(path)?;
    Ok((ModelConfig::from_gguf(&file)?, file))
}

/// Opens a safetensors checkpoint: its files (with or without their index) and its `config.json`.
///
/// Errors: as [`Shards::open_files`] and [`ModelConfig::from_hf`]; [`ModelError::MissingTensor`] where the token
/// table or an untied head is not there.
pub fn open_safetensors<P: AsRef<Path>>(
    files: &[P],
    config_json: impl AsRef<Path>,
) -> Result<(ModelConfig, HfWeights), ModelError> {
    let path = config_json.as_ref();
    let text = hf::read_file(path)?;
    let mut config = ModelConfig::from_hf(&text)?;
    let weights = HfWeights::new(Shards::open_files(files)?, &config);
    weights.require("token_embd.weight", &[config.vocab_size, config.hidden])?;
    if !config.tie_embeddings {
        weights.require("output.weight", &[config.vocab_size, config.hidden])?;
    }
    config.observe(&weights);
    Ok((config, weights))
}

#[cfg(test)]
mod published;
#[cfg(test)]
mod tests;
