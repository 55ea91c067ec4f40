//! Any bytes as a GGUF file: `cargo +nightly fuzz run gguf -- -rss_limit_mb=512`, in `models/`.

#![no_main]

use engram_models::config::ModelConfig;
use engram_models::gguf::Gguf;
use engram_models::weights::Weights;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = Gguf::from_bytes(data.to_vec()) else { return };
    let _ = ModelConfig::from_gguf(&file);
    for tensor in file.tensors() {
        // What the reader lets through has to be usable: the first and the last byte are there.
        let bytes = file.bytes(&tensor.name).expect("a listed tensor has bytes");
        assert_eq!(bytes.len(), tensor.bytes);
        std::hint::black_box((bytes[0], bytes[bytes.len() - 1]));
        let _ = file.expert_bytes(&tensor.name, 1);
        if let [len] = tensor.shape[..] {
            file.floats(&tensor.name, len).expect("a vector of a read type has values");
        }
    }
});
