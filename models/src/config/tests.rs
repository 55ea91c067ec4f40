use serde_json::{Value as Json, json};

use super::*;
use crate::gguf::{Array, GgufWriter, Value};

/// Metadata of a small GGUF llama, with changes; `None` takes a key away.
fn gguf_with(
    architecture: &str,
    changes: &[(&str, Option<Value>)],
    tensors: &[&str],
) -> Result<ModelConfig, ModelError> {
    let key = |key: &str| format!("{architecture}.{key}");
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(architecture.into())),
        (key("block_count"), Value::U32(2)),
        (key("context_length"), Value::U32(8192)),
        (key("embedding_length"), Value::U32(64)),
        (key("feed_forward_length"), Value::U32(96)),
        (key("attention.head_count"), Value::U32(4)),
        (key("attention.head_count_kv"), Value::U32(2)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (key("attention.layer_norm_epsilon"), Value::F32(2e-5)),
        (key("rope.freq_base"), Value::F32(5e5)),
    ];
    for (name, value) in changes {
        let name = if name.starts_with("general.") { (*name).to_owned() } else { key(name) };
        metadata.retain(|(key, _)| *key != name);
        metadata.extend(value.clone().map(|value| (name, value)));
    }
    let mut writer = GgufWriter::new();
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    writer.tensor_f32("token_embd.weight", &[10, 64], &[0.0; 640])?;
    for name in tensors {
        writer.tensor_f32(*name, &[8], &[1.0; 8])?;
    }
    ModelConfig::from_gguf(&Gguf::from_bytes(writer.to_bytes()).unwrap())
}

fn hf_with(model_type: &str, changes: Json) -> Result<ModelConfig, ModelError> {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 10, "max_position_embeddings": 8192,
        "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_hf(&config.to_string())
}

#[test]
fn gguf_and_config_json_of_one_model_agree_but_for_the_rope_layout() {
    let from_gguf = gguf_with("llama", &[], &["output.weight"]).unwrap();
    let mut from_hf = hf_with("llama", json!({})).unwrap();
    assert_eq!(from_gguf.rope.layout, RopeLayout::Interleaved);
    assert_eq!(from_hf.rope.layout, RopeLayout::Neox);
    from_hf.rope.layout = RopeLayout::Interleaved;
    assert_eq!(from_gguf, from_hf);
    assert_eq!((from_gguf.head_dim, from_gguf.rope.dim, from_gguf.vocab_size), (16, 16, 10));
    assert!(!from_gguf.tie_embeddings);
}

#[test]
fn tensors_tell_what_metadata_does_not() {
    let config = gguf_with("qwen2", &[], &["blk.0.attn_q.bias"]).unwrap();
    assert!(config.tie_embeddings && config.attention_bias && !config.mlp_bias && !config.qk_norm);
    assert_eq!(config.rope.layout, RopeLayout::Neox);
    let config = gguf_with("qwen3", &[("attention.key_length", Some(Value::U32(32)))], &["blk.0.attn_q_norm.weight"]);
    let config = config.unwrap();
    assert!(config.qk_norm);
    assert_eq!(config.head_dim, 32);
    let config = gguf_with("starcoder2", &[], &["blk.0.ffn_up.bias"]).unwrap();
    assert_eq!((config.norm, config.norm_eps, config.mlp_bias), (NormKind::Layer, 2e-5, true));
    assert_eq!(config.sliding_window, Some(4096));
}

#[test]
fn rope_scalings_of_gguf() {
    let text = |text: &str| Some(Value::String(text.into()));
    type Case<'a> = (&'a [(&'a str, Option<Value>)], &'a [&'a str], RopeScaling);
    let cases: [Case<'_>; 6] = [
        (&[], &[], RopeScaling::None),
        (&[("rope.scale_linear", Some(Value::F32(4.0)))], &[], RopeScaling::Linear { factor: 4.0 }),
        (
            &[("rope.scaling.type", text("linear")), ("rope.scaling.factor", Some(Value::F32(2.0)))],
            &[],
            RopeScaling::Linear { factor: 2.0 },
        ),
        (
            &[("rope.scaling.type", text("none")), ("rope.scaling.factor", Some(Value::F32(2.0)))],
            &[],
            RopeScaling::None,
        ),
        (&[], &["rope_freqs.weight"], RopeScaling::Factors),
        (
            &[
                ("rope.scaling.type", text("yarn")),
                ("rope.scaling.factor", Some(Value::F32(4.0))),
                ("rope.scaling.original_context_length", Some(Value::U32(2048))),
            ],
            &[],
            RopeScaling::Yarn {
                factor: 4.0,
                original_context: 2048,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 0.1 * 4f32.ln() + 1.0,
            },
        ),
    ];
    for (changes, tensors, expected) in cases {
        assert_eq!(gguf_with("llama", changes, tensors).unwrap().rope.scaling, expected);
    }
}

#[test]
fn rope_scalings_of_config_json() {
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let with = |mut object: Json, key: &str, value: Json| {
        object[key] = value;
        object
    };
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let new = json!({"rope_scaling": with(llama3.clone(), "rope_type", json!("llama3"))});
    let old = json!({"rope_scaling": with(llama3.clone(), "type", json!("llama3"))});
    let parameters = with(with(llama3, "rope_type", json!("llama3")), "rope_theta", json!(7.0));
    for (changes, theta) in [(new, 5e5), (old, 5e5), (json!({"rope_parameters": parameters, "rope_theta": null}), 7.0)]
    {
        let rope = hf_with("llama", changes).unwrap().rope;
        assert_eq!((rope.scaling, rope.theta), (expected.clone(), theta));
    }
    let linear = hf_with("llama", json!({"rope_scaling": {"type": "linear", "factor": 4.0}})).unwrap();
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}});
    let yarn = hf_with("qwen2", yarn).unwrap();
    assert_eq!(yarn.context_len, 32768);
    assert!(matches!(yarn.rope.scaling, RopeScaling::Yarn { factor: 4.0, original_context: 8192, .. }));
    for none in [json!(null), json!({"rope_type": "default"})] {
        assert_eq!(hf_with("llama", json!({"rope_scaling": none})).unwrap().rope.scaling, RopeScaling::None);
    }
}

