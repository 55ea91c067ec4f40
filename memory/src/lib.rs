//! What was said before, found again: the memory of the projects that Engram serves.
//!
//! Records of source, decisions and conversations are kept on disk, found by meaning, by word and by
//! name, and given back to the router, which puts them into a prompt. Synchronous; it knows no model, no
//! HTTP and no async runtime, and is handed an [`Embedder`].

#![forbid(unsafe_code)]

pub mod backend;
pub mod cache;
pub mod chunk;
pub mod config;
mod embedder;
mod error;
pub mod exact;
pub mod filter;
pub mod fuse;
pub mod index;
pub mod ingest;
pub mod lexical;
pub mod literal;
mod memory;
pub mod mmr;
mod observer;
mod query;
mod record;
mod redact;
mod scope;
pub mod secrets;
pub mod store;

pub use config::MemoryConfig;
pub use embedder::{Embedder, Side};
pub use error::{MemoryError, Result};
pub use index::{IndexParams, VectorIndex};
pub use memory::{Memory, MemoryStats, SelfCheck};
pub use observer::{MemoryObserver, Operation, Unobserved};
pub use query::{Hit, Lifetime, NewRecord, Patch, Query, Recall, SignalScores, Signals};
pub use record::{Feedback, Kind, Provenance, Record, RecordId, Timestamp, Trust, content_hash};
pub use redact::{Redactor, Unredacted};
pub use scope::{Name, Partition, Scope};
