//! Any bytes as a safetensors file: `cargo +nightly fuzz run safetensors -- -rss_limit_mb=512`, in `models/`.

#![no_main]

use engram_models::safetensors::Shards;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(shards) = Shards::from_bytes(data.to_vec()) else { return };
    for name in shards.names() {
        let tensor = shards.tensor(name).expect("a listed tensor is there");
        std::hint::black_box((tensor.bytes.first(), tensor.bytes.last()));
    }
});
