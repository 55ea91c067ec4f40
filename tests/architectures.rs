//! Every architecture on small random weights against candle-transformers, in f32 and on our kernels.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models as reference;
use engram_models::layers::WeightForm;
use engram_models::{LoadOptions, Model};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::runner::Runner;

const HIDDEN: usize = 64;
const FFN: usize = 96;
const VOCAB: usize = 160;
const LAYERS: usize = 3;

/// Names and shapes of a model, HF style.
struct Layout(Vec<(String, Vec<usize>)>);

impl Layout {
    fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let mut layout = Self(Vec::new());
        layout.add("model.embed_tokens.weight", &[VOCAB, HIDDEN]);
        layout.add("model.norm.weight", &[HIDDEN]);
        layout.add("lm_head.weight", &[VOCAB, HIDDEN]);
        for i in 0..LAYERS {
            layout.layer(i, "input_layernorm.weight", &[HIDDEN]);
            layout.layer(i, "post_attention_layernorm.weight", &[HIDDEN]);
            layout.layer(i, "self_attn.q_proj.weight", &[heads * head_dim, HIDDEN]);
            layout.layer(i, "self_attn.k_proj.weight", &[kv_heads * head_dim, HIDDEN]);
            layout.layer(i, "self_attn.v_proj.weight", &[kv_heads * head_dim, HIDDEN]);
            layout.layer(i, "self_attn.o_proj.weight", &[HIDDEN, heads * head_dim]);
        }
        layout
    }
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_owned(), shape.to_vec()));
    }
    fn layer(&mut self, i: usize, name: &str, shape: &[usize]) {
        self.add(&format!("model.layers.{i}.{name}"), shape);
    }
    fn gated(mut self) -> Self {
        for i in 0..LAYERS {
            self.layer(i, "mlp.gate_proj.weight", &[FFN, HIDDEN]);
            self.layer(i, "mlp.up_proj.weight", &[FFN, HIDDEN]);
            self.layer(i, "mlp.down_proj.weight", &[HIDDEN, FFN]);
        }
        self
    }
    fn qkv_bias(mut self, q: usize, kv: usize) -> Self {
        for i in 0..LAYERS {
            for (part, len) in [("q", q), ("k", kv), ("v", kv)] {
                self.layer(i, &format!("self_attn.{part}_proj.bias"), &[len]);
            }
        }
        self
    }
    fn head_norms(mut self, head_dim: usize) -> Self {
        for i in 0..LAYERS {
            self.layer(i, "self_attn.q_norm.weight", &[head_dim]);
            self.layer(i, "self_attn.k_norm.weight", &[head_dim]);
        }
        self
    }
    fn tied(mut self) -> Self {
        self.0.retain(|(name, _)| name != "lm_head.weight");
        self
    }

    /// Seeded random tensors: norms near 1, the rest small, so that activations stay in a sane range.
    fn tensors(&self) -> HashMap<String, Tensor> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut tensors = HashMap::new();
        for (name, shape) in &self.0 {
            let count: usize = shape.iter().product();
            let (center, spread) = match name.contains("norm.weight") {
                true => (1.0f32, 0.2),
                false if name.ends_with("bias") => (0.0, 0.3),
                false => (0.0, 1.7 / (*shape.last().unwrap_or(&1) as f32).sqrt()),
            };
            let values: Vec<f32> = (0..count).map(|_| center + spread * (rng.random::<f32>() * 2.0 - 1.0)).collect();
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).expect("shape and count agree");
            tensors.insert(name.clone(), tensor);
        }
        tensors
    }
}

fn write(dir: &Path, tensors: &HashMap<String, Tensor>, config: &Value) {
    candle_core::safetensors::save(tensors, dir.join("model.safetensors")).expect("write safetensors");
    std::fs::write(dir.join("config.json"), config.to_string()).expect("write config.json");
}

