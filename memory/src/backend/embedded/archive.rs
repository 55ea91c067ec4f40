//! Snapshots: everything live in one checksummed file, taken while the memory serves.
//!
//! A file is `"ENGRSNP1"`, then sections `{length u32, crc32 u32, payload}`, little endian: first the [`Contents`] as
//! JSON, then batches of pairs, last an empty one, so that a file that was cut is known. It is written beside its
//! place, synced and renamed, so a file of that name is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::encoder::Encoders;
use super::{Embedded, EncoderId};
use crate::backend::Backend;
use crate::error::{MemoryError, Result};
use crate::record::Timestamp;
use crate::store::batch::{self, Op};
use crate::store::fault::{Fault, io_fault, sync_dir};
use crate::store::{FORMAT, Store, StoreConfig, keys};

const MAGIC: &[u8; 8] = b"ENGRSNP1";
/// Pairs of one section, bytes.
const SECTION: usize = 1 << 20;

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Version of the layout of keys and values.
    pub format: u32,
    /// Whose vectors are in it.
    pub encoder: EncoderId,
    /// When it was begun.
    pub created: Timestamp,
    /// Live records by kind.
    pub records: BTreeMap<String, u64>,
}

impl Embedded {
    /// Writes everything live to `path`. Reads and writes go on; what is written while it runs is in it, what is
    /// forgotten while it runs is not.
    ///
    /// # Errors
    /// [`MemoryError::DiskFull`], [`MemoryError::ReadOnly`], [`MemoryError::Io`]; [`MemoryError::Corrupt`] if a value of the
    /// store cannot be read. Nothing is left at `path` then.
    pub fn snapshot(&self, path: &Path) -> Result<Contents> {
        let aside = beside(path);
        let written = self.write_snapshot(&aside).and_then(|contents| {
            std::fs::rename(&aside, path).map_err(io_fault("rename", &aside))?;
            sync_dir(parent(path))?;
            Ok(contents)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&aside);
        }
        written
    }

    fn write_snapshot(&self, aside: &Path) -> Result<Contents> {
        let commits = if self.read_only() { None } else { Some(self.store.mirror()?) };
        let tree = self.store.tree();
        let encoders = Encoders::of_tree(&tree)?;
        let contents = Contents {
            format: FORMAT,
            encoder: encoders.active.ok_or(MemoryError::Closed)?,
            created: Timestamp::now(),
            records: self.stats(None)?.records,
        };
        let mut archive = Writer::create(aside, &contents)?;
        for pair in tree.scan(&[], &[]) {
            let (key, sealed) = pair?;
            archive.pair(&key, &sealed)?;
        }
        archive.end()?;
        let Some(commits) = commits else { return Ok(contents) };
        // An empty write comes back after every commit before it was sent.
        self.store.write(|_| Ok(()))?;
        let mut later: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for ops in commits.try_iter() {
            later.extend(Arc::unwrap_or_clone(ops));
        }
        if later.is_empty() {
            return Ok(contents);
        }
        // What changed meanwhile may be in the file in its old state, or half: written again without it.
        let contents = Contents { records: self.stats(None)?.records, ..contents };
        let second = beside(aside);
        let mut archive = Writer::create(&second, &contents)?;
        read(aside, |ops| {
            let kept = ops.iter().filter(|(key, _)| !later.contains_key(key));
            kept.filter_map(|(key, value)| Some((key, value.as_ref()?)))
                .try_for_each(|(key, value)| archive.pair(key, value))
        })?;
        for (key, value) in &later {
            if let Some(value) = value {
                archive.pair(key, value)?;
            }
        }
        archive.end()?;
        std::fs::rename(&second, aside).map_err(io_fault("rename", &second))?;
        Ok(contents)
    }
}

