//! What several tests need: the two real models, a server process, a gateway's, a direct model runner.

pub mod gateway;
pub mod runner;
pub mod server;

use std::path::PathBuf;
use std::sync::OnceLock;

use engram_models::gguf::Gguf;
use engram_models::pull::{PullOptions, WeightsFiles, resolve};
use engram_models::tokenizer::{Tokenizer, TokenizerParts};

/// Catalog id of the small model.
pub const SMOLLM2: &str = "smollm2-135m-instruct";
/// Catalog id of the default model.
pub const QWEN: &str = "qwen2.5-coder-0.5b-instruct";

/// The GGUF of a catalog model, pulled and checked if it is not on disk yet.
pub fn gguf(id: &str) -> PathBuf {
    static LOCK: OnceLock<std::sync::Mutex<()>> = OnceLock::new();
    let lock = LOCK.get_or_init(Default::default);
    let _one_at_a_time = lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let files = resolve(id, &PullOptions::from_env()).unwrap_or_else(|e| panic!("pull {id}: {e}"));
    match files.weights {
        WeightsFiles::Gguf(path) => path,
        other => panic!("{id} is not a GGUF: {other:?}"),
    }
}

/// The tokenizer inside a catalog model's GGUF.
pub fn tokenizer(id: &str) -> Tokenizer {
    let gguf = Gguf::open(gguf(id)).unwrap_or_else(|e| panic!("open {id}: {e}"));
    let parts = TokenizerParts::from_metadata(gguf.metadata()).unwrap_or_else(|e| panic!("vocabulary of {id}: {e}"));
    Tokenizer::from_parts(parts).unwrap_or_else(|e| panic!("tokenizer of {id}: {e}"))
}
