//! Configuration from a Hugging Face checkpoint's `config.json`.
//!
//! Where a published file may leave a field out, its default is that of the transformers configuration class of
//! the model type; other fields have to be there.

use std::path::Path;

use serde_json::{Map, Value};

use super::rope::{BETA_FAST, BETA_SLOW, yarn_attention_factor};
use super::{Architecture, ModelConfig, MoeConfig, NormKind, RopeConfig, RopeLayout, RopeScaling};
use crate::error::ModelError;

/// Bytes of a `config.json`; published ones have a few thousand.
const MAX_FILE: u64 = 1 << 22;

/// The text of a `config.json`, whose size is checked first.
pub(super) fn read_file(path: &Path) -> Result<String, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > MAX_FILE {
        return Err(ModelError::ConfigJson { reason: format!("it has {len} bytes, at most {MAX_FILE} can be right") });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// Reads the configuration; facts that tensors tell are left at their defaults.
pub(super) fn read(text: &str) -> Result<ModelConfig, ModelError> {
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ModelError::ConfigJson { reason: error.to_string() })?;
    let fields = Fields { object: &object, path: "" };
    let model_type = model_type(&fields)?;
    let architecture = Architecture::from_name(model_type)?;
    refuse_unsupported(&fields, architecture)?;

    let hidden = fields.required_count("hidden_size")?;
    let heads = fields.required_count("num_attention_heads")?;
    let head_dim = match fields.count("head_dim")? {
        Some(head_dim) => head_dim,
        None if architecture == Architecture::Qwen3 || architecture == Architecture::Qwen3Moe => 128,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let reason = format!("is {heads}, which does not divide the hidden size {hidden}");
            return Err(ModelError::config("num_attention_heads", reason));
        }
    };
    let context_len = fields.required_count("max_position_embeddings")?;
    let rope = rope(&fields, head_dim, context_len)?;
    let layers = fields.required_count("num_hidden_layers")?;
    let (sliding_window, window_from_layer) = sliding_window(&fields, model_type, layers)?;
    let starcoder2 = architecture == Architecture::Starcoder2;
    let granite = |key| match model_type {
        "granite" => fields.float(key).map(|scale| Some(scale.unwrap_or(1.0))),
        _ => Ok(None),
    };
    Ok(ModelConfig {
        architecture,
        vocab_size: fields.required_count("vocab_size")?,
        hidden,
        layers,
        heads,
        kv_heads: kv_heads(&fields, model_type, heads)?,
        head_dim,
        ffn: fields.required_count("intermediate_size")?,
        norm_eps: match starcoder2 {
            true => fields.float("norm_epsilon")?.unwrap_or(1e-5),
            false => fields.float("rms_norm_eps")?.unwrap_or(1e-6),
        },
        norm: if starcoder2 { NormKind::Layer } else { NormKind::Rms },
        context_len: stretched_context(&rope.scaling, context_len),
        rope,
        sliding_window,
        window_from_layer,
        tie_embeddings: fields.bool("tie_word_embeddings")?.unwrap_or(starcoder2),
        attention_bias: false,
        mlp_bias: false,
        qk_norm: false,
        moe: if architecture == Architecture::Qwen3Moe { Some(moe(&fields, layers)?) } else { None },
        embedding_scale: granite("embedding_multiplier")?.filter(|&scale| scale != 1.0),
        residual_scale: granite("residual_multiplier")?.filter(|&scale| scale != 1.0),
        attention_scale: granite("attention_multiplier")?,
        logit_scale: granite("logits_scaling")?.filter(|&scale| scale != 1.0).map(f32::recip),
    })
}

/// `model_type`, or for old files the class in `architectures`.
fn model_type<'a>(fields: &Fields<'a>) -> Result<&'a str, ModelError> {
    if let Some(model_type) = fields.str("model_type")? {
        return Ok(model_type);
    }
    let class = fields.value("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    match class {
        Some("LlamaForCausalLM") => Ok("llama"),
        Some("MistralForCausalLM") => Ok("mistral"),
        Some("GraniteForCausalLM") => Ok("granite"),
        Some("Qwen2ForCausalLM") => Ok("qwen2"),
        Some("Qwen3ForCausalLM") => Ok("qwen3"),
        Some("Qwen3MoeForCausalLM") => Ok("qwen3_moe"),
        Some("Starcoder2ForCausalLM") => Ok("starcoder2"),
        Some(other) => Ok(other),
        None => Err(ModelError::config("model_type", "is missing, and so is `architectures`")),
    }
}

