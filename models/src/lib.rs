//! From a model's name to its logits: files, configuration, tokenizer, layers and the forward pass.

pub mod chat_template;
pub mod detokenize;
pub mod catalog;
pub mod config;
pub mod error;
pub mod fim;
pub mod gguf;
mod mmap;
pub mod pull;
pub mod safetensors;
pub mod tokenizer;
pub mod weights;

pub use error::ModelError;
