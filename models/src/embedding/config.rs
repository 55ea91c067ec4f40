//! An encoder's `config.json`: which family it is, and its dimensions.

use engram_kernels::ops::GeluForm;
use serde_json::Value;

use crate::error::ModelError;

/// Largest count that a dimension is believed; weights are checked against it, this only keeps products from overflowing.
const MAX_DIMENSION: u64 = 1 << 24;
/// More layers than any encoder has.
const MAX_LAYERS: u64 = 1024;

/// What kind of network turns ids into vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// BERT: <https://arxiv.org/abs/1810.04805>.
    Bert,
    /// Jina v2: BERT with ALiBi and gated feed-forward layers, <https://arxiv.org/abs/2310.19923>.
    JinaBert,
    /// A vector a token, averaged: model2vec, WordLlama.
    Static,
    /// Qwen3-Embedding: a causal decoder whose last token is the text's vector, <https://arxiv.org/abs/2506.05176>.
    Qwen3,
}

impl Family {
    /// The family of a `config.json`; without one it is a static table.
    pub(super) fn of(config: Option<&Value>) -> Result<Self, ModelError> {
        let Some(config) = config else { return Ok(Self::Static) };
        let found = config["model_type"].as_str().unwrap_or("");
        match found {
            "bert" if config["position_embedding_type"] == "alibi" => Ok(Self::JinaBert),
            "bert" => Ok(Self::Bert),
            "model2vec" => Ok(Self::Static),
            "qwen3" => Ok(Self::Qwen3),
            _ => Err(ModelError::UnknownArchitecture {
                found: if found.is_empty() { "(no model_type)".to_owned() } else { found.to_owned() },
                known: "bert, bert with alibi (jina v2), qwen3, model2vec; generating models are served with --model"
                    .into(),
            }),
        }
    }

    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::JinaBert => "jina-bert-v2",
            Self::Static => "static",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Dimensions of BERT and of Jina's.
#[derive(Debug, Clone)]
pub(super) struct BertConfig {
    pub hidden: usize,
    pub heads: usize,
    pub layers: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub positions: usize,
    pub types: usize,
    pub eps: f32,
    pub gelu: GeluForm,
    pub alibi: bool,
}

impl BertConfig {
    pub fn read(config: &Value) -> Result<Self, ModelError> {
        let count = |key: &str, max: u64| match config[key].as_u64() {
            Some(value) if (1..=max).contains(&value) => Ok(value as usize),
            _ => Err(ModelError::config(key, format!("is {}, must be a whole number from 1 to {max}", config[key]))),
        };
        let gelu = match config["hidden_act"].as_str() {
            Some("gelu") => GeluForm::Erf,
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => GeluForm::Tanh,
            _ => {
                let reason = format!("is {}, known: gelu, gelu_new, gelu_pytorch_tanh", config["hidden_act"]);
                return Err(ModelError::config("hidden_act", reason));
            }
        };
        let (hidden, heads) = (count("hidden_size", MAX_DIMENSION)?, count("num_attention_heads", MAX_DIMENSION)?);
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(8) {
            let reason = format!("is {heads}: heads of {hidden} / {heads} dimensions, a multiple of 8 is wanted");
            return Err(ModelError::config("num_attention_heads", reason));
        }
        let eps = config["layer_norm_eps"].as_f64().unwrap_or(1e-12);
        if !(0.0..=1.0).contains(&eps) {
            return Err(ModelError::config("layer_norm_eps", format!("is {eps}, must be from 0 to 1")));
        }
        Ok(Self {
            hidden,
            heads,
            layers: count("num_hidden_layers", MAX_LAYERS)?,
            ffn: count("intermediate_size", MAX_DIMENSION)?,
            vocab: count("vocab_size", MAX_DIMENSION)?,
            positions: count("max_position_embeddings", MAX_DIMENSION)?,
            types: count("type_vocab_size", MAX_DIMENSION)?,
            eps: eps as f32,
            gelu,
            alibi: config["position_embedding_type"] == "alibi",
        })
    }
}

/// How the rows of a sequence become its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first.
    First,
    /// The last.
    Last,
}

impl Pooling {
    /// As a `1_Pooling/config.json` of sentence-transformers says.
    pub(super) fn read(config: &Value) -> Result<Self, ModelError> {
        let modes = [
            ("pooling_mode_mean_tokens", Self::Mean),
            ("pooling_mode_cls_token", Self::First),
            ("pooling_mode_lasttoken", Self::Last),
        ];
        let known = |key: &str| modes.iter().any(|(mode, _)| *mode == key);
        let on = |key: &str| config[key].as_bool().unwrap_or(false);
        let others = config.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        let other = others.filter(|key| key.starts_with("pooling_mode_") && !known(key)).find(|key| on(key));
        let mut wanted = modes.iter().filter(|(mode, _)| on(mode));
        match (wanted.next(), wanted.next(), other) {
            (Some((_, pooling)), None, None) => Ok(*pooling),
            _ => Err(ModelError::config(
                other.unwrap_or("pooling_mode"),
                "exactly one of pooling_mode_mean_tokens, pooling_mode_cls_token, pooling_mode_lasttoken is wanted",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn families_are_told_apart() {
        for (config, expected) in [
            (Some(json!({"model_type": "bert", "position_embedding_type": "absolute"})), Ok(Family::Bert)),
            (Some(json!({"model_type": "bert", "position_embedding_type": "alibi"})), Ok(Family::JinaBert)),
            (Some(json!({"model_type": "model2vec"})), Ok(Family::Static)),
            (Some(json!({"model_type": "qwen3"})), Ok(Family::Qwen3)),
            (None, Ok(Family::Static)),
            (Some(json!({"model_type": "qwen2"})), Err("architecture `qwen2` is not supported")),
            (Some(json!([])), Err("(no model_type)")),
        ] {
            match (Family::of(config.as_ref()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (found, expected) => panic!("{config:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn bad_dimensions_are_named() {
        let good = json!({"hidden_act": "gelu", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 128, "vocab_size": 10, "max_position_embeddings": 32, "type_vocab_size": 2});
        assert!(BertConfig::read(&good).is_ok());
        for (key, value, expected) in [
            ("hidden_size", json!(0), "`hidden_size` is 0"),
            ("hidden_size", json!(60), "multiple of 8"),
            ("num_hidden_layers", json!(1e9), "from 1 to 1024"),
            ("hidden_act", json!("relu"), "`hidden_act` is \"relu\""),
            ("vocab_size", json!("x"), "`vocab_size` is \"x\""),
            ("layer_norm_eps", json!(-1.0), "`layer_norm_eps` is -1"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let error = BertConfig::read(&bad).expect_err(key).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn pooling_is_one_of_three() {
        for (config, expected) in [
            (json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}), Some(Pooling::Mean)),
            (json!({"pooling_mode_cls_token": true}), Some(Pooling::First)),
            (json!({"pooling_mode_lasttoken": true, "include_prompt": true}), Some(Pooling::Last)),
            (json!({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}), None),
            (json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}), None),
            (json!({}), None),
        ] {
            assert_eq!(Pooling::read(&config).ok(), expected, "{config}");
        }
    }
}