#[test]
fn sliding_windows() {
    let cases = [
        ("mistral", json!({"sliding_window": 4096}), Some(4096), 0),
        ("mistral", json!({"sliding_window": null}), None, 0),
        ("mistral", json!({}), Some(4096), 0),
        ("starcoder2", json!({"sliding_window": 4096, "norm_epsilon": 1e-5}), Some(4096), 0),
        ("llama", json!({"sliding_window": 4096}), None, 0),
        ("qwen2", json!({"sliding_window": 4096, "use_sliding_window": false}), None, 0),
        ("qwen2", json!({"sliding_window": 4096, "use_sliding_window": true, "max_window_layers": 1}), Some(4096), 1),
        ("qwen2", json!({"sliding_window": 4096, "use_sliding_window": true, "max_window_layers": 2}), None, 2),
    ];
    for (model_type, changes, window, from) in cases {
        let config = hf_with(model_type, changes.clone()).unwrap();
        assert_eq!((config.sliding_window, config.window_from_layer), (window, from), "{model_type} {changes}");
        assert_eq!(config.window(0), window.filter(|_| from == 0));
        assert_eq!(config.window(1), window);
    }
}

#[test]
fn granite_scalars() {
    let hf = json!({"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.0625,
        "logits_scaling": 8.0});
    let scales = [
        ("embedding_scale", Some(Value::F32(12.0))),
        ("residual_scale", Some(Value::F32(0.22))),
        ("attention.scale", Some(Value::F32(0.0625))),
        ("logit_scale", Some(Value::F32(8.0))),
    ];
    for config in [hf_with("granite", hf).unwrap(), gguf_with("granite", &scales, &[]).unwrap()] {
        assert_eq!(config.architecture, Architecture::Llama);
        assert_eq!((config.embedding_scale, config.residual_scale), (Some(12.0), Some(0.22)));
        assert_eq!((config.attention_scale, config.logit_scale), (Some(0.0625), Some(0.125)));
    }
}

#[test]
fn experts() {
    let hf = json!({"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": true});
    let keys = [
        ("expert_count", Some(Value::U32(8))),
        ("expert_used_count", Some(Value::U32(2))),
        ("expert_feed_forward_length", Some(Value::U32(32))),
        ("feed_forward_length", None),
    ];
    for config in [hf_with("qwen3_moe", hf).unwrap(), gguf_with("qwen3moe", &keys, &[]).unwrap()] {
        let expected = MoeConfig { experts: 8, experts_per_token: 2, expert_ffn: 32, norm_topk: true };
        assert_eq!(config.moe, Some(expected));
        assert_eq!(config.architecture, Architecture::Qwen3Moe);
    }
}

#[test]
fn a_count_a_layer_is_read_where_all_are_the_same() {
    let layers = |counts: &[u32]| Some(Value::Array(Array::U32(counts.to_vec())));
    let same = gguf_with("llama", &[("attention.head_count_kv", layers(&[2, 2]))], &[]).unwrap();
    assert_eq!(same.kv_heads, 2);
    for differing in [&[2, 4][..], &[]] {
        let error = gguf_with("llama", &[("attention.head_count_kv", layers(differing))], &[]).unwrap_err();
        assert!(matches!(&error, ModelError::Config { key, .. } if key == "llama.attention.head_count_kv"), "{error}");
    }
}

#[test]
fn a_checkpoint_is_opened_with_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let (weights, config) = (dir.path().join("model.safetensors"), dir.path().join("config.json"));
    let header = json!({
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]},
        "model.layers.0.self_attn.q_proj.bias": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
    });
    let header = header.to_string();
    std::fs::write(&weights, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 24]].concat()).unwrap();
    let mut json = json!({
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 2, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "hidden_act": "silu",
    });
    std::fs::write(&config, json.to_string()).unwrap();
    let (read, view) = open_safetensors(&[&weights], &config).unwrap();
    assert!(read.attention_bias && read.tie_embeddings);
    assert_eq!(view.floats("blk.0.attn_q.bias", 4).unwrap(), [0.0; 4]);

    json["tie_word_embeddings"] = json!(false);
    std::fs::write(&config, json.to_string()).unwrap();
    let error = open_safetensors(&[&weights], &config).unwrap_err();
    assert!(matches!(&error, ModelError::MissingTensor { name } if name.contains("lm_head.weight")), "{error}");
}
