//! What the doors need of a memory; the one that is opened at start gives it, a scripted one in tests fails on cue.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engram_memory::backend::{BackendStats, Forget, Selection, Written};
use engram_memory::ingest::{Manifest, Part};
use engram_memory::{
    Embedder, NewRecord, Partition, Patch, Provenance, Query, Recall, Record, RecordId, Result, Scope, Timestamp,
};
use serde::Serialize;

/// Tokens of a text, by the tokenizer of the model that will read it.
pub type Count<'a> = &'a (dyn Fn(&str) -> usize + Send + Sync);

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotReport {
    /// Its file, on the server.
    pub path: String,
    /// Records in it.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
}

/// A memory. Every method may block for as long as a disk or an encoder takes.
pub trait MemoryStore: Send + Sync {
    /// Remembers; one outcome each, in order, durable when it returns.
    fn remember(&self, records: Vec<NewRecord>) -> Result<Vec<Written>>;

    /// A record, as it stands or stood. [`engram_memory::MemoryError::NotFound`] if it is not in this partition.
    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Record>;

    /// The selected records as they stand, in the order of their ids, at most `limit`, after `after`.
    fn list(&self, selection: &Selection, after: Option<RecordId>, limit: usize) -> Result<Vec<Record>>;

    /// Says where records are now; how many of them there were.
    fn relocate(&self, partition: &Partition, moved: Vec<(RecordId, Provenance)>) -> Result<u64>;

    /// What was indexed of a scope, if that is known.
    fn manifest(&self, scope: &Scope) -> Result<Option<Manifest>>;

    /// Keeps what was indexed of a scope, or a part of that. It goes when any record of it is forgotten.
    fn keep_manifest(&self, scope: &Scope, manifest: &Manifest, part: Option<&Part>) -> Result<()>;

    /// Changes a record.
    fn update(&self, partition: &Partition, id: RecordId, patch: Patch) -> Result<Record>;

    /// Searches; `count` measures contents for the query's token budget.
    fn search(&self, query: &Query, count: Option<Count<'_>>) -> Result<Recall>;

    /// Forgets; how many records went.
    fn forget(&self, what: &Forget) -> Result<u64>;

    /// Sizes of one partition, or of all.
    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats>;

    /// Writes everything into one checksummed file, while serving goes on.
    fn snapshot(&self, path: &Path) -> Result<SnapshotReport>;

    /// Compares the index with exact search on a sample: the share of true neighbours that it found, 0 to 1.
    /// `None` where there is nothing to compare.
    fn self_check(&self, sample: usize) -> Result<Option<f64>>;

    /// Removes what has expired; how many records went.
    fn expire(&self) -> Result<u64>;

    /// Work that can wait for a quiet moment.
    fn upkeep(&self) -> Result<()>;

    /// Name of the encoder whose vectors are searched.
    fn encoder(&self) -> String;

    /// Embeds everything with another encoder while serving, and then goes on with that one. `go_on` hears how many
    /// records are done and may end it; whether it came to its end.
    fn reembed(&self, embedder: Arc<dyn Embedder>, go_on: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<bool>;
}