/// Variants of known model types that are computed in another way.
fn refuse_unsupported(fields: &Fields<'_>, architecture: Architecture) -> Result<(), ModelError> {
    if let Some(quantization) = fields.value("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        let reason =
            format!("says the weights are quantised with `{method}`; take the original checkpoint or a GGUF file");
        return Err(ModelError::config("quantization_config", reason));
    }
    let starcoder2 = architecture == Architecture::Starcoder2;
    let activation = fields.str("hidden_act")?;
    let known: &[&str] = if starcoder2 { &["gelu_pytorch_tanh", "gelu_new"] } else { &["silu", "swish"] };
    if let Some(found) = activation.filter(|found| !known.contains(found)) {
        let reason = format!("is `{found}`, of this architecture only {} is supported", known.join(" or "));
        return Err(ModelError::config("hidden_act", reason));
    }
    for (key, supported) in [("norm_type", "layer_norm"), ("mlp_type", "default")] {
        if let Some(found) = fields.str(key)?.filter(|&found| starcoder2 && found != supported) {
            return Err(ModelError::config(key, format!("is `{found}`, only `{supported}` is supported")));
        }
    }
    Ok(())
}

/// Key and value heads; the first Llama-like models have no field for them, and one for each query head.
fn kv_heads(fields: &Fields<'_>, model_type: &str, heads: usize) -> Result<usize, ModelError> {
    match model_type {
        "llama" | "granite" => Ok(fields.count("num_key_value_heads")?.unwrap_or(heads)),
        _ => fields.required_count("num_key_value_heads"),
    }
}

/// The window, and the first layer that has it.
fn sliding_window(fields: &Fields<'_>, model_type: &str, layers: usize) -> Result<(Option<usize>, usize), ModelError> {
    let window = match fields.count("sliding_window")? {
        Some(window) => window,
        // The class's default; later models say `null`.
        None if model_type == "mistral" && !fields.object.contains_key("sliding_window") => 4096,
        None => return Ok((None, 0)),
    };
    if !model_type.starts_with("qwen") {
        // Llama and Granite have no window, whatever the file says.
        return Ok((Some(window).filter(|_| matches!(model_type, "mistral" | "starcoder2")), 0));
    }
    if !fields.bool("use_sliding_window")?.unwrap_or(false) {
        return Ok((None, 0));
    }
    // Qwen: the first `max_window_layers` layers see all.
    let from = fields.count("max_window_layers")?.unwrap_or(28);
    Ok((Some(window).filter(|_| from < layers), from.min(layers)))
}

fn moe(fields: &Fields<'_>, layers: usize) -> Result<MoeConfig, ModelError> {
    let step = fields.count("decoder_sparse_step")?.unwrap_or(1);
    if step != 1 {
        let reason = format!("is {step}: models in which only some layers have experts are not supported");
        return Err(ModelError::config("decoder_sparse_step", reason));
    }
    let dense = fields.value("mlp_only_layers").and_then(Value::as_array).map_or(0, Vec::len);
    if dense > 0 {
        let reason =
            format!("names {dense} of {layers} layers: models in which only some have experts are not supported");
        return Err(ModelError::config("mlp_only_layers", reason));
    }
    Ok(MoeConfig {
        experts: fields.required_count("num_experts")?,
        experts_per_token: fields.required_count("num_experts_per_tok")?,
        expert_ffn: fields.required_count("moe_intermediate_size")?,
        norm_topk: fields.bool("norm_topk_prob")?.unwrap_or(false),
    })
}

/// YaRN is often added to a file without its context length being changed.
fn stretched_context(scaling: &RopeScaling, context_len: usize) -> usize {
    match *scaling {
        RopeScaling::Yarn { factor, original_context, .. } => {
            context_len.max((original_context as f64 * f64::from(factor)) as usize)
        }
        _ => context_len,
    }
}

