//! From a model's name to its logits: files, configuration, tokenizer, layers and the forward pass.

pub mod arch;
pub mod catalog;
pub mod chat_template;
pub mod config;
pub mod detokenize;
pub mod embedding;
pub mod error;
pub mod fim;
pub mod forward;
pub mod gguf;
pub mod layers;
mod mmap;
pub mod model;
pub mod pull;
pub mod safetensors;
pub mod tokenizer;
pub mod weights;
mod workspace;

pub use config::{Architecture, ModelConfig};
pub use embedding::{Encoder, EncoderHandle};
pub use error::ModelError;
pub use forward::{ForwardBatch, KvStore};
pub use model::{LoadOptions, Model};
pub use workspace::Workspace;
