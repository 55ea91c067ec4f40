//! Thousands of seeded random changes to good files: whatever they become, reading them neither panics nor takes
//! memory beyond bounds, and what is still read can be used in full.

use engram_models::config::ModelConfig;
use engram_models::gguf::{Array, Gguf, GgufWriter, Value};
use engram_models::safetensors::Shards;
use engram_models::weights::Weights;

use super::allocator::peak_of;
use crate::allowed;

/// SplitMix64 (<https://doi.org/10.1145/2660193.2660195>): small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One to eight changes: a bit, a byte, eight bytes of an extreme number, a cut, a repeated or removed stretch.
fn mutate(random: &mut Random, good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        let Some(byte) = bytes.get_mut(at) else { continue };
        match random.below(10) {
            0..3 => *byte ^= 1 << random.below(8),
            3..5 => *byte = random.next() as u8,
            5..7 => {
                let extremes = [0, 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, u64::MAX, u64::MAX - 31];
                let number = extremes[random.below(extremes.len())].to_le_bytes();
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            7 => bytes.truncate(at),
            8 => drop(bytes.drain(at..bytes.len().min(at + 16))),
            _ => {
                let end = bytes.len().min(at + 16);
                let stretch = bytes[at..end].to_vec();
                bytes.splice(at..at, stretch);
            }
        }
    }
    bytes
}

/// A small llama with a vocabulary.
fn good_gguf() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .metadata("general.architecture", Value::String("llama".into()))
        .metadata("llama.block_count", Value::U32(1))
        .metadata("llama.context_length", Value::U32(64))
        .metadata("llama.embedding_length", Value::U32(8))
        .metadata("llama.feed_forward_length", Value::U32(12))
        .metadata("llama.attention.head_count", Value::U32(2))
        .metadata("llama.attention.head_count_kv", Value::U32(1))
        .metadata("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .metadata(
            "tokenizer.ggml.tokens",
            Value::Array(Array::String(["<s>", "a", "é", "ab"].map(String::from).into())),
        )
        .metadata("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![3, 1, 1, 1])))
        .metadata("tokenizer.ggml.add_bos_token", Value::Bool(true));
    writer.tensor_f32("token_embd.weight", &[4, 8], &[0.5; 32]).unwrap();
    writer.tensor_f32("blk.0.attn_norm.weight", &[8], &[1.0; 8]).unwrap();
    writer.tensor_f32("blk.0.ffn_up_exps.weight", &[2, 3, 4], &[1.0; 24]).unwrap();
    writer.to_bytes()
}

/// Opens, configures, and reads every byte of every tensor that is there.
fn use_gguf(bytes: Vec<u8>) -> bool {
    let Ok(file) = Gguf::from_bytes(bytes) else { return false };
    let _ = ModelConfig::from_gguf(&file);
    for tensor in file.tensors() {
        let bytes = file.bytes(&tensor.name).unwrap();
        std::hint::black_box(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
        let _ = file.expert_bytes(&tensor.name, 1);
        if let [len] = tensor.shape[..] {
            file.floats(&tensor.name, len).unwrap();
        }
    }
    let _ = file.metadata().strings("tokenizer.ggml.tokens");
    true
}

#[test]
fn mutated_gguf_files_never_panic() {
    let good = good_gguf();
    assert!(use_gguf(good.clone()));
    let (mut random, mut read) = (Random(1), 0);
    for round in 0..20_000 {
        let bytes = mutate(&mut random, &good);
        let len = bytes.len();
        let (ok, peak) = peak_of(|| use_gguf(bytes));
        assert!(peak <= allowed(len), "round {round}: {peak} bytes for {len}");
        read += usize::from(ok);
    }
    // Both outcomes have to be common, or the test would not test much.
    assert!((500..19_500).contains(&read), "{read} of 20000 were still read");
}

#[test]
fn mutated_safetensors_never_panic() {
    let good = super::safetensors::good();
    let mut random = Random(2);
    for round in 0..20_000 {
        let bytes = mutate(&mut random, &good);
        let len = bytes.len();
        let ((), peak) = peak_of(|| {
            let Ok(shards) = Shards::from_bytes(bytes) else { return };
            for name in shards.names() {
                std::hint::black_box(shards.tensor(name).unwrap().bytes.iter().max());
            }
        });
        assert!(peak <= allowed(len), "round {round}: {peak} bytes for {len}");
    }
}

#[test]
fn mutated_configurations_never_panic() {
    let good = br#"{"model_type":"qwen3_moe","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":96,"vocab_size":10,"max_position_embeddings":128,"head_dim":16,
        "rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32},"num_experts":8,
        "num_experts_per_tok":2,"moe_intermediate_size":32,"sliding_window":8,"use_sliding_window":true,
        "max_window_layers":1}"#;
    assert!(ModelConfig::from_hf(std::str::from_utf8(good).unwrap()).is_ok());
    let mut random = Random(3);
    for _ in 0..20_000 {
        let bytes = mutate(&mut random, good);
        let _ = ModelConfig::from_hf(&String::from_utf8_lossy(&bytes));
    }
}
