//! Configuration from GGUF metadata: keys `{architecture}.block_count` and so on.
//!
//! Key names: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#llm>

use super::rope::{BETA_FAST, BETA_SLOW, yarn_attention_factor};
use super::{Architecture, ModelConfig, MoeConfig, NormKind, ROPE_FACTORS, RopeConfig, RopeLayout, RopeScaling};
use crate::error::ModelError;
use crate::gguf::{Gguf, Metadata, Value};

/// Metadata under the prefix of its architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

/// Reads the configuration; facts that tensors tell are left at their defaults.
pub(super) fn read(file: &Gguf) -> Result<ModelConfig, ModelError> {
    let metadata = file.metadata();
    let name = metadata.required("general.architecture", Metadata::str)?;
    let architecture = Architecture::from_name(name)?;
    let keys = Keys { metadata, prefix: name };
    refuse_unsupported(&keys, architecture)?;

    let hidden = keys.count("embedding_length")?;
    let heads = keys.count("attention.head_count")?;
    let head_dim = head_dim(&keys, hidden, heads)?;
    let norm = if architecture == Architecture::Starcoder2 { NormKind::Layer } else { NormKind::Rms };
    let norm_key = match norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    let moe = if architecture == Architecture::Qwen3Moe { Some(moe(&keys)?) } else { None };
    Ok(ModelConfig {
        architecture,
        vocab_size: vocab_size(file, hidden)?,
        hidden,
        layers: keys.count("block_count")?,
        heads,
        kv_heads: keys.optional_count("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: match &moe {
            Some(moe) => keys.optional_count("feed_forward_length")?.unwrap_or(moe.expert_ffn),
            None => keys.count("feed_forward_length")?,
        },
        norm_eps: metadata.required(&keys.name(norm_key), Metadata::f32)?,
        norm,
        rope: rope(&keys, file, architecture, head_dim)?,
        context_len: keys.count("context_length")?,
        sliding_window: sliding_window(&keys, architecture)?,
        window_from_layer: 0,
        tie_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        qk_norm: false,
        moe,
        embedding_scale: keys.scale("embedding_scale")?,
        residual_scale: keys.scale("residual_scale")?,
        attention_scale: keys.scale("attention.scale")?,
        logit_scale: keys.scale("logit_scale")?.map(f32::recip),
    })
}

/// The window in the file; 0 stands for none. Converters leave StarCoder2's out, and all of its sizes have the
/// same (<https://arxiv.org/abs/2402.19173>).
fn sliding_window(keys: &Keys<'_>, architecture: Architecture) -> Result<Option<usize>, ModelError> {
    let default = match architecture {
        Architecture::Starcoder2 => 4096,
        _ => 0,
    };
    let window = keys.optional_count("attention.sliding_window")?;
    Ok(Some(window.unwrap_or(default)).filter(|&window| window > 0))
}

/// Variants of known architectures that are computed in another way.
fn refuse_unsupported(keys: &Keys<'_>, architecture: Architecture) -> Result<(), ModelError> {
    if architecture != Architecture::Qwen3Moe && keys.optional_count("expert_count")?.unwrap_or(0) > 0 {
        let reason = format!("is there, but of `{}` only dense models are supported", keys.prefix);
        return Err(ModelError::config(keys.name("expert_count"), reason));
    }
    let finetuned = keys.name("rope.scaling.finetuned");
    if keys.prefix == "granite" && keys.metadata.bool(&finetuned)? == Some(false) {
        return Err(ModelError::config(finetuned, "is false: Granite models without rope are not supported"));
    }
    Ok(())
}

fn head_dim(keys: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, ModelError> {
    let key_length = keys.optional_count("attention.key_length")?;
    let value_length = keys.optional_count("attention.value_length")?;
    if let (Some(key), Some(value)) = (key_length, value_length)
        && key != value
    {
        let reason = format!("is {value} and the key length {key}: heads of two widths are not supported");
        return Err(ModelError::config(keys.name("attention.value_length"), reason));
    }
    match key_length.or(value_length) {
        Some(head_dim) => Ok(head_dim),
        None if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => {
            let reason = format!("is {heads}, which does not divide the embedding length {hidden}");
            Err(ModelError::config(keys.name("attention.head_count"), reason))
        }
    }
}

/// The token table tells: metadata may be missing or count the tokens without padding.
fn vocab_size(file: &Gguf, hidden: usize) -> Result<usize, ModelError> {
    let name = "token_embd.weight";
    let table = file.tensor(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })?;
    match table.shape[..] {
        [vocab_size, cols] if cols == hidden => Ok(vocab_size),
        _ => {
            let expected = vec![table.shape[0], hidden];
            Err(ModelError::WrongShape { name: name.to_owned(), expected, found: table.shape.clone() })
        }
    }
}

