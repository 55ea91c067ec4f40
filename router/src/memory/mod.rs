//! The memory as the server's doors see it: who may ask what, how much at once, and what goes on the wire.
//!
//! - [`MemoryService`] is what handlers hold: it runs each operation on a bounded pool of threads, counts it,
//!   and answers 503 where there is no memory.
//! - [`MemoryStore`] is what it needs of a memory.
//! - `wire` reads bodies strictly and writes records; [`extension`] reads the `memory` member of chats and completions.

mod embedder;
pub mod extension;
pub mod metrics;
mod opened;
mod pool;
mod reembed;
mod service;
mod store;
pub mod wire;

pub use embedder::EncoderEmbedder;
pub use opened::{CacheCounts, Opened, manifests};
pub use pool::Pool;
pub use reembed::{LoadEncoder, Reembedding, Reembeddings, RunState};
pub use service::{MemoryService, Operation};
pub use store::{MemoryStore, SnapshotReport};

#[cfg(test)]
pub(crate) mod scripted;
