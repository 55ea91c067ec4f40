//! Configurations that cannot be right: absurd numbers, heads that do not divide, kinds that are not known.

use engram_models::ModelError;
use engram_models::config::ModelConfig;
use engram_models::gguf::{Array, Gguf, GgufWriter, Value};
use serde_json::{Value as Json, json};

use crate::whole_message;

/// A `config.json` as it should be, with one change; `null` takes a field away.
fn changed(model_type: &str, changes: &Json) -> String {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 10, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": if model_type == "starcoder2" { "gelu_pytorch_tanh" } else { "silu" },
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.to_string()
}

#[test]
fn each_bad_config_json_is_refused_by_key() {
    let known = ["llama", "mistral", "granite", "qwen2", "qwen3", "qwen3_moe", "starcoder2"];
    for model_type in known {
        ModelConfig::from_hf(&changed(model_type, &json!({}))).unwrap();
    }
    let cases = [
        ("llama", json!({"hidden_size": null}), "hidden_size"),
        ("llama", json!({"hidden_size": 0}), "hidden"),
        ("llama", json!({"hidden_size": "64"}), "hidden_size"),
        ("llama", json!({"hidden_size": -64}), "hidden_size"),
        ("llama", json!({"hidden_size": 64.5}), "hidden_size"),
        ("llama", json!({"hidden_size": u64::MAX}), "num_attention_heads"),
        ("llama", json!({"hidden_size": 1u64 << 40}), "hidden"),
        ("llama", json!({"num_hidden_layers": 0}), "layers"),
        ("llama", json!({"num_hidden_layers": 1_000_000}), "layers"),
        ("llama", json!({"num_attention_heads": 0}), "num_attention_heads"),
        ("llama", json!({"num_attention_heads": 7}), "num_attention_heads"),
        ("llama", json!({"num_attention_heads": 7, "head_dim": 16}), "kv_heads"),
        ("llama", json!({"num_key_value_heads": 0}), "kv_heads"),
        ("llama", json!({"num_key_value_heads": 3}), "kv_heads"),
        ("llama", json!({"num_key_value_heads": 8}), "kv_heads"),
        ("qwen2", json!({"num_key_value_heads": null}), "num_key_value_heads"),
        ("llama", json!({"head_dim": 0}), "head_dim"),
        ("llama", json!({"head_dim": 15}), "rope.dim"),
        ("llama", json!({"head_dim": 1u64 << 50}), "head_dim"),
        ("llama", json!({"vocab_size": 1u64 << 33}), "vocab_size"),
        ("llama", json!({"intermediate_size": 1u64 << 62}), "ffn"),
        ("llama", json!({"max_position_embeddings": u64::MAX}), "context_len"),
        ("llama", json!({"rms_norm_eps": 0.0}), "norm_eps"),
        ("llama", json!({"rms_norm_eps": -1e-5}), "norm_eps"),
        ("llama", json!({"rms_norm_eps": 1e300}), "norm_eps"),
        ("llama", json!({"rope_theta": 0}), "rope.theta"),
        ("llama", json!({"partial_rotary_factor": 2.0}), "rope.dim"),
        ("llama", json!({"rope_scaling": 3}), "rope_scaling"),
        ("llama", json!({"rope_scaling": {"type": "longrope"}}), "rope_scaling.rope_type"),
        ("llama", json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        ("llama", json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "rope.scaling.factor"),
        (
            "llama",
            json!({"rope_scaling": {"type": "yarn", "factor": 1e38, "original_max_position_embeddings": 9}}),
            "context_len",
        ),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}}),
            "rope.scaling.high_freq_factor",
        ),
        ("llama", json!({"hidden_act": "relu"}), "hidden_act"),
        ("llama", json!({"quantization_config": {"quant_method": "awq"}}), "quantization_config"),
        ("mistral", json!({"sliding_window": 0}), "sliding_window"),
        ("qwen3_moe", json!({"num_experts": 0}), "moe.experts"),
        ("qwen3_moe", json!({"num_experts": 1u64 << 32}), "moe.experts"),
        ("qwen3_moe", json!({"num_experts_per_tok": 9}), "moe.experts_per_token"),
        ("qwen3_moe", json!({"moe_intermediate_size": null}), "moe_intermediate_size"),
        ("qwen3_moe", json!({"decoder_sparse_step": 2}), "decoder_sparse_step"),
        ("qwen3_moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers"),
        ("starcoder2", json!({"norm_type": "rms_norm"}), "norm_type"),
        ("granite", json!({"logits_scaling": 0.0}), "logit_scale"),
        ("llama", json!({"model_type": null}), "model_type"),
    ];
    for (model_type, change, expected) in cases {
        let error = ModelConfig::from_hf(&changed(model_type, &change)).expect_err(&change.to_string());
        assert!(matches!(&error, ModelError::Config { key, .. } if key == expected), "{change}: {error:?}");
        assert!(error.to_string().len() < 400, "{error}");
    }
}