fn moe(keys: &Keys<'_>) -> Result<MoeConfig, ModelError> {
    let norm = keys.name("expert_weights_norm");
    Ok(MoeConfig {
        experts: keys.count("expert_count")?,
        experts_per_token: keys.count("expert_used_count")?,
        expert_ffn: keys.count("expert_feed_forward_length")?,
        // Absent from most files; every published Qwen3-MoE has it on.
        norm_topk: keys.metadata.bool(&norm)?.unwrap_or(true),
    })
}

fn rope(keys: &Keys<'_>, file: &Gguf, architecture: Architecture, head_dim: usize) -> Result<RopeConfig, ModelError> {
    let layout = match architecture {
        Architecture::Llama => RopeLayout::Interleaved,
        _ => RopeLayout::Neox,
    };
    Ok(RopeConfig {
        theta: keys.metadata.f32(&keys.name("rope.freq_base"))?.unwrap_or(10_000.0),
        dim: keys.optional_count("rope.dimension_count")?.unwrap_or(head_dim),
        layout,
        scaling: scaling(keys, file.tensor(ROPE_FACTORS).is_some())?,
    })
}

fn scaling(keys: &Keys<'_>, has_factors: bool) -> Result<RopeScaling, ModelError> {
    let type_key = keys.name("rope.scaling.type");
    let kind = keys.metadata.str(&type_key)?;
    // Old files give a factor alone, which is linear.
    let factor = match keys.scale("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.scale("rope.scale_linear")?,
    };
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => RopeScaling::None,
        (None | Some("linear"), Some(1.0)) => RopeScaling::None,
        (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
        (Some("yarn"), factor) => yarn(keys, factor)?,
        (Some(other), _) => {
            let reason = format!("is `{other}`, known: none, linear, yarn, and factors in `{ROPE_FACTORS}`");
            return Err(ModelError::config(type_key, reason));
        }
    };
    match (has_factors, &scaling) {
        (false, _) => Ok(scaling),
        (true, RopeScaling::None) => Ok(RopeScaling::Factors),
        (true, _) => {
            let reason = format!("stretches the frequencies a second time, beside the tensor `{ROPE_FACTORS}`");
            Err(ModelError::config(type_key, reason))
        }
    }
}

fn yarn(keys: &Keys<'_>, factor: Option<f32>) -> Result<RopeScaling, ModelError> {
    let Some(factor) = factor else {
        return Err(ModelError::config(keys.name("rope.scaling.factor"), "is missing, yarn needs it"));
    };
    let original_context = match keys.optional_count("rope.scaling.original_context_length")? {
        Some(original) => original,
        None => keys.count("context_length")?,
    };
    let float = |key: &str| keys.metadata.f32(&keys.name(key));
    let attention_factor = match float("rope.scaling.yarn_attn_factor")? {
        Some(given) => given,
        None => yarn_attention_factor(factor) * float("rope.scaling.attn_factor")?.unwrap_or(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: float("rope.scaling.yarn_beta_fast")?.unwrap_or(BETA_FAST),
        beta_slow: float("rope.scaling.yarn_beta_slow")?.unwrap_or(BETA_SLOW),
        attention_factor,
    })
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// A whole number that has to be there.
    fn count(&self, key: &str) -> Result<usize, ModelError> {
        let name = self.name(key);
        self.optional_count(key)?.ok_or(ModelError::Metadata(crate::gguf::MetadataError::Missing { key: name }))
    }

    /// A whole number; where the file has one a layer they have to be the same.
    fn optional_count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let name = self.name(key);
        let number = match self.metadata.get(&name) {
            Some(Value::Array(array)) => {
                let first = array.get(0).as_ref().and_then(Value::as_u64);
                let same = |index| array.get(index).as_ref().and_then(Value::as_u64) == first;
                if first.is_none() || !(1..array.len()).all(same) {
                    return Err(ModelError::config(name, "differs from layer to layer, which is not supported"));
                }
                first
            }
            _ => self.metadata.u64(&name)?,
        };
        let too_large = |number| ModelError::config(name.clone(), format!("is {number}, more than can be addressed"));
        number.map(|number| usize::try_from(number).map_err(|_| too_large(number))).transpose()
    }

    /// A float of which 0 means that it is not there.
    fn scale(&self, key: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.metadata.f32(&self.name(key))?.filter(|&scale| scale != 0.0))
    }
}
