//! A model ready to run: files opened, weights in the form of the device, layers assembled.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use engram_kernels::ops::RopeTable;
use engram_kernels::rope::RopeScaling as Stretch;

use crate::arch;
use crate::config::{self, ModelConfig, ROPE_FACTORS, RopeScaling};
use crate::error::ModelError;
use crate::forward::{ForwardBatch, KvStore};
use crate::layers::{Decoder, Loader, WeightForm};
use crate::weights::Weights;
use crate::workspace::Workspace;

/// How a model is brought up.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: Device,
    /// Form of the weights; `None` takes the fastest of the device.
    pub form: Option<WeightForm>,
    /// Positions to prepare for, in tokens; `None` prepares for the model's whole context.
    pub max_len: Option<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, form: None, max_len: None }
    }
}

/// A decoder with its weights.
pub struct Model {
    config: ModelConfig,
    decoder: Decoder,
    device: Device,
    form: WeightForm,
}

impl Model {
    /// Loads a `.gguf` file, or a folder with `config.json` and safetensors.
    ///
    /// The files are let go when loading ends: weights are resident once.
    /// Errors: everything that can be wrong with a file; see [`ModelError`].
    pub fn load_path(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        if path.is_dir() {
            return Self::load_safetensors(&safetensors_in(path)?, &path.join("config.json"), options);
        }
        let (config, file) = config::open_gguf(path)?;
        Self::assemble(&file, config, options)
    }

    /// Loads a safetensors checkpoint from its shards and its `config.json`.
    pub fn load_safetensors(shards: &[PathBuf], config_json: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let (config, weights) = config::open_safetensors(shards, config_json)?;
        Self::assemble(&weights, config, options)
    }

    fn assemble(weights: &dyn Weights, mut config: ModelConfig, options: &LoadOptions) -> Result<Self, ModelError> {
        let begun = Instant::now();
        if let Some(max_len) = options.max_len {
            config.context_len = config.context_len.min(max_len);
        }
        let default_form = if options.device.is_cpu() { WeightForm::Packed } else { WeightForm::Candle };
        let form = options.form.unwrap_or(default_form);
        let rope = Arc::new(rope_table(weights, &config)?);
        let decoder = arch::assemble(&Loader::new(weights, &config, &options.device, form), &rope)?;
        tracing::debug!(architecture = %config.architecture, layers = config.layers, ?form, elapsed = ?begun.elapsed(), "model loaded");
        Ok(Self { config, decoder, device: options.device.clone(), form })
    }

    /// The model's dimensions; `context_len` is what it was prepared for.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// In which form its weights are held.
    pub fn form(&self) -> WeightForm {
        self.form
    }

    /// One pass: writes K and V of the batch's tokens and leaves the logits `[logit_rows, vocab]`, f32, in `workspace`.
    pub fn pass(&self, batch: &ForwardBatch, kv: &dyn KvStore, workspace: &mut Workspace) -> Result<(), ModelError> {
        if self.form == WeightForm::Packed {
            return Ok(self.decoder.run(batch, kv, workspace)?);
        }
        let logits = self.forward(batch, kv)?;
        let values = logits.flatten_all()?.to_vec1()?;
        workspace.logits_mut(logits.dim(0)?, self.config.vocab_size).copy_from_slice(&values);
        Ok(())
    }

    /// The same as candle's ops, on any device: the logits as a tensor `[logit_rows, vocab]`, f32.
    ///
    /// Without `logit_rows` the tensor is `[0, vocab]`.
    pub fn forward(&self, batch: &ForwardBatch, kv: &dyn KvStore) -> Result<Tensor, ModelError> {
        match self.decoder.forward(batch, kv, &self.device)? {
            Some(logits) => Ok(logits),
            None => Ok(Tensor::zeros((0, self.config.vocab_size), candle_core::DType::F32, &self.device)?),
        }
    }

    /// One pass without the head: the last hidden state, normed, of the batch's `logit_rows`, `[logit_rows, hidden]` in f32.
    ///
    /// What encoders built from decoders take for a text's vector.
    pub fn hidden(&self, batch: &ForwardBatch, kv: &dyn KvStore) -> Result<Tensor, ModelError> {
        match self.decoder.hidden(batch, kv, &self.device)? {
            Some(rows) => Ok(rows),
            None => Ok(Tensor::zeros((0, self.config.hidden), candle_core::DType::F32, &self.device)?),
        }
    }
}

/// All `.safetensors` files of a folder, in order of name.
fn safetensors_in(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let io = |source| ModelError::Io { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let reason = "holds no .safetensors files".to_owned();
        return Err(ModelError::Config { key: dir.display().to_string(), reason });
    }
    Ok(files)
}

fn rope_table(weights: &dyn Weights, config: &ModelConfig) -> Result<RopeTable, ModelError> {
    let rope = &config.rope;
    let stretch = match rope.scaling {
        RopeScaling::None => Stretch::None,
        RopeScaling::Linear { factor } => Stretch::Linear { factor: f64::from(factor) },
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => Stretch::Llama3 {
            factor: f64::from(factor),
            low_freq_factor: f64::from(low_freq_factor),
            high_freq_factor: f64::from(high_freq_factor),
            original_context,
        },
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => Stretch::Yarn {
            factor: f64::from(factor),
            original_context,
            beta_fast: f64::from(beta_fast),
            beta_slow: f64::from(beta_slow),
            attention_factor: Some(f64::from(attention_factor)),
        },
        RopeScaling::Factors => Stretch::Factors(weights.floats(ROPE_FACTORS, rope.dim / 2)?),
    };
    RopeTable::new(rope.dim, f64::from(rope.theta), config.context_len, &stretch)
        .map_err(|e| ModelError::config("rope", e.to_string()))
}
