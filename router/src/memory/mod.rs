//! The memory as the server uses it.

mod embedder;

pub use embedder::EncoderEmbedder;
