//! What the disk answered, in a form that every waiting writer can be told.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::MemoryError;

/// A refusal of the disk. Unlike [`MemoryError`] it can be cloned: a group of writes shares one.
#[derive(Debug, Clone)]
pub enum Fault {
    /// No space, or a quota or size limit reached.
    Full {
        /// The file.
        path: PathBuf,
        /// Bytes that were to be written.
        bytes: u64,
    },
    /// A file system or directory that takes no writes.
    ReadOnly {
        /// The directory.
        path: PathBuf,
    },
    /// Bytes that are not what was written.
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Files of another version.
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Anything else the operating system said.
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its error's kind and words.
        kind: io::ErrorKind,
        /// The words.
        message: String,
    },
    /// The writer has ended.
    Closed,
}

impl Fault {
    /// Sorts an error of the operating system: `action` on `path`, for `bytes` if it was a write.
    pub fn of(error: &io::Error, action: &'static str, path: &Path, bytes: u64) -> Self {
        use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let path = path.to_owned();
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { path, bytes },
            ReadOnlyFilesystem | PermissionDenied => Self::ReadOnly { path },
            kind => Self::Io { action, path, kind, message: error.to_string() },
        }
    }

    /// The same for sled.
    pub fn of_sled(error: &sled::Error, action: &'static str, path: &Path, bytes: u64) -> Self {
        match error {
            sled::Error::Io(error) => Self::of(error, action, path, bytes),
            other => Self::Corrupt { path: path.to_owned(), detail: other.to_string() },
        }
    }
}

impl From<Fault> for MemoryError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full { path, bytes } => Self::DiskFull { path, bytes },
            Fault::ReadOnly { path } => Self::ReadOnly { path },
            Fault::Corrupt { path, detail } => Self::Corrupt { path, detail },
            Fault::Format { path, found } => Self::Format { path, found, known: super::FORMAT },
            Fault::Io { action, path, kind, message } => {
                Self::Io { action, path, source: io::Error::new(kind, message) }
            }
            Fault::Closed => Self::Closed,
        }
    }
}

/// `map_err` for a plain file operation.
pub fn io_fault<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Fault + 'a {
    move |error| Fault::of(&error, action, path, 0)
}

/// Makes a directory's own entries durable: a created, renamed or removed file is only then so after a crash.
pub fn sync_dir(dir: &Path) -> Result<(), Fault> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_fault("sync", dir))
}
