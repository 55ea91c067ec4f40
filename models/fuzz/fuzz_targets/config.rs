//! Any text as a `config.json`: `cargo +nightly fuzz run config`, in `models/`.

#![no_main]

use engram_models::config::ModelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(config) = ModelConfig::from_hf(text) else { return };
    assert!(config.heads % config.kv_heads == 0 && config.rope.dim <= config.head_dim);
});
