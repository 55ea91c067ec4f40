//! What can be wrong with the spend's file.

use std::io;
use std::path::{Path, PathBuf};

/// Why spend cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SpendError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its words.
        #[source]
        source: io::Error,
    },
    /// Another process counts there.
    #[error("{} is in use by another process: give each server a `server.data_dir` of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Bytes that were safely written are not what was written.
    #[error(
        "{} is damaged at byte {at} of {len}: restore it from a backup, or move it away, and the spend of this day and \
         month is counted from zero",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        at: u64,
        /// How long the file is.
        len: u64,
    },
}

/// `map_err` for a plain file operation.
pub(super) fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SpendError + 'a {
    move |source| SpendError::Io { action, path: path.to_owned(), source }
}
