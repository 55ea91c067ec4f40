//! One sled database, with its panics and its syncing taken care of.
//!
//! sled 0.34 panics on some kinds of damage (sled #1166, #1533); every call goes through [`guard`], which makes a
//! [`Fault::Corrupt`] of it.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::batch::Op;
use super::fault::{Fault, io_fault, sync_dir};
use super::{keys, value};

/// sled gives its file lock back from another thread some time after the last handle is dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// An open database: one tree, so that a batch is atomic over everything.
pub struct Tree {
    db: sled::Db,
    path: PathBuf,
}

/// A key and its value.
pub type Pair = (sled::IVec, sled::IVec);

impl Tree {
    /// Opens or creates the database at `path`, with a page cache of `cache_bytes`.
    ///
    /// # Errors
    /// The disk's [`Fault`]s; [`Fault::Corrupt`] if sled does not accept its files.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, Fault> {
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match guard(path, "open", || config.open()) {
                Ok(db) => return Ok(Self { db, path: path.to_owned() }),
                Err(Fault::Io { message, .. }) if message.contains("lock") && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value under `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, Fault> {
        guard(&self.path, "read", || self.db.get(key))
    }

    /// All pairs whose keys begin with `prefix` and are not below `from`, in order.
    pub fn scan(&self, prefix: &[u8], from: &[u8]) -> Scan<'_> {
        let iter = self.db.range(from.max(prefix).to_vec()..);
        Scan { iter, prefix: prefix.to_vec(), tree: self, ended: false }
    }

    /// Changes `ops` and the number of the last commit together, or nothing.
    pub fn apply(&self, ops: &[Op], seq: u64) -> Result<(), Fault> {
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (key, value) in ops {
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        batch.insert(keys::APPLIED, value::seal(keys::APPLIED, &seq.to_le_bytes()));
        let outcome = catch_unwind(AssertUnwindSafe(|| self.db.apply_batch(batch)));
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::of_sled(&error, "write", &self.path, bytes as u64)),
            Err(panic) => Err(panicked(&self.path, "write", &panic)),
        }
    }

    /// Number of the last commit in the tree; 0 for an empty one.
    pub fn applied(&self) -> Result<u64, Fault> {
        let Some(sealed) = self.get(keys::APPLIED)? else { return Ok(0) };
        let bytes = value::unseal(keys::APPLIED, &sealed).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(|| self.damaged(keys::APPLIED))
    }

    /// Makes everything applied so far durable: sled's buffers are written out, then each of its files and its
    /// directories are fsynced by us, since sled itself only asks for `sync_file_range`.
    pub fn sync(&self) -> Result<(), Fault> {
        guard(&self.path, "flush", || self.db.flush())?;
        sync_files(&self.path)
    }

    /// The fault for a value that fails its checksum.
    pub fn damaged(&self, key: &[u8]) -> Fault {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Fault::Corrupt { path: self.path.clone(), detail: format!("the value under key {name} fails its checksum") }
    }

    /// Bytes of its files.
    pub fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.path)
    }
}

/// A range of pairs being read.
pub struct Scan<'a> {
    iter: sled::Iter,
    prefix: Vec<u8>,
    tree: &'a Tree,
    ended: bool,
}

impl Iterator for Scan<'_> {
    type Item = Result<Pair, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = guard(&self.tree.path, "read", || self.iter.next().transpose());
        let item = step.transpose().filter(|item| match item {
            Ok((key, _)) => key.starts_with(&self.prefix),
            Err(_) => true,
        });
        // After an error sled's iterator has no defined place.
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Runs a call of sled's; its errors and its panics become faults.
fn guard<T>(path: &Path, action: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| Fault::of_sled(&error, action, path, 0)),
        Err(panic) => Err(panicked(path, action, &panic)),
    }
}

fn panicked(path: &Path, action: &str, panic: &(dyn std::any::Any + Send)) -> Fault {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let detail = format!("sled gave up on {action}: {}", words.unwrap_or("it did not say why"));
    Fault::Corrupt { path: path.to_owned(), detail }
}

/// fsyncs every file below `dir`, and the directories.
pub fn sync_files(dir: &Path) -> Result<(), Fault> {
    for entry in std::fs::read_dir(dir).map_err(io_fault("list", dir))? {
        let path = entry.map_err(io_fault("list", dir))?.path();
        if path.is_dir() {
            sync_files(&path)?;
            continue;
        }
        match File::open(&path).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {} // sled removed it meanwhile.
            outcome => outcome.map_err(io_fault("sync", &path))?,
        }
    }
    sync_dir(dir)
}

/// Bytes of all files below `dir`; what vanishes meanwhile counts nothing.
pub fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