#[test]
fn what_is_no_config_json_is_told() {
    for text in ["", "[]", "null", "{", "{\"hidden_size\": 1e999}", "\u{feff}{}", &"[".repeat(100_000)] {
        let error = ModelConfig::from_hf(text).unwrap_err();
        assert!(matches!(error, ModelError::ConfigJson { .. }), "{error:?}");
    }
    let error = ModelConfig::from_hf(&changed("gemma2", &json!({}))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "architecture `gemma2` is not supported, known: llama, mistral, granite, qwen2, qwen3, qwen3_moe, starcoder2"
    );
}

/// A GGUF llama as it should be, with one key changed or taken away.
fn gguf_config(name: &str, value: Option<Value>) -> Result<ModelConfig, ModelError> {
    let mut metadata = vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(2)),
        ("llama.context_length", Value::U32(128)),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(96)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    metadata.retain(|(key, _)| *key != name);
    metadata.extend(value.map(|value| (name, value)));
    let mut writer = GgufWriter::new();
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    writer.tensor_f32("token_embd.weight", &[10, 64], &[0.0; 640])?;
    ModelConfig::from_gguf(&Gguf::from_bytes(writer.to_bytes()).unwrap())
}

#[test]
fn each_bad_gguf_configuration_is_refused_by_key() {
    gguf_config("x", None).unwrap();
    let text = |text: &str| Some(Value::String(text.into()));
    let cases = [
        ("general.architecture", None, "Metadata(Missing", "general.architecture"),
        ("general.architecture", Some(Value::U32(1)), "Metadata(WrongType", "expected string"),
        ("general.architecture", text("gemma3"), "UnknownArchitecture", "gemma3"),
        ("llama.block_count", None, "Metadata(Missing", "llama.block_count"),
        ("llama.block_count", text("2"), "Metadata(WrongType", "expected u64"),
        ("llama.block_count", Some(Value::I32(-1)), "Metadata(WrongType", "I32(-1)"),
        ("llama.block_count", Some(Value::U64(u64::MAX)), "Config", "layers"),
        ("llama.embedding_length", Some(Value::U32(128)), "WrongShape", "[10, 128]"),
        ("llama.attention.head_count", Some(Value::U32(0)), "Config", "head_count"),
        ("llama.attention.head_count", Some(Value::Array(Array::U32(vec![4, 2]))), "Config", "layer to layer"),
        ("llama.attention.head_count_kv", Some(Value::U32(3)), "Config", "kv_heads"),
        ("llama.attention.key_length", Some(Value::U32(1 << 30)), "Config", "head_dim"),
        ("llama.attention.layer_norm_rms_epsilon", None, "Metadata(Missing", "rms_epsilon"),
        ("llama.attention.layer_norm_rms_epsilon", Some(Value::F32(f32::NAN)), "Config", "norm_eps"),
        ("llama.context_length", Some(Value::U64(1 << 40)), "Config", "context_len"),
        ("llama.rope.freq_base", Some(Value::F32(f32::INFINITY)), "Config", "rope.theta"),
        ("llama.rope.dimension_count", Some(Value::U32(32)), "Config", "rope.dim"),
        ("llama.rope.dimension_count", Some(Value::U32(7)), "Config", "even"),
        ("llama.rope.scaling.type", text("longrope"), "Config", "longrope"),
        ("llama.rope.scaling.type", text("yarn"), "Config", "yarn needs it"),
        ("llama.rope.scaling.factor", Some(Value::F32(-4.0)), "Config", "rope.scaling.factor"),
        ("llama.expert_count", Some(Value::U32(8)), "Config", "only dense"),
        ("llama.logit_scale", Some(Value::F32(f32::INFINITY)), "Config", "logit_scale"),
    ];
    for (key, value, variant, says) in cases {
        let error = gguf_config(key, value.clone()).expect_err(key);
        let message = whole_message(&error);
        assert!(format!("{error:?}").starts_with(variant), "{key} {value:?}: {error:?}");
        assert!(message.contains(says), "{key} {value:?}: {message}");
    }
}