fn load(dir: &Path, form: WeightForm) -> Model {
    let options = LoadOptions { form: Some(form), ..LoadOptions::default() };
    Model::load_path(dir, &options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn prompt() -> Vec<u32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    (0..40).map(|_| rng.random_range(0..VOCAB as u32)).collect()
}

/// `last_logits(ids)` of the reference at several lengths against ours: the exact path to 1e-4, the kernels
/// (f32 weights, f16 KV) to 2e-2, and chunked against whole bit for bit.
fn check(
    tensors: &HashMap<String, Tensor>,
    config: Value,
    mut last_logits: impl FnMut(VarBuilder<'_>, &[u32]) -> Vec<f32>,
) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), tensors, &config);
    let ids = prompt();
    let exact = Runner::new(&load(dir.path(), WeightForm::Dense), 64, DType::F32).append(&ids);
    let model = load(dir.path(), WeightForm::Packed);
    let packed = Runner::new(&model, 64, DType::F16).append(&ids);
    for len in [1, 2, 17, 40] {
        let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
        let expected = last_logits(vb, &ids[..len]);
        let difference = worst(&exact[len - 1], &expected);
        assert!(difference < 1e-4, "exact path, {len} tokens: off by {difference}");
        let difference = worst(&packed[len - 1], &expected);
        assert!(difference < 2e-2, "kernels, {len} tokens: off by {difference}");
    }
    let mut chunked = Runner::new(&model, 64, DType::F16);
    let mut rows = chunked.append(&ids[..7]);
    rows.extend(chunked.append(&ids[7..8]));
    rows.extend(chunked.append(&ids[8..33]));
    rows.extend(chunked.append(&ids[33..]));
    assert!(rows == packed, "chunked differs from whole");
}

fn input(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids as a tensor")
}

fn flat(logits: candle_core::Result<Tensor>) -> Vec<f32> {
    logits.and_then(|l| l.flatten_all()).and_then(|l| l.to_vec1()).expect("reference logits")
}

fn base(architecture: &str, model_type: &str, heads: usize, kv_heads: usize) -> Value {
    json!({
        "architectures": [architecture], "model_type": model_type, "hidden_size": HIDDEN, "intermediate_size": FFN,
        "vocab_size": VOCAB, "num_hidden_layers": LAYERS, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "float32"
    })
}

fn with(mut config: Value, extra: Value) -> Value {
    if let (Some(config), Value::Object(extra)) = (config.as_object_mut(), extra) {
        config.extend(extra);
    }
    config
}

fn llama_reference(config: &Value) -> impl FnMut(VarBuilder<'_>, &[u32]) -> Vec<f32> + use<> {
    let config: reference::llama::LlamaConfig = serde_json::from_value(config.clone()).expect("llama config");
    let config = config.into_config(false);
    move |vb, ids| {
        let mut cache = reference::llama::Cache::new(false, DType::F32, &config, &Device::Cpu).expect("cache");
        let model = reference::llama::Llama::load(vb, &config).expect("llama");
        flat(model.forward(&input(ids), 0, &mut cache))
    }
}

#[test]
fn llama() {
    let config = base("LlamaForCausalLM", "llama", 4, 2);
    check(&Layout::new(4, 2, 16).gated().tensors(), config.clone(), llama_reference(&config));
}

#[test]
fn llama_tied_head() {
    let config = with(base("LlamaForCausalLM", "llama", 4, 1), json!({"tie_word_embeddings": true}));
    check(&Layout::new(4, 1, 16).gated().tied().tensors(), config.clone(), llama_reference(&config));
}

#[test]
fn llama3_rope_scaling() {
    let scaling = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}});
    let config = with(base("LlamaForCausalLM", "llama", 4, 2), scaling);
    check(&Layout::new(4, 2, 16).gated().tensors(), config.clone(), llama_reference(&config));
}

/// Granite's four constants, folded into llama's weights, must give llama's answer.
#[test]
fn granite() {
    let scales = json!({"embedding_multiplier": 6.0, "residual_multiplier": 0.22, "attention_multiplier": 0.125,
        "logits_scaling": 4.0});
    let config = with(base("GraniteForCausalLM", "granite", 4, 2), scales);
    let tensors = Layout::new(4, 2, 16).gated().tensors();
    let folded: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| {
            let scale = match name.as_str() {
                "model.embed_tokens.weight" => 6.0,
                "lm_head.weight" => 1.0 / 4.0,
                // llama scales scores by 1 / sqrt(16)
                n if n.contains("q_proj") => 0.125 * 4.0,
                n if n.contains("o_proj") || n.contains("down_proj") => 0.22,
                _ => 1.0,
            };
            (name.clone(), tensor.affine(scale, 0.0).expect("scale"))
        })
        .collect();
    let llama = base("LlamaForCausalLM", "llama", 4, 2);
    let mut reference = llama_reference(&llama);
    check(&tensors, config, |_, ids| {
        reference(VarBuilder::from_tensors(folded.clone(), DType::F32, &Device::Cpu), ids)
    });
}

#[test]
fn mistral_sliding_window() {
    let config = with(base("MistralForCausalLM", "mistral", 4, 2), json!({"sliding_window": 8}));
    // The reference counts the window without the query itself; HF, llama.cpp and we count it in.
    let parsed: reference::mistral::Config =
        serde_json::from_value(with(config.clone(), json!({"use_flash_attn": false, "sliding_window": 7})))
            .expect("mistral config");
    check(&Layout::new(4, 2, 16).gated().tensors(), config, |vb, ids| {
        let mut model = reference::mistral::Model::new(&parsed, vb).expect("mistral");
        flat(model.forward(&input(ids), 0))
    });
}