/// Makes a memory in `into`, which must not hold one, of the snapshot at `path`.
///
/// # Errors
/// [`MemoryError::Corrupt`] naming the snapshot if it was cut or changed, [`MemoryError::Format`] if it is of another
/// version, [`MemoryError::Invalid`] if `into` is not empty; then nothing was made.
pub fn restore(path: &Path, into: &Path) -> Result<Contents> {
    if into.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} is not empty: restore into a new directory, then move it", into.display());
        return Err(MemoryError::Invalid { field: "into".to_owned(), message });
    }
    let contents = read(path, |_| Ok(()))?;
    let aside = beside(into);
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(io_fault("remove", &aside))?;
    }
    let store = Store::open(&aside, StoreConfig::default(), Arc::new(|_| {}))?;
    read(path, |ops| {
        store.write(move |view| {
            ops.into_iter().for_each(|(key, value)| value.into_iter().for_each(|value| view.set(key.clone(), value)));
            Ok(())
        })
    })?;
    drop(store);
    if into.exists() {
        std::fs::remove_dir(into).map_err(io_fault("replace", into))?;
    }
    std::fs::rename(&aside, into).map_err(io_fault("rename", &aside))?;
    sync_dir(parent(into))?;
    Ok(contents)
}

/// A snapshot being written.
struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    ops: Vec<Op>,
    bytes: usize,
}

impl Writer {
    fn create(path: &Path, contents: &Contents) -> Result<Self> {
        let file = File::create(path).map_err(io_fault("create", path))?;
        let mut writer = Self { path: path.to_owned(), file: BufWriter::new(file), ops: Vec::new(), bytes: 0 };
        writer.write(MAGIC)?;
        writer.section(&serde_json::to_vec(contents).unwrap_or_default())?;
        Ok(writer)
    }

    /// Adds a pair, unless it says where this store stands rather than what it holds.
    fn pair(&mut self, key: &[u8], sealed: &[u8]) -> Result<()> {
        if [keys::APPLIED, keys::PURGE].contains(&key) {
            return Ok(());
        }
        self.bytes += key.len() + sealed.len();
        self.ops.push((key.to_vec(), Some(sealed.to_vec())));
        if self.bytes < SECTION {
            return Ok(());
        }
        self.flush_ops()
    }

    fn flush_ops(&mut self) -> Result<()> {
        let ops = std::mem::take(&mut self.ops);
        self.bytes = 0;
        if ops.is_empty() { Ok(()) } else { self.section(&batch::encode(&ops)) }
    }

    fn end(mut self) -> Result<()> {
        self.flush_ops()?;
        self.section(&[])?;
        let failed = |error| Fault::of(&error, "write", &self.path, 0);
        self.file.flush().map_err(failed)?;
        Ok(self.file.get_ref().sync_all().map_err(failed)?)
    }

    fn section(&mut self, payload: &[u8]) -> Result<()> {
        self.write(&(payload.len() as u32).to_le_bytes())?;
        self.write(&crc32fast::hash(payload).to_le_bytes())?;
        self.write(payload)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = |error| Fault::of(&error, "write", &self.path, bytes.len() as u64);
        Ok(self.file.write_all(bytes).map_err(failed)?)
    }
}

/// Reads a snapshot, each section's checksum verified before its pairs are given to `each`.
fn read(path: &Path, mut each: impl FnMut(Vec<Op>) -> Result<()>) -> Result<Contents> {
    let mut file = BufReader::new(File::open(path).map_err(io_fault("open", path))?);
    let damaged = |detail: &str| MemoryError::Corrupt { path: path.to_owned(), detail: detail.to_owned() };
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(|_| damaged("it is shorter than a snapshot's head"))?;
    if magic != *MAGIC {
        return Err(damaged("it does not begin as a snapshot"));
    }
    let mut section = || -> Result<Vec<u8>> {
        let mut head = [0; 8];
        file.read_exact(&mut head).map_err(|_| damaged("it ends before its last section"))?;
        let [len, crc] = [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let mut payload = Vec::new();
        let read = file.by_ref().take(u64::from(len)).read_to_end(&mut payload).map_err(io_fault("read", path))?;
        if read != len as usize || crc32fast::hash(&payload) != crc {
            return Err(damaged("a section fails its checksum"));
        }
        Ok(payload)
    };
    let contents: Contents =
        serde_json::from_slice(&section()?).map_err(|_| damaged("its first section says nothing"))?;
    if contents.format != FORMAT {
        return Err(MemoryError::Format { path: path.to_owned(), found: contents.format, known: FORMAT });
    }
    loop {
        let payload = section()?;
        if payload.is_empty() {
            return Ok(contents);
        }
        each(batch::decode(&payload).ok_or_else(|| damaged("a section holds no pairs"))?)?;
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
