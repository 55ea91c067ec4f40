//! The configurations of published checkpoints, shortened to the fields that are read, and what is read from them.

use serde_json::json;

use super::*;

#[test]
fn published_checkpoints_are_read() {
    let cases = [
        (
            "Qwen2.5-Coder-7B-Instruct",
            json!({"architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 3584,
                "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
                "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
                "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
                "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 152064}),
            Architecture::Qwen2,
            (128, 4, 32768, None),
        ),
        (
            "Qwen3-Coder-30B-A3B-Instruct",
            json!({"decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
                "intermediate_size": 5472, "max_position_embeddings": 262144, "max_window_layers": 28,
                "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
                "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
                "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_scaling": null,
                "rope_theta": 10000000, "sliding_window": null, "tie_word_embeddings": false,
                "use_sliding_window": false, "vocab_size": 151936}),
            Architecture::Qwen3Moe,
            (128, 4, 262144, None),
        ),
        (
            "deepseek-coder-6.7b-instruct",
            json!({"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
                "max_position_embeddings": 16384, "model_type": "llama", "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-06,
                "rope_scaling": {"factor": 4.0, "type": "linear"}, "rope_theta": 100000,
                "tie_word_embeddings": false, "vocab_size": 32256}),
            Architecture::Llama,
            (128, 32, 16384, None),
        ),
        (
            "Llama-3.1-8B-Instruct",
            json!({"attention_bias": false, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
                "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                    "original_max_position_embeddings": 8192, "rope_type": "llama3"},
                "rope_theta": 500000.0, "tie_word_embeddings": false, "vocab_size": 128256}),
            Architecture::Llama,
            (128, 8, 131072, None),
        ),
        (
            "Codestral-22B-v0.1",
            json!({"hidden_act": "silu", "hidden_size": 6144, "intermediate_size": 16384,
                "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 48,
                "num_hidden_layers": 56, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
                "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 32768}),
            Architecture::Llama,
            (128, 8, 32768, None),
        ),
        (
            "starcoder2-3b",
            json!({"hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072, "intermediate_size": 12288,
                "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2",
                "norm_epsilon": 1e-05, "norm_type": "layer_norm", "num_attention_heads": 24,
                "num_hidden_layers": 30, "num_key_value_heads": 2, "rope_theta": 999999.4420358813,
                "sliding_window": 4096, "use_bias": true, "vocab_size": 49152}),
            Architecture::Starcoder2,
            (128, 2, 16384, Some(4096)),
        ),
        (
            "granite-3b-code-instruct",
            json!({"attention_bias": true, "hidden_act": "silu", "hidden_size": 2560, "intermediate_size": 10240,
                "max_position_embeddings": 2048, "mlp_bias": true, "model_type": "llama", "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-05, "rope_scaling": null,
                "rope_theta": 10000, "tie_word_embeddings": true, "vocab_size": 49152}),
            Architecture::Llama,
            (80, 32, 2048, None),
        ),
    ];
    for (name, json, architecture, facts) in cases {
        let config = ModelConfig::from_hf(&json.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = (config.head_dim, config.kv_heads, config.context_len, config.sliding_window);
        assert_eq!((config.architecture, found), (architecture, facts), "{name}");
        assert_eq!(config.rope.layout, RopeLayout::Neox, "{name}");
    }
}
