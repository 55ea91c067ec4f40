//! Copies a generation into a fresh one while writes go on: its database, and the base, the log that it begins with.
//!
//! sled's iterator is no snapshot: it may or may not show what is written while it runs. Every commit since before the
//! copy began is therefore applied to the copy once more, in order; commits hold absolute values, so where the iterator
//! saw them already nothing changes, and where it did not they are added or removed now.
//!
//! A base is a log of its own, numbered from 1, whose last frame sets [`keys::APPLIED`] to the commit that it is as of: one
//! without is a copy that was not finished.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::batch::Op;
use super::current::Current;
use super::fault::{Fault, io_fault, sync_dir};
use super::log::Log;
use super::tree::{Tree, disk_bytes};
use super::{census, keys, value};

/// Pairs of one batch, bytes.
const BATCH_BYTES: usize = 1 << 20;
/// A base's file, bytes: files are read whole.
const BASE_FILE_BYTES: u64 = 64 << 20;

/// A copy that lacks only the last commits.
pub struct Copied {
    fresh: Fresh,
    commits: Receiver<Arc<Vec<Op>>>,
}

impl Copied {
    /// Adds the commits up to `seq`, which have all been sent, and makes the copy durable.
    pub fn catch_up(mut self, seq: u64) -> Result<(Tree, Current), Fault> {
        self.fresh.apply_waiting(&self.commits)?;
        self.fresh.finish(seq)
    }
}

/// Copies every pair of `from` to a new generation of the store in `dir`.
///
/// # Errors
/// [`Fault::Corrupt`] if a value fails its checksum: damage is not copied as if it were whole. The unfinished copy is
/// removed.
pub fn copy(
    from: &Tree,
    (dir, generation): (&Path, u64),
    cache_bytes: u64,
    commits: Receiver<Arc<Vec<Op>>>,
    stop: &AtomicBool,
) -> Result<Copied, Fault> {
    let current = Current { generation, ..Current::default() };
    let copied = (|| {
        let mut fresh = Fresh::create(dir, current, cache_bytes)?;
        fresh.copy_pairs(from, stop)?;
        // What piled up during the long copy is added here, so that the writer has little left to do.
        fresh.apply_waiting(&commits)?;
        fresh.sync()?;
        Ok(Copied { fresh, commits })
    })();
    if copied.is_err() {
        let _ = std::fs::remove_dir_all(current.path(dir));
        let _ = std::fs::remove_dir_all(current.base(dir));
    }
    copied
}

/// A generation being made.
struct Fresh {
    current: Current,
    tree: Tree,
    base: Log,
    base_dir: std::path::PathBuf,
}

impl Fresh {
    fn create(dir: &Path, current: Current, cache_bytes: u64) -> Result<Self, Fault> {
        let (path, base_dir) = (current.path(dir), current.base(dir));
        for path in [&path, &base_dir] {
            if path.exists() {
                std::fs::remove_dir_all(path).map_err(io_fault("remove", path))?;
            }
        }
        std::fs::create_dir(&base_dir).map_err(|error| Fault::of(&error, "create", &base_dir, 0))?;
        sync_dir(dir)?;
        Ok(Self { current, tree: Tree::open(&path, cache_bytes)?, base: Log::create(&base_dir, 1)?, base_dir })
    }

    fn copy_pairs(&mut self, from: &Tree, stop: &AtomicBool) -> Result<(), Fault> {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for pair in from.scan(&[], &[]) {
            let (key, sealed) = pair?;
            if value::unseal(&key, &sealed).is_none() {
                return Err(from.damaged(&key));
            }
            if [keys::PURGE, keys::APPLIED].contains(&key.as_ref()) {
                continue;
            }
            bytes += key.len() + sealed.len();
            ops.push((key.to_vec(), Some(sealed.to_vec())));
            if bytes > BATCH_BYTES {
                if stop.load(Ordering::Acquire) {
                    return Err(Fault::Closed);
                }
                self.add(&ops)?;
                (ops, bytes) = (Vec::new(), 0);
            }
        }
        self.add(&ops)
    }

    fn add(&mut self, ops: &[Op]) -> Result<(), Fault> {
        self.tree.apply(ops, 0)?;
        self.write(ops, 0)
    }

    /// Adds a frame to the base.
    fn write(&mut self, ops: &[Op], records: u64) -> Result<(), Fault> {
        if self.base.len() > BASE_FILE_BYTES {
            self.base.sync()?;
            self.base.rotate()?;
        }
        self.base.write(ops, records).map(drop).map_err(|(fault, _)| fault)
    }

    fn apply_waiting(&mut self, commits: &Receiver<Arc<Vec<Op>>>) -> Result<(), Fault> {
        commits.try_iter().try_for_each(|ops| self.add(&ops))
    }

    fn sync(&self) -> Result<(), Fault> {
        self.tree.sync()?;
        self.base.sync()
    }

    /// Says that it is as of commit `seq`, durably.
    fn finish(mut self, seq: u64) -> Result<(Tree, Current), Fault> {
        self.tree.apply(&[], seq)?;
        let records = census::total(&self.tree)?;
        let end = (keys::APPLIED.to_vec(), Some(value::seal(keys::APPLIED, &seq.to_le_bytes())));
        self.write(&[end], records)?;
        self.sync()?;
        let base_bytes = self.tree.disk_bytes() + disk_bytes(&self.base_dir);
        let base_frames = self.base.next() - 1;
        Ok((self.tree, Current { base_bytes, base_frames, base_seq: seq, seq, records, ..self.current }))
    }
}

/// Removes an old generation once its last reader has let it go; if that takes long, the next open does.
pub fn retire(old: Arc<Tree>) {
    let path = old.path().to_owned();
    let wait = move || {
        let mut old = old;
        for _ in 0..600 {
            match Arc::try_unwrap(old) {
                Ok(tree) => {
                    drop(tree);
                    let _ = std::fs::remove_dir_all(&path);
                    return;
                }
                Err(shared) => old = shared,
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    // Without a thread for it the directory stays until the next open.
    let _ = std::thread::Builder::new().name("memory-retire".to_owned()).spawn(wait);
}
