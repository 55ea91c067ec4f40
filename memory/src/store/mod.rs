//! Keys and values that survive: sled holds them, a log of ours makes each commit durable before it is acknowledged.
//!
//! A directory holds `lock` (held while open), `current` (which generation is the store, and where it stands),
//! `records.N` (that generation, a sled database), `base.N` (the same as a log, as it was when the generation was made)
//! and `log` (commits since). A write is *planned* on the writer's thread against what all writes before it left, then
//! everything that waits is committed together: one frame in the log, one `fdatasync`, one atomic batch in sled, then the
//! indexes, then the acknowledgements. On open, the frames that sled does not hold are applied again; a plan yields
//! absolute values, so that is harmless.
//!
//! Everything is on disk twice: in sled, which reads, and in base and log, which are ours, checksummed pair by pair, and
//! verified at every open before sled may change anything. sled goes back to an earlier state, and says nothing, where it
//! finds a bad segment; that is seen by `current`, and a repair makes the database again from base and log.
//!
//! sled gives freed space back to itself but never to the disk, and leaves removed bytes in freed segments; so a
//! generation is copied into a fresh one when it has doubled, and some time after something was forgotten (`compact`).

pub mod batch;
mod census;
mod compact;
mod current;
pub mod fault;
pub mod keys;
pub mod log;
pub mod repair;
mod replay;
pub mod tree;
pub mod value;
pub mod view;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{MemoryError, Result};
use batch::Op;
use current::Current;
use fault::{Fault, io_fault, sync_dir};
use replay::{Reading, replay};
use tree::Tree;
use view::View;
use writer::{Job, Message, Writer};

/// The version of a store's files, and of the keys and values in them. 1 had no base, and no checksum a pair.
pub const FORMAT: u32 = 2;

/// Sizes and times of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// sled's page cache, bytes.
    pub cache_bytes: u64,
    /// sled is made durable when a file of the log is this long, bytes; it bounds what an open applies again.
    pub log_bytes: u64,
    /// Writes are refused while the disk has less than this free, bytes: sled does not survive a failed write of its
    /// own, so it is not let near one.
    pub reserve_bytes: u64,
    /// A generation smaller than this is not copied for its size, bytes.
    pub compact_floor_bytes: u64,
    /// How long after something was forgotten its bytes are gone from the disk as well.
    pub purge_after: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 128 << 20,
            log_bytes: 64 << 20,
            reserve_bytes: 64 << 20,
            compact_floor_bytes: 256 << 20,
            purge_after: Duration::from_secs(600),
        }
    }
}

/// Who is told of every commit, on the writer's thread, after it is in the tree and before it is acknowledged.
pub type Observer = Arc<dyn Fn(&[Op]) + Send + Sync>;

/// The generation that is read now; it changes when one is copied.
type Shared = Arc<RwLock<Arc<Tree>>>;

/// An open store.
pub struct Store {
    dir: PathBuf,
    tree: Shared,
    writer: Mutex<Option<(Sender<Message>, JoinHandle<()>)>>,
    /// In a directory that takes no writes: the private copy that is read.
    copy: Option<PathBuf>,
    /// Held for its lock.
    _lock: Option<File>,
}

impl Store {
    /// Opens the store in `dir`, or creates it; commits that a crash kept from sled are applied.
    ///
    /// A directory that takes no writes is served from a private copy in the system's temporary directory, and
    /// every write is refused.
    ///
    /// # Errors
    /// [`MemoryError::Locked`] if another process has it open; [`MemoryError::Format`] if another version wrote it;
    /// [`MemoryError::Corrupt`] if its files are damaged; what the disk refuses.
    pub fn open(dir: &Path, config: StoreConfig, observer: Observer) -> Result<Self> {
        match lock(dir)? {
            Some(lock) => Self::open_locked(dir, lock, config, observer),
            None => Self::open_copy(dir, config),
        }
    }

    fn open_locked(dir: &Path, lock: File, config: StoreConfig, observer: Observer) -> Result<Self> {
        let current = Current::read_or_create(dir)?;
        let (tree, current) = load(dir, current, &current.path(dir), config.cache_bytes)?;
        tree.sync()?;
        let log = log::Log::create(&dir.join("log"), current.seq + 1)?;
        log.remove_up_to(current.base_seq)?;
        current.remove_others(dir)?;
        current.write(dir)?;
        let tree: Shared = Arc::new(RwLock::new(Arc::new(tree)));
        let (sender, receiver) = channel();
        let writer = Writer::new(dir, current, log, tree.clone(), config, observer, sender.clone())?;
        let spawned = std::thread::Builder::new().name("memory-writer".to_owned()).spawn(move || writer.run(&receiver));
        let thread = spawned.map_err(io_fault("start the writer of", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            tree,
            writer: Mutex::new(Some((sender, thread))),
            copy: None,
            _lock: Some(lock),
        })
    }