#[test]
fn qwen2() {
    let config = with(
        base("Qwen2ForCausalLM", "qwen2", 4, 2),
        json!({"use_sliding_window": false, "sliding_window": 128, "max_window_layers": LAYERS}),
    );
    let parsed: reference::qwen2::Config = serde_json::from_value(config.clone()).expect("qwen2 config");
    check(&Layout::new(4, 2, 16).gated().qkv_bias(64, 32).tensors(), config, |vb, ids| {
        let mut model = reference::qwen2::ModelForCausalLM::new(&parsed, vb).expect("qwen2");
        flat(model.forward(&input(ids), 0))
    });
}

fn qwen3_config(model_type: &str, architecture: &str) -> Value {
    with(
        base(architecture, model_type, 4, 2),
        json!({"head_dim": 32, "attention_bias": false, "use_sliding_window": false, "sliding_window": null,
            "max_window_layers": LAYERS}),
    )
}

#[test]
fn qwen3() {
    let config = qwen3_config("qwen3", "Qwen3ForCausalLM");
    let parsed: reference::qwen3::Config = serde_json::from_value(config.clone()).expect("qwen3 config");
    check(&Layout::new(4, 2, 32).gated().head_norms(32).tensors(), config, |vb, ids| {
        let mut model = reference::qwen3::ModelForCausalLM::new(&parsed, vb).expect("qwen3");
        flat(model.forward(&input(ids), 0))
    });
}

#[test]
fn qwen3_moe() {
    let (experts, width) = (6, 32);
    let config = with(
        qwen3_config("qwen3_moe", "Qwen3MoeForCausalLM"),
        json!({"decoder_sparse_step": 1, "moe_intermediate_size": width, "num_experts_per_tok": 2,
            "num_experts": experts, "norm_topk_prob": true, "mlp_only_layers": []}),
    );
    let mut layout = Layout::new(4, 2, 32).head_norms(32);
    for i in 0..LAYERS {
        layout.layer(i, "mlp.gate.weight", &[experts, HIDDEN]);
        for e in 0..experts {
            layout.layer(i, &format!("mlp.experts.{e}.gate_proj.weight"), &[width, HIDDEN]);
            layout.layer(i, &format!("mlp.experts.{e}.up_proj.weight"), &[width, HIDDEN]);
            layout.layer(i, &format!("mlp.experts.{e}.down_proj.weight"), &[HIDDEN, width]);
        }
    }
    let parsed: reference::qwen3_moe::Config = serde_json::from_value(config.clone()).expect("qwen3_moe config");
    check(&layout.tensors(), config, |vb, ids| {
        let mut model = reference::qwen3_moe::ModelForCausalLM::new(&parsed, vb).expect("qwen3_moe");
        flat(model.forward(&input(ids), 0))
    });
}

#[test]
fn starcoder2() {
    let mut config = with(
        base("Starcoder2ForCausalLM", "starcoder2", 4, 2),
        json!({"use_bias": true, "norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", "sliding_window": 8,
            "tie_word_embeddings": true}),
    );
    config.as_object_mut().expect("an object").remove("rms_norm_eps");
    let mut layout = Layout::new(4, 2, 16).tied().qkv_bias(64, 32);
    layout.add("model.norm.bias", &[HIDDEN]);
    for i in 0..LAYERS {
        layout.layer(i, "input_layernorm.bias", &[HIDDEN]);
        layout.layer(i, "post_attention_layernorm.bias", &[HIDDEN]);
        layout.layer(i, "self_attn.o_proj.bias", &[HIDDEN]);
        layout.layer(i, "mlp.c_fc.weight", &[FFN, HIDDEN]);
        layout.layer(i, "mlp.c_fc.bias", &[FFN]);
        layout.layer(i, "mlp.c_proj.weight", &[HIDDEN, FFN]);
        layout.layer(i, "mlp.c_proj.bias", &[HIDDEN]);
    }
    let reference_config = with(config.clone(), json!({"sliding_window": 7}));
    let parsed: reference::starcoder2::Config = serde_json::from_value(reference_config).expect("starcoder2 config");
    check(&layout.tensors(), config, |vb, ids| {
        let mut model = reference::starcoder2::Model::new(&parsed, vb).expect("starcoder2");
        flat(model.forward(&input(ids), 0))
    });
}
