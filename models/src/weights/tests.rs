use super::*;
use crate::config::ModelConfig;
use crate::gguf::GgufWriter;
use crate::safetensors::Shards;

/// A safetensors file of tensors filled with their number: f32, or int64 where `I64` follows the name.
fn shards(tensors: &[(&str, &[usize])]) -> Shards {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (number, (name, shape)) in tensors.iter().enumerate() {
        let start = data.len();
        let count: usize = shape.iter().product();
        let (dtype, bytes) = match name.ends_with("I64") {
            true => ("I64", (number as u64).to_le_bytes().to_vec()),
            false => ("F32", (number as f32).to_le_bytes().to_vec()),
        };
        (0..count).for_each(|_| data.extend(&bytes));
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.trim_end_matches("I64").to_owned(), info);
    }
    let header = serde_json::to_vec(&header).unwrap();
    Shards::from_bytes([&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap()
}

fn config(json: serde_json::Value) -> ModelConfig {
    let mut all = serde_json::json!({
        "model_type": "qwen3_moe", "hidden_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4,
        "num_hidden_layers": 1, "vocab_size": 2, "intermediate_size": 3, "max_position_embeddings": 16,
        "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 3,
    });
    json.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    ModelConfig::from_hf(&all.to_string()).unwrap()
}

#[test]
fn a_gguf_stack_of_experts_is_sliced() {
    let mut writer = GgufWriter::new();
    let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
    writer.tensor_f32("blk.0.ffn_up_exps.weight", &[2, 3, 2], &values).unwrap();
    writer.tensor_f32("flat", &[12], &values).unwrap();
    let file = Gguf::from_bytes(writer.to_bytes()).unwrap();
    let second = file.expert_bytes("blk.0.ffn_up_exps.weight", 1).unwrap();
    assert_eq!((second.len(), &second[..4]), (24, &6.0f32.to_le_bytes()[..]));
    let past = file.expert_bytes("blk.0.ffn_up_exps.weight", 2).unwrap_err();
    assert!(matches!(past, ModelError::NoSuchExpert { expert: 2, experts: 2, .. }), "{past}");
    assert!(matches!(file.expert_bytes("flat", 0), Err(ModelError::NoSuchExpert { experts: 0, .. })));
    assert_eq!(file.floats("flat", 12).unwrap(), values);
}

#[test]
fn required_shapes_are_checked_and_named() {
    let mut writer = GgufWriter::new();
    writer.tensor_f32("a", &[2, 3], &[0.0; 6]).unwrap();
    let file = Gguf::from_bytes(writer.to_bytes()).unwrap();
    assert_eq!(file.require("a", &[2, 3]).unwrap().ty, GgmlType::F32);
    let wrong = file.require("a", &[3, 2]).unwrap_err().to_string();
    assert_eq!(wrong, "tensor `a` has shape [2, 3], the model's configuration asks for [3, 2]");
    assert!(matches!(file.require("b", &[1]), Err(ModelError::MissingTensor { .. })));
}

#[test]
fn a_checkpoint_answers_to_gguf_names() {
    let names = ["gate_proj", "up_proj", "down_proj"]
        .map(|part| [0, 1].map(|expert| (format!("model.layers.0.mlp.experts.{expert}.{part}.weight"), [3usize, 4])));
    let mut tensors: Vec<(&str, &[usize])> =
        names.iter().flatten().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
    tensors.push(("model.embed_tokens.weight", &[2, 4]));
    tensors.push(("model.layers.0.self_attn.q_proj.weight", &[4, 4]));
    tensors.push(("lm_head.weight", &[2, 4]));
    tensors.push(("model.norm.weightI64", &[4]));
    let weights = HfWeights::new(shards(&tensors), &config(serde_json::json!({})));

    assert_eq!(weights.require("blk.0.attn_q.weight", &[4, 4]).unwrap().ty, GgmlType::F32);
    assert_eq!(weights.info("blk.0.ffn_up_exps.weight").unwrap().shape, [2, 3, 4]);
    assert_eq!(weights.expert_bytes("blk.0.ffn_up_exps.weight", 1).unwrap()[..4], 3.0f32.to_le_bytes());
    assert!(matches!(weights.expert_bytes("blk.0.ffn_up_exps.weight", 2), Err(ModelError::NoSuchExpert { .. })));
    assert!(weights.bytes("blk.0.ffn_up_exps.weight").is_err());
    assert_eq!(weights.bytes("output.weight").unwrap()[..4], 8.0f32.to_le_bytes());
    let missing = weights.require("blk.0.attn_k.weight", &[4, 4]).unwrap_err().to_string();
    assert!(missing.contains("blk.0.attn_k.weight (model.layers.0.self_attn.k_proj.weight)"), "{missing}");
    let dtype = weights.require("output_norm.weight", &[4]).unwrap_err();
    assert!(matches!(dtype, ModelError::UnsupportedDtype { .. }), "{dtype}");
}

#[test]
fn a_tied_head_is_not_shown_and_a_bare_decoder_has_no_prefix() {
    let tied = config(serde_json::json!({"model_type": "llama", "tie_word_embeddings": true}));
    let files = shards(&[("embed_tokens.weight", &[2, 4]), ("norm.weight", &[4]), ("lm_head.weight", &[2, 4])]);
    let weights = HfWeights::new(files, &tied);
    assert!(weights.info("output.weight").is_none());
    assert_eq!(weights.floats("output_norm.weight", 4).unwrap(), [1.0; 4]);
    assert_eq!(weights.require("token_embd.weight", &[2, 4]).unwrap().shape, [2, 4]);
}