/// `rope_theta` and `rope_scaling`, or both in `rope_parameters` (transformers 5).
fn rope(fields: &Fields<'_>, head_dim: usize, context_len: usize) -> Result<RopeConfig, ModelError> {
    let parameters = match fields.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => fields.object("rope_scaling")?,
    };
    let theta = match &parameters {
        Some(parameters) => parameters.float("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => fields.float("rope_theta")?.unwrap_or(10_000.0),
    };
    let partial = match &parameters {
        Some(parameters) => parameters.float("partial_rotary_factor")?,
        None => None,
    };
    let partial = match partial {
        Some(partial) => Some(partial),
        None => fields.float("partial_rotary_factor")?,
    };
    let dim = partial.map_or(head_dim, |partial| (f64::from(partial) * head_dim as f64) as usize);
    let scaling = match &parameters {
        Some(parameters) => scaling(fields, parameters, context_len)?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta, dim, layout: RopeLayout::Neox, scaling })
}

fn scaling(fields: &Fields<'_>, parameters: &Fields<'_>, context_len: usize) -> Result<RopeScaling, ModelError> {
    let kind = match parameters.str("rope_type")? {
        Some(kind) => kind,
        None => parameters.str("type")?.unwrap_or("default"),
    };
    let original_context = || -> Result<usize, ModelError> {
        let key = "original_max_position_embeddings";
        Ok(match parameters.count(key)? {
            Some(original) => original,
            None => fields.count(key)?.unwrap_or(context_len),
        })
    };
    match kind {
        "default" | "none" => Ok(RopeScaling::None),
        // Within `max_position_embeddings`, which is the limit here, dynamic scaling changes nothing.
        "dynamic" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: parameters.required_float("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: parameters.required_float("factor")?,
            low_freq_factor: parameters.required_float("low_freq_factor")?,
            high_freq_factor: parameters.required_float("high_freq_factor")?,
            original_context: original_context()?,
        }),
        "yarn" => {
            let factor = parameters.required_float("factor")?;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original_context()?,
                beta_fast: parameters.float("beta_fast")?.unwrap_or(BETA_FAST),
                beta_slow: parameters.float("beta_slow")?.unwrap_or(BETA_SLOW),
                attention_factor: attention_factor(parameters, factor)?,
            })
        }
        other => {
            let reason = format!("is `{other}`, known: default, linear, dynamic, llama3, yarn");
            Err(ModelError::config(format!("{}.rope_type", parameters.path), reason))
        }
    }
}

/// YaRN's factor on cos and sin: given, or from the two `mscale`s, or the paper's.
fn attention_factor(parameters: &Fields<'_>, factor: f32) -> Result<f32, ModelError> {
    if let Some(given) = parameters.float("attention_factor")? {
        return Ok(given);
    }
    let scaled = |mscale: f32| {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    };
    match (parameters.float("mscale")?, parameters.float("mscale_all_dim")?) {
        (Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => Ok(scaled(mscale) / scaled(all_dim)),
        _ => Ok(yarn_attention_factor(factor)),
    }
}

/// A JSON object whose fields are read by type; `null` is as good as missing.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Where it stands in the file, for messages; empty at the top.
    path: &'static str,
}

impl<'a> Fields<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                let mut found = value.to_string();
                if found.len() > 80 {
                    let kind = if value.is_string() { "a long string" } else { "a nested value" };
                    found = kind.to_owned();
                }
                Err(ModelError::config(self.name(key), format!("is {found}, expected {expected}")))
            }
        }
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let whole = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        self.typed(key, "a whole number", whole)
    }

    fn float(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.typed(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    fn object(&self, key: &'static str) -> Result<Option<Fields<'a>>, ModelError> {
        let object = self.typed(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields { object, path: key }))
    }

    fn required_count(&self, key: &str) -> Result<usize, ModelError> {
        self.count(key)?.ok_or_else(|| ModelError::config(self.name(key), "is missing"))
    }

    fn required_float(&self, key: &str) -> Result<f32, ModelError> {
        self.float(key)?.ok_or_else(|| ModelError::config(self.name(key), "is missing"))
    }
}
