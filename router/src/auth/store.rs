//! The file of generated keys: `keys.json` in the data directory, readable by its owner alone.
//!
//! Every change reads the file, writes a new one beside it, syncs it and renames it into place, all under a lock
//! that commands and servers share: no change is lost, and a crash leaves the old file or the new one. Whoever has
//! the file can open no door with it, for it holds hashes.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::record::{BadKey, KeyRecord, NewKey};

/// Name of the file in the data directory.
const FILE: &str = "keys.json";
/// The form of the file that this version reads and writes.
const FORMAT: u32 = 1;
/// A larger file is none of ours; 100,000 keys take about 50 MB.
const MAX_BYTES: u64 = 64 << 20;

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write` and so on.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is damaged, or was written by something else.
    #[error("{} is damaged: {problem}; put a copy of it back, or delete it and make the keys anew", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and where.
        problem: String,
    },
    /// The file is of a later version.
    #[error("{} has format {format}, this version reads {FORMAT}: use a newer engram", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// There is no such key.
    #[error("no key has the name or id {0:?}; `engram keys list` shows all")]
    Unknown(String),
    /// There is such a key already.
    #[error("there is a key called {0:?} already: rotate or revoke it, or choose another name")]
    Taken(String),
    /// The new key cannot be one.
    #[error(transparent)]
    Bad(#[from] BadKey),
}

/// A key that was just made; its text is never to be had again.
pub struct Issued {
    /// What is kept.
    pub record: KeyRecord,
    /// The key.
    pub key: String,
}

/// What the file looks like from outside; another stamp means another content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    /// A file that was renamed into place is another one, even within one tick of the file system's clock.
    inode: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    keys: Vec<KeyRecord>,
}

/// The file of keys.
#[derive(Debug, Clone)]
pub struct KeyStore {
    path: PathBuf,
}

impl KeyStore {
    /// The store in this data directory; nothing is read or made yet.
    pub fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join(FILE) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys in the order in which they were made; `None`: there is no file.
    pub fn read(&self) -> Result<Option<Vec<KeyRecord>>, StoreError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io("read", source)),
        };
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|source| match source.kind() {
            ErrorKind::InvalidData => self.corrupt("it is no text"),
            _ => self.io("read", source),
        })?;
        if text.len() as u64 > MAX_BYTES {
            return Err(self.corrupt(format!("it is larger than {MAX_BYTES} bytes")));
        }
        self.parse(&text).map(Some)
    }

    fn parse(&self, text: &str) -> Result<Vec<KeyRecord>, StoreError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        // First the format alone: a later one may have fields that this version does not know.
        let Version { format } = serde_json::from_str(text).map_err(|error| self.corrupt(error))?;
        if format != FORMAT {
            return Err(StoreError::Newer { path: self.path.clone(), format });
        }
        let content: Content = serde_json::from_str(text).map_err(|error| self.corrupt(error))?;
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for record in &content.keys {
            if !ids.insert(&record.id) || !names.insert(&record.name) {
                return Err(self.corrupt(format!("two keys are called {:?} or have the id {}", record.name, record.id)));
            }
        }
        Ok(content.keys)
    }

    /// How the file looks now; `None`: there is none.
    pub fn stamp(&self) -> Result<Option<Stamp>, StoreError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => {
                Ok(Some(Stamp { modified: metadata.modified().ok(), len: metadata.len(), inode: inode(&metadata) }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.io("read", source)),
        }
    }

    /// Makes a key.
    pub fn create(&self, new: NewKey) -> Result<Issued, StoreError> {
        self.change(|keys| {
            if keys.iter().any(|record| record.name == new.name) {
                return Err(StoreError::Taken(new.name));
            }
            let (record, key) = new.issue(unix_now())?;
            keys.push(record.clone());
            Ok(Issued { record, key })
        })
    }

    /// Makes a new key in place of the one with this name or id, which opens for `grace` longer.
    pub fn rotate(&self, called: &str, grace: Duration) -> Result<Issued, StoreError> {
        self.change(|keys| {
            let at = find(keys, called)?;
            let key = keys[at].rotate(grace, unix_now());
            Ok(Issued { record: keys[at].clone(), key })
        })
    }

    /// Removes the key with this name or id.
    pub fn revoke(&self, called: &str) -> Result<KeyRecord, StoreError> {
        self.change(|keys| {
            let at = find(keys, called)?;
            Ok(keys.remove(at))
        })
    }

    fn change<T>(&self, edit: impl FnOnce(&mut Vec<KeyRecord>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _lock = self.lock()?;
        let mut keys = self.read()?.unwrap_or_default();
        let result = edit(&mut keys)?;
        self.write(&Content { format: FORMAT, keys })?;
        Ok(result)
    }

    /// Held while the file is changed; the system releases it with the process, however that ends.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.path.with_extension("lock");
        let failed = |source| StoreError::Io { action: "lock", path: path.clone(), source };
        let file = private(&mut OpenOptions::new()).create(true).write(true).open(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    fn write(&self, content: &Content) -> Result<(), StoreError> {
        let text = serde_json::to_string_pretty(content).map_err(|error| self.io("write", error.into()))?;
        let beside = self.path.with_extension("json.new");
        let failed = |source| StoreError::Io { action: "write", path: beside.clone(), source };
        // One that a crash left behind may have another mode.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = private(&mut OpenOptions::new()).create_new(true).write(true).open(&beside).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&beside, &self.path).map_err(|source| self.io("replace", source))?;
        self.sync_dir()
    }

    /// The new name is on disk once its directory is.
    #[cfg(unix)]
    fn sync_dir(&self) -> Result<(), StoreError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| self.io("sync the directory of", source))
    }

    #[cfg(not(unix))]
    fn sync_dir(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> StoreError {
        StoreError::Io { action, path: self.path.clone(), source }
    }

    fn corrupt(&self, problem: impl ToString) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), problem: problem.to_string() }
    }
}

/// Where the record with this id or name stands; ids go first, for they cannot be chosen.
fn find(keys: &[KeyRecord], called: &str) -> Result<usize, StoreError> {
    let at = |is: &dyn Fn(&KeyRecord) -> bool| keys.iter().position(is);
    at(&|record| record.id == called)
        .or_else(|| at(&|record| record.name == called))
        .ok_or_else(|| StoreError::Unknown(called.chars().take(64).collect()))
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
