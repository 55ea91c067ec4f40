//! Trees of files into records, and kept there as the files change.
//!
//! A [`Manifest`] says what was indexed. A file of the same size and time of change is not even read; one of
//! the same content is not split; of a changed one only chunks that are new are written. Chunks that no file
//! holds any more are forgotten, so what a deleted file said goes, and a renamed file only moves its records.
//!
//! The same content in one project is one record, however many files hold it. Its provenance names its *home*:
//! the first place by path and line. When that goes, the record moves to the next, and is forgotten with the last.
//! Records are the source as it stands, secrets taken out; path, lines and symbol are provenance.
//!
//! A run that was cut short is caught up by the next: the manifest is marked before the first write, and the
//! next run then asks the sink what is there, writes what is missing and forgets what belongs to no file.

mod git;
mod manifest;
mod parts;
mod read;
mod run;
mod settle;
mod walk;
mod watch;

use std::sync::atomic::AtomicBool;

use crate::chunk::ChunkLimits;
use crate::error::Result;
use crate::query::NewRecord;
use crate::record::{Provenance, RecordId};
use crate::scope::Scope;
use crate::secrets::Finding;

pub use git::head_commit;
pub use manifest::{FileEntry, Manifest, ManifestStore, Place};
pub use parts::Part;
pub use run::index_tree;
pub use watch::{WatchOptions, watch_tree};

/// `metadata.origin` of every record written here.
pub const ORIGIN: &str = "index";

/// Where records go: a memory, or what stands for one. It may embed and block; it is called from one thread.
pub trait Sink {
    /// Writes records; durable when it returns. Their ids, in order.
    ///
    /// # Errors
    /// Whatever the store says; the run ends with it, and the next one catches up.
    fn write(&mut self, records: Vec<NewRecord>) -> Result<Vec<RecordId>>;

    /// Forgets records of a scope; ids that are not there are no error.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn forget(&mut self, scope: &Scope, ids: Vec<RecordId>) -> Result<()>;

    /// Says where records are now: lines moved, a file was renamed. Neither content nor version changes, so
    /// nothing is embedded (`backend::Change::provenance`).
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn relocate(&mut self, scope: &Scope, moved: Vec<(RecordId, Provenance)>) -> Result<()>;

    /// All records of exactly this scope whose `metadata.origin` is [`ORIGIN`]. Asked at the first run, after one
    /// that was cut short, and when told to reconcile.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn indexed(&mut self, scope: &Scope) -> Result<Vec<(RecordId, Provenance)>>;

    /// The manifest that was saved last for this scope.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn load_manifest(&mut self, scope: &Scope) -> Result<Option<Manifest>>;

    /// Saves the manifest of this scope, all of it or nothing.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn save_manifest(&mut self, scope: &Scope, manifest: &Manifest) -> Result<()>;
}

/// What is indexed, and how.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Where records are kept; one tree a project.
    pub scope: Scope,
    /// Sizes of chunks.
    pub limits: ChunkLimits,
    /// Files larger than this are left out, bytes.
    pub max_file_bytes: u64,
    /// Hidden files too.
    pub hidden: bool,
    /// Globs (as in a .gitignore) of what is left out besides.
    pub exclude: Vec<String>,
    /// Threads that read and split.
    pub threads: usize,
    /// Records handed to the sink at once.
    pub batch: usize,
    /// Compare with what the sink holds, not only with the manifest: after records were deleted by other means.
    pub reconcile: bool,
}

impl IndexOptions {
    /// The defaults: files up to 1 MiB, lock files and minified files left out, two threads, batches of 256.
    pub fn new(scope: Scope) -> Self {
        let exclude =
            ["*.lock", "package-lock.json", "pnpm-lock.yaml", "go.sum", "*.min.js", "*.min.css", "*.map", "*.svg"];
        Self {
            scope,
            limits: ChunkLimits::default(),
            max_file_bytes: 1 << 20,
            hidden: false,
            exclude: exclude.map(str::to_owned).to_vec(),
            threads: 2,
            batch: 256,
            reconcile: false,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Files done, unchanged ones included.
    pub files: usize,
    /// Files of the tree.
    pub total: usize,
    /// Records handed to the sink.
    pub records: usize,
    /// Bytes read.
    pub bytes: u64,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexReport {
    /// Files, records and bytes.
    pub progress: Progress,
    /// Files whose size and time were as before: not read.
    pub unchanged: usize,
    /// Records that were there already.
    pub kept: usize,
    /// Records whose place changed.
    pub relocated: usize,
    /// Records that no file holds any more.
    pub forgotten: usize,
    /// Paths that could not be read, and why; what was indexed of them stays.
    pub unread: Vec<(String, String)>,
    /// Secrets that were taken out, by path.
    pub secrets: Vec<(String, Finding)>,
    /// The commit that the tree was at.
    pub commit: Option<String>,
    /// It was told to stop; the next run goes on.
    pub cancelled: bool,
}

/// How a run is followed and stopped.
pub struct Control<'a> {
    /// Set by whoever wants it to stop.
    pub cancel: &'a AtomicBool,
    /// Called after each file that was read, on the caller's thread.
    pub progress: &'a mut dyn FnMut(&Progress),
}

#[cfg(test)]
mod tests;
