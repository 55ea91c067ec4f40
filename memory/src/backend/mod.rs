//! Where records and their vectors lie, and who finds candidates among them.
//!
//! A backend finds by one signal at a time; `Memory` embeds, fuses, weighs and caches, the same
//! over every backend. One suite (`tests/engines/conformance`) runs against each.

pub mod breaker;
mod pool;
pub mod postgres;
pub mod qdrant;
pub mod redis;
mod secret;
mod terms;
mod vector;

pub use pool::PoolConfig;
pub use secret::Secret;

pub mod embedded;

use crate::error::Result;
use crate::filter::{CompiledFilter, Filter, Outline};
use crate::record::{Feedback, Kind, Provenance, Record, RecordId, Timestamp};
use crate::scope::{Partition, Scope};
use serde_json::{Map, Value};

/// A record with its vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// `[dim]`, length 1.
    pub vector: Vec<f32>,
}

/// What became of a record that was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It is new.
    Created(Record),
    /// Its content was there already: `seen` was counted up, nothing else changed but a later `expires`.
    SeenAgain(Record),
}

impl Written {
    /// The record as it stands now.
    pub fn record(&self) -> &Record {
        match self {
            Self::Created(record) | Self::SeenAgain(record) => record,
        }
    }
}

/// A change to a record; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// New text and its vector: a new version.
    pub content: Option<(String, Vec<f32>)>,
    /// New metadata, in place of the old: a new version.
    pub metadata: Option<Map<String, Value>>,
    /// New time of expiry (`Some(None)`: never).
    pub expires: Option<Option<Timestamp>>,
    /// Pinned or not.
    pub pinned: Option<bool>,
    /// Counts to add.
    pub feedback: Option<Feedback>,
    /// Where it comes from now, in place of what was said: not a new version, as the text is the same.
    pub provenance: Option<Provenance>,
}

/// Which records of a scope are meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Tenant and domain, and project and session if given.
    pub scope: Scope,
    /// Kinds; empty: all.
    pub kinds: Vec<Kind>,
    /// More conditions.
    pub filter: Option<Filter>,
}

impl Selection {
    /// Everything in `scope`.
    pub fn all(scope: Scope) -> Self {
        Self { scope, kinds: Vec::new(), filter: None }
    }

    /// Checks it and makes it ready to be asked about many records.
    ///
    /// # Errors
    /// As [`Filter::compile`].
    pub fn compile(&self) -> Result<CompiledSelection> {
        let filter = self.filter.as_ref().map(Filter::compile).transpose()?;
        Ok(CompiledSelection { scope: self.scope.clone(), kinds: self.kinds.clone(), filter })
    }
}

/// A checked [`Selection`].
#[derive(Debug, Clone)]
pub struct CompiledSelection {
    scope: Scope,
    kinds: Vec<Kind>,
    filter: Option<CompiledFilter>,
}

impl CompiledSelection {
    /// Whether `record` is meant: covered by the scope, of one of the kinds, and met by the filter.
    pub fn matches(&self, record: &Record) -> bool {
        self.scope.covers(&record.scope)
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(record))
    }

    /// Whether the filter is met by a record of this outline; `None` if the record must be read.
    pub fn filter_decides(&self, outline: &Outline<'_>) -> Option<bool> {
        self.filter.as_ref().map_or(Some(true), |filter| filter.decides(outline))
    }
}

/// What is to be forgotten.
#[expect(clippy::large_enum_variant, reason = "one at a time is made, and none is kept")]
#[derive(Debug, Clone, PartialEq)]
pub enum Forget {
    /// These records of a partition.
    Ids(Partition, Vec<RecordId>),
    /// All that match.
    Matching(Selection),
    /// All of a tenant, in every domain.
    Tenant(crate::scope::Name),
}

/// A candidate and how well it matches, larger is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The record.
    pub id: RecordId,
    /// Cosine, BM25, or a count of literal matches, by the question asked.
    pub score: f32,
}

/// Sizes of a backend, for `stats` and metrics.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct BackendStats {
    /// Live records by kind.
    pub records: std::collections::BTreeMap<String, u64>,
    /// Deleted and not yet compacted away.
    pub tombstones: u64,
    /// Vectors in the index.
    pub vectors: u64,
    /// Bytes of index and vectors in memory.
    pub index_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Connections in use and at most, for shared engines.
    pub pool: Option<(u32, u32)>,
}

/// A store of records that can be searched. Every method may block; none holds a lock of the caller's.
pub trait Backend: Send + Sync {
    /// Its name in errors and metrics (`embedded`, `postgres`, `qdrant`).
    fn name(&self) -> &'static str;

    /// Writes records; when it returns, they are durable and found by searches. One outcome each, in order.
    ///
    /// `record.id` is the id by content; where that id is held by a record whose content has changed since,
    /// the backend takes the next salt.
    fn put(&self, records: Vec<Stored>) -> Result<Vec<Written>>;

    /// The record as it stands, or as it stood at `as_of`. `None`: not there, expired, or not yet there.
    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Option<Record>>;

    /// The same for many; missing ones are left out, order is kept.
    fn get_many(&self, partition: &Partition, ids: &[RecordId]) -> Result<Vec<Stored>>;

    /// Changes a record; durable when it returns.
    fn change(&self, partition: &Partition, id: RecordId, change: Change) -> Result<Record>;

    /// Forgets, history included; durable when it returns. How many records went.
    fn forget(&self, what: &Forget) -> Result<u64>;

    /// Removes what expired before `now`. How many records went.
    fn expire(&self, now: Timestamp) -> Result<u64>;

    /// The `k` nearest by cosine among the selected, best first; exact where few are selected.
    fn nearest(&self, selection: &Selection, vector: &[f32], k: usize) -> Result<Vec<Candidate>>;

    /// The `k` best by BM25 among the selected.
    fn lexical(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>>;

    /// Records that define a symbol, or hold a literal, of `text`: exact matches, best first.
    fn literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>>;

    /// All selected records as they stood at `as_of` (`None`: now), in the order of their ids, at most
    /// `limit`, after `after`.
    fn scan(
        &self,
        selection: &Selection,
        as_of: Option<Timestamp>,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>>;

    /// Sizes; of one partition, or of all.
    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats>;

    /// Whether other processes write to it too, of whose writes nothing here is told: answers may then not be cached,
    /// but under a shared cache's generation.
    fn shared(&self) -> bool {
        false
    }

    /// Work that can wait for a quiet moment; to be called now and then.
    fn upkeep(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it can serve at all, cheaply asked.
    fn health(&self) -> Result<()>;
}
