//! What can go wrong with a memory, with numbers and names; HTTP statuses are the router's business.

use std::path::PathBuf;

use crate::record::RecordId;

/// A failure of the memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A value that may not be.
    #[error("`{field}`: {message}")]
    Invalid {
        /// Which one, as a path (`scope.project`).
        field: String,
        /// What is wrong with it and what would be right.
        message: String,
    },
    /// No such record in this partition.
    #[error("no record {0} here")]
    NotFound(RecordId),
    /// A size past its limit.
    #[error("{what} is {size}, the limit is {limit}")]
    TooLarge {
        /// What is too large, with its unit (`content in bytes`).
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The memory was made by another encoder.
    #[error(
        "this memory was embedded by `{stored}` ({stored_dim} dimensions), the configured encoder is `{configured}` \
         ({configured_dim}): run `engram memory reembed` or set `memory.encoder = \"{stored}\"`"
    )]
    EncoderMismatch {
        /// Name kept with the store.
        stored: String,
        /// Its dimension.
        stored_dim: usize,
        /// Name configured.
        configured: String,
        /// Its dimension.
        configured_dim: usize,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process: stop it, or ask it through its API", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The disk takes no more; what is stored is still served.
    #[error("the disk is full: {path} could not take {bytes} bytes; free space, reads go on", path = path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// How much was to be written.
        bytes: u64,
    },
    /// The directory cannot be written; what is stored is still served.
    #[error("{path} is read-only: nothing new is remembered, reads go on", path = path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// Bytes on disk that are not what was written.
    #[error("{path} is damaged ({detail}): run `engram memory repair`, which keeps what can be read", path = path.display())]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Written by another version, in a form that this one does not read.
    #[error("{path} has format {found}, this version reads {known}: {cure}", path = path.display(), cure = cure(*found, *known))]
    Format {
        /// The file or directory.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// The version that is read.
        known: u32,
    },
    /// The operating system refused.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried (`write`).
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The encoder failed.
    #[error("embedding {texts} texts")]
    Embed {
        /// How many.
        texts: usize,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A shared engine (PostgreSQL, Qdrant, Redis) failed or does not answer.
    #[error("{backend}: {message}")]
    Backend {
        /// Which.
        backend: &'static str,
        /// What it said; secrets never stand in it.
        message: String,
        /// Whether another try may help.
        retryable: bool,
    },
    /// It failed so often lately that it is left alone for a while.
    #[error("{backend} failed {failures} times in a row, next try in {retry_in_ms} ms")]
    BreakerOpen {
        /// Which.
        backend: &'static str,
        /// Consecutive failures.
        failures: u32,
        /// When it will be tried again.
        retry_in_ms: u64,
    },
    /// It is being closed.
    #[error("the memory is closing")]
    Closed,
}

/// What to do about a file of another version.
fn cure(found: u32, known: u32) -> &'static str {
    if found > known {
        "use the newer engram"
    } else {
        "let the engram that wrote it say `engram memory export`, and this one `engram memory import` into a new directory"
    }
}

/// What functions of this crate return.
pub type Result<T, E = MemoryError> = std::result::Result<T, E>;
