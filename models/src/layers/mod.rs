//! The parts decoder models are put together from; the architectures only say which parts, and how wide.
//!
//! Every part works on flat `[tokens, ..]` tensors of one [`ForwardBatch`](crate::forward::ForwardBatch):
//! it does not know which token belongs to whom, except for attention.

pub mod attention;
pub mod decoder;
pub mod embedding;
pub mod linear;
pub mod loader;
pub mod mlp;
pub mod moe;
pub mod norm;

pub use attention::Attention;
pub use decoder::{Decoder, DecoderLayer, FeedForward};
pub use embedding::Embedding;
pub use linear::Linear;
pub use loader::{Loader, WeightForm};
pub use mlp::{GateUp, GatedMlp, PlainMlp};
pub use moe::SparseMoe;
pub use norm::Norm;
