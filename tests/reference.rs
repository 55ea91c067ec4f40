//! The exact path on the two real files against candle-transformers on the same dequantised weights, and the
//! normal path against the exact one.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models as reference;
use engram_kernels::dequantize;
use engram_models::gguf::Gguf;
use engram_models::layers::WeightForm;
use engram_models::tokenizer::Specials;
use engram_models::{LoadOptions, Model, ModelConfig};
use serde_json::json;

use crate::support::runner::Runner;
use crate::support::{QWEN, SMOLLM2, gguf, tokenizer};

const CODE: &str =
    "def binary_search(items, target):\n    low, high = 0, len(items) - 1\n    while low <= high:\n        middle";

/// All tensors of a GGUF in f32, by their HF names; q and k rows back in HF's order where the file permutes them.
fn dequantised(gguf: &Gguf, config: &ModelConfig, permuted: bool) -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    for info in gguf.tensors() {
        let mut values = vec![0f32; info.shape.iter().product()];
        dequantize(info.ty, gguf.tensor_data(&info.name).expect("tensor bytes"), &mut values).expect("dequantize");
        let mut tensor = Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu).expect("tensor");
        let heads = match info.name.as_str() {
            name if name.contains("attn_q.") => Some(config.heads),
            name if name.contains("attn_k.") => Some(config.kv_heads),
            _ => None,
        };
        if let (true, Some(heads)) = (permuted, heads) {
            let (rows, cols) = tensor.dims2().expect("a matrix");
            tensor = tensor
                .reshape((heads, rows / heads / 2, 2, cols))
                .and_then(|t| t.transpose(1, 2))
                .and_then(|t| t.reshape((rows, cols)))
                .expect("rows of whole heads");
        }
        tensors.insert(hf_name(&info.name), tensor);
    }
    tensors
}

fn hf_name(gguf: &str) -> String {
    let renames = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.", "model.layers."),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let mut name = gguf.to_owned();
    for (from, to) in renames {
        name = name.replace(from, to);
    }
    if name == "output.weight" { "lm_head.weight".to_owned() } else { name }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    logits.iter().map(|&l| f64::from(l - max) - total.ln()).collect()
}

/// Mean KL divergence of `other` from `truth` over rows.
fn mean_kl(truth: &[Vec<f32>], other: &[Vec<f32>]) -> f64 {
    let row = |(t, o): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let (t, o) = (log_softmax(t), log_softmax(o));
        t.iter().zip(&o).map(|(t, o)| t.exp() * (t - o)).sum()
    };
    truth.iter().zip(other).map(row).sum::<f64>() / truth.len() as f64
}

fn check(
    id: &str,
    kl_limit: f64,
    last_logits: impl Fn(VarBuilder<'_>, &ModelConfig, &Tensor) -> candle_core::Result<Tensor>,
) {
    let path = gguf(id);
    let ids = tokenizer(id).encode(CODE, Specials::AsText);
    let load = |form| {
        let options = LoadOptions { form: Some(form), ..LoadOptions::default() };
        Model::load_path(&path, &options).unwrap_or_else(|e| panic!("load {id}: {e}"))
    };
    let exact_model = load(WeightForm::Dense);
    let exact = Runner::new(&exact_model, 256, DType::F32).append(&ids);
    let config = exact_model.config().clone();
    drop(exact_model);

    let file = Gguf::open(&path).expect("open");
    let tensors = dequantised(&file, &config, id == SMOLLM2);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let input = Tensor::new(ids.as_slice(), &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
    let expected: Vec<f32> = last_logits(vb, &config, &input)
        .and_then(|l| l.flatten_all())
        .and_then(|l| l.to_vec1())
        .expect("reference logits");
    let (ours, theirs) = (log_softmax(&exact[ids.len() - 1]), log_softmax(&expected));
    let difference = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 1e-4, "{id}: exact path is off by {difference} in log-probability");

    let packed = Runner::new(&load(WeightForm::Packed), 256, DType::F16).append(&ids);
    let kl = mean_kl(&exact, &packed);
    println!("{id}: exact path within {difference:.1e}; normal path mean KL {kl:.2e}");
    assert!(kl < kl_limit, "{id}: mean KL divergence of the normal path from the exact one is {kl}");
}

#[test]
fn qwen_exact_path_is_the_model() {
    check(QWEN, 5e-3, |vb, config, input| {
        let config: reference::qwen2::Config = serde_json::from_value(json!({
            "vocab_size": config.vocab_size, "hidden_size": config.hidden, "intermediate_size": config.ffn,
            "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads, "max_position_embeddings": 4096, "sliding_window": 4096,
            "max_window_layers": config.layers, "tie_word_embeddings": false, "rope_theta": config.rope.theta,
            "rms_norm_eps": config.norm_eps, "use_sliding_window": false, "hidden_act": "silu"
        }))
        .expect("a qwen2 config");
        reference::qwen2::ModelForCausalLM::new(&config, vb)?.forward(input, 0)
    });
}

#[test]
fn smollm2_exact_path_is_the_model() {
    check(SMOLLM2, 5e-3, |vb, config, input| {
        let config: reference::llama::LlamaConfig = serde_json::from_value(json!({
            "vocab_size": config.vocab_size, "hidden_size": config.hidden, "intermediate_size": config.ffn,
            "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads, "max_position_embeddings": 8192,
            "rope_theta": config.rope.theta, "rms_norm_eps": config.norm_eps, "tie_word_embeddings": true
        }))
        .expect("a llama config");
        let config = config.into_config(false);
        let mut cache = reference::llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
        reference::llama::Llama::load(vb, &config)?.forward(input, 0, &mut cache)
    });
}
