//! What was said before, found again: the memory of the projects that Engram serves.
//!
//! Records of source, decisions and conversations are kept on disk, found by meaning, by word and by
//! name, and given back to the router, which puts them into a prompt. Synchronous; it knows no model, no
//! HTTP and no async runtime, and is handed an [`Embedder`].

#![forbid(unsafe_code)]

pub mod backend;
pub mod chunk;
mod embedder;
mod error;
pub mod filter;
pub mod ingest;
mod query;
mod record;
mod scope;
pub mod secrets;

pub use embedder::{Embedder, Side};
pub use error::{MemoryError, Result};
pub use query::{Hit, Lifetime, NewRecord, Patch, Query, Recall, SignalScores, Signals};
pub use record::{Feedback, Kind, Provenance, Record, RecordId, Timestamp, Trust, content_hash};
pub use scope::{Name, Partition, Scope};