    fn open_copy(dir: &Path, config: StoreConfig) -> Result<Self> {
        let current = Current::read(dir)?.ok_or_else(|| MemoryError::from(Fault::ReadOnly { path: dir.to_owned() }))?;
        let copy = std::env::temp_dir().join(format!("engram-memory-{}-{:x}", std::process::id(), address_of(dir)));
        copy_dir(&current.path(dir), &copy)?;
        let (tree, _) = load(dir, current, &copy, config.cache_bytes)?;
        Ok(Self {
            dir: dir.to_owned(),
            tree: Arc::new(RwLock::new(Arc::new(tree))),
            writer: Mutex::new(None),
            copy: Some(copy),
            _lock: None,
        })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether its directory takes no writes.
    pub fn read_only(&self) -> bool {
        self.copy.is_some()
    }

    /// The tree as it is now, for reading.
    pub fn tree(&self) -> Arc<Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commits what `plan` changes in its view, and returns what it returns once that is on disk and in the tree.
    ///
    /// Plans run one after another on the writer's thread, each seeing what those before it changed; a plan that fails
    /// changes nothing.
    ///
    /// # Errors
    /// The plan's own; [`MemoryError::DiskFull`], [`MemoryError::ReadOnly`] and other refusals of the disk, after which
    /// nothing of the plan is kept; [`MemoryError::Closed`].
    pub fn write<T: Send + 'static>(
        &self,
        plan: impl FnOnce(&mut View<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = channel();
        let job: Job = Box::new(move |view| {
            let planned = plan(view);
            let failed = planned.is_err();
            let acknowledge = move |committed: std::result::Result<(), Fault>| {
                let outcome = planned.and_then(|value| committed.map(|()| value).map_err(MemoryError::from));
                // Whoever asked may be gone; the commit stands either way.
                let _ = answer.send(outcome);
            };
            (failed, Box::new(acknowledge))
        });
        self.send(Message::Write(job))?;
        answered.recv().map_err(|_| MemoryError::Closed)?
    }

    /// Makes sled durable, so that the next open applies nothing again.
    pub fn checkpoint(&self) -> Result<()> {
        self.ask(Message::Checkpoint)
    }

    /// Copies what is live into a fresh generation; afterwards no file of the store holds what was removed.
    pub fn compact(&self) -> Result<()> {
        self.ask(Message::Compact)
    }

    /// From now on, every commit is also sent here; what was committed before is in the tree.
    pub fn mirror(&self) -> Result<Receiver<Arc<Vec<Op>>>> {
        let (answer, answered) = channel();
        self.send(Message::Mirror(answer))?;
        answered.recv().map_err(|_| MemoryError::Closed)
    }

    /// Bytes of its files.
    pub fn disk_bytes(&self) -> u64 {
        tree::disk_bytes(&self.dir)
    }

    fn ask(&self, message: impl FnOnce(Sender<std::result::Result<(), Fault>>) -> Message) -> Result<()> {
        let (answer, answered) = channel();
        self.send(message(answer))?;
        Ok(answered.recv().map_err(|_| MemoryError::Closed)??)
    }

    fn send(&self, message: Message) -> Result<()> {
        if self.read_only() {
            return Err(MemoryError::ReadOnly { path: self.dir.clone() });
        }
        // The lock only guards taking the sender away on drop; a send does not block.
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((sender, _)) = &*writer else { return Err(MemoryError::Closed) };
        sender.send(message).map_err(|_| MemoryError::Closed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = writer {
            let _ = sender.send(Message::Close);
            let _ = thread.join();
        }
        if let Some(copy) = &self.copy {
            let _ = std::fs::remove_dir_all(copy);
        }
    }
}

/// Opens the database at `path` after verifying base and log, and applies what the log holds and it does not. Where the
/// store stands then.
fn load(dir: &Path, current: Current, path: &Path, cache_bytes: u64) -> std::result::Result<(Tree, Current), Fault> {
    let exact = |base, written| Reading { base, applied: u64::MAX, written, lenient: false };
    replay(&current.base(dir), exact(0, current.base_frames), |_| Ok(()))?;
    let logs = dir.join("log");
    let found = replay(&logs, exact(current.base_seq, current.seq), |_| Ok(()))?;
    let tree = Tree::open(path, cache_bytes)?;
    let applied = tree.applied()?;
    if applied < current.seq {
        let detail = format!("it holds commits up to {applied}, it held them up to {}", current.seq);
        return Err(Fault::Corrupt { path: tree.path().to_owned(), detail });
    }
    if applied > found.last {
        let detail = format!("it ends with commit {}, the database holds {applied}", found.last);
        return Err(Fault::Corrupt { path: logs, detail });
    }
    let rest = Reading { applied, ..exact(applied, found.last) };
    replay(&logs, rest, |frame| tree.apply(&frame.ops, frame.seq))?;
    let (records, counted) = (found.records.unwrap_or(current.records), census::total(&tree)?);
    if records != counted {
        let detail = format!("it holds {counted} records by its own counts, there were {records}");
        return Err(Fault::Corrupt { path: tree.path().to_owned(), detail });
    }
    Ok((tree, Current { seq: found.last, records, ..current }))
}

/// Takes the directory's lock, creating both; `None` where nothing can be written.
fn lock(dir: &Path) -> Result<Option<File>> {
    let fresh = !dir.exists();
    let opened = std::fs::create_dir_all(dir.join("log"))
        .and_then(|()| File::options().write(true).create(true).truncate(false).open(dir.join("lock")));
    let file = match opened {
        Ok(file) => file,
        Err(error) => match Fault::of(&error, "open", dir, 0) {
            Fault::ReadOnly { .. } if dir.exists() => return Ok(None),
            fault => return Err(fault.into()),
        },
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(MemoryError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(io_fault("lock", dir)(error).into()),
    }
    if fresh && let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_dir(parent)?;
    }
    sync_dir(dir)?;
    Ok(Some(file))
}

/// Tells apart the copies of several stores of one process.
fn address_of(dir: &Path) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(dir)
}

fn copy_dir(from: &Path, to: &Path) -> std::result::Result<(), Fault> {
    std::fs::create_dir_all(to).map_err(io_fault("create", to))?;
    for entry in std::fs::read_dir(from).map_err(io_fault("list", from))? {
        let path = entry.map_err(io_fault("list", from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).map_err(|error| Fault::of(&error, "copy", &target, 0))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
