//! From the configured name to a model with a running engine.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use engram_inference::{Engine, EngineHandle};
use engram_models::catalog::ModelKind;
use engram_models::chat_template::{ChatTemplate, TemplateSource};
use engram_models::fim::FimTokens;
use engram_models::gguf::Gguf;
use engram_models::pull::{ModelFiles, WeightsFiles, resolve};
use engram_models::tokenizer::{Tokenizer, TokenizerParts};
use engram_models::{LoadOptions, Model};

use super::{device, engine_config, pull_options};
use crate::backend::{ModelFacts, ServedModel};
use crate::config::Config;
use crate::metrics::Metrics;

/// A model that answers.
pub struct Loaded {
    /// With its engine.
    pub served: ServedModel,
    /// Where its files came from.
    pub source: String,
    /// Their size.
    pub bytes: u64,
    /// What it runs on.
    pub device: String,
}

/// What the start has to tell of a model once it is served.
pub struct Local {
    /// What clients call it.
    pub id: String,
    /// Its engine.
    pub engine: EngineHandle,
    /// Where its files came from.
    pub source: String,
    /// Their size.
    pub bytes: u64,
    /// What it runs on.
    pub device: String,
}

impl Loaded {
    /// What is served, and what is told of it.
    pub fn part(self) -> (ServedModel, Local) {
        let Self { served, source, bytes, device } = self;
        let local = Local { id: served.id.clone(), engine: served.engine.clone(), source, bytes, device };
        (served, local)
    }
}

/// A model without an engine yet.
pub struct Weights {
    /// Its files.
    pub files: ModelFiles,
    /// Ready for passes.
    pub model: Model,
}

/// Fetches what is missing and loads the weights.
pub fn load_weights(config: &Config, show_progress: bool) -> anyhow::Result<Weights> {
    let files = files(config, show_progress)?;
    let model = weights(config, &files)?;
    Ok(Weights { files, model })
}

/// Fetches, loads, and starts the engine.
pub fn load(config: &Config, metrics: &Metrics, show_progress: bool) -> anyhow::Result<Loaded> {
    let files = files(config, show_progress)?;
    // Reading a vocabulary of 150,000 takes about as long as packing the weights of half a billion.
    let (model, text) = std::thread::scope(|scope| {
        let text = scope.spawn(|| Text::load(&files));
        let model = weights(config, &files);
        (model, text.join().unwrap_or_else(|_| Err(anyhow!("reading the tokenizer panicked"))))
    });
    let (model, text) = (model?, text?);
    let id = if config.model.path.is_some() { config.model.name.clone() } else { files.id.clone() };
    let name = device::name(model.device());
    let facts = facts(&files, &model);
    let engine = Engine::start(model, engine_config(config), metrics.observer(&id))?;
    let max_len = engine.capacity().max_len;
    let served = ServedModel {
        aliases: files.catalog.map(|entry| entry.aliases.clone()).unwrap_or_default(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        stop_ids: text.stop_ids,
        tokenizer: Arc::new(text.tokenizer),
        template: Arc::new(text.template),
        fim: text.fim,
        engine,
        max_len,
        facts,
        id,
    };
    Ok(Loaded { served, source: files.source.to_string(), bytes: files.bytes(), device: name })
}

fn files(config: &Config, show_progress: bool) -> anyhow::Result<ModelFiles> {
    if config.model.is_none() {
        bail!("`model.name` is `none`, and this needs a model: name one with --model");
    }
    let options = pull_options(config, show_progress);
    let files = match &config.model.path {
        Some(path) => resolve(&path.display().to_string(), &options).context("`model.path`")?,
        None => resolve(&config.model.name, &options)?,
    };
    Ok(files)
}

fn weights(config: &Config, files: &ModelFiles) -> anyhow::Result<Model> {
    if files.catalog.is_some_and(|entry| entry.kind == ModelKind::Embed) {
        bail!(
            "{} is a sentence encoder, it generates no text: name it in `memory.encoder`, and here a model",
            files.id
        );
    }
    let options = LoadOptions {
        device: device::open(config.model.device)?,
        max_len: config.engine.max_model_len,
        ..LoadOptions::default()
    };
    let model = match &files.weights {
        WeightsFiles::Gguf(path) => Model::load_path(path, &options),
        WeightsFiles::Safetensors(shards) => {
            let config_json = files.config.as_deref().ok_or_else(|| anyhow!("{} has no config.json", files.id))?;
            Model::load_safetensors(shards, config_json, &options)
        }
    };
    model.with_context(|| format!("cannot load {}", files.id))
}

fn facts(files: &ModelFiles, model: &Model) -> ModelFacts {
    ModelFacts {
        license: files.catalog.map(|entry| entry.license.clone()),
        architecture: Some(model.config().architecture.to_string()),
        quantization: files.catalog.and_then(|entry| entry.quant.clone()),
    }
}

/// What makes ids of words.
struct Text {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    fim: Option<FimTokens>,
    stop_ids: Vec<u32>,
}

impl Text {
    fn load(files: &ModelFiles) -> anyhow::Result<Self> {
        let tokenizer = match (&files.tokenizer, &files.weights) {
            (Some(path), _) => Tokenizer::from_folder(path.parent().unwrap_or(Path::new(".")))?,
            (None, WeightsFiles::Gguf(path)) => {
                let gguf = Gguf::open(path)?;
                Tokenizer::from_parts(TokenizerParts::from_metadata(gguf.metadata())?)?
            }
            (None, WeightsFiles::Safetensors(_)) => return Err(anyhow!("{} has no tokenizer.json", files.id)),
        };
        let template = ChatTemplate::for_tokenizer(&tokenizer)?;
        if template.source() == TemplateSource::DefaultChatMl {
            tracing::warn!(model = %files.id, "the model has no chat template of its own: ChatML is used");
        }
        let mut stop_ids = tokenizer.stop_ids().to_vec();
        if let Some(path) = &files.generation_config {
            stop_ids.extend(end_ids(path)?.into_iter().filter(|&id| (id as usize) < tokenizer.vocab_size()));
        }
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let fim = FimTokens::find(&tokenizer);
        Ok(Self { tokenizer, template, fim, stop_ids })
    }
}

/// The end-of-generation ids of a `generation_config.json`: one number or several.
fn end_ids(path: &Path) -> anyhow::Result<Vec<u32>> {
    let told = || format!("cannot read {}", path.display());
    let text = std::fs::read_to_string(path).with_context(told)?;
    let object: serde_json::Value = serde_json::from_str(&text).with_context(told)?;
    let ids = match &object["eos_token_id"] {
        serde_json::Value::Array(ids) => ids.clone(),
        other => vec![other.clone()],
    };
    Ok(ids.iter().filter_map(|id| id.as_u64()?.try_into().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_generation() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [
            (r#"{"eos_token_id": 7}"#, vec![7]),
            (r#"{"eos_token_id": [7, 8, -1, "x", 99999999999]}"#, vec![7, 8]),
            (r#"{"eos_token_id": null}"#, vec![]),
            ("{}", vec![]),
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(end_ids(file.path()).unwrap(), expected, "{text}");
        }
        std::fs::write(file.path(), "{").unwrap();
        assert!(end_ids(file.path()).is_err());
    }
}
