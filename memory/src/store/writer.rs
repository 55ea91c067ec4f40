//! The one thread that writes: it plans, commits in groups, empties the log, and has generations copied.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::{self, Op};
use super::compact::{self, Copied};
use super::current::Current;
use super::fault::{Fault, io_fault};
use super::log::{Log, Usable};
use super::tree::{Tree, disk_bytes};
use super::view::View;
use super::{Observer, Shared, StoreConfig, census, keys};

/// A group is closed at this many jobs, so that the first waits no longer than they take.
const MAX_GROUP: usize = 1024;
/// A group is closed at this many bytes.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Largest commit, bytes: a frame's length has 32 bits. A single plan above it is refused.
const MAX_COMMIT: usize = 1 << 31;
/// How often the writer looks after its house when nobody writes.
const PATIENCE: Duration = Duration::from_secs(5);
/// It does not spin where a purge is due and cannot be done.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);
/// A copy that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(600);

/// A plan: given the view, whether it failed, and whom to tell what became of the commit.
pub type Job = Box<dyn FnOnce(&mut View<'_>) -> (bool, Acknowledge) + Send>;
/// Tells the caller.
pub type Acknowledge = Box<dyn FnOnce(Result<(), Fault>) + Send>;
/// Where the answer to a request goes.
type Answer = Sender<Result<(), Fault>>;

/// What the writer is asked.
pub enum Message {
    /// Plan and commit.
    Write(Job),
    /// Empty the log.
    Checkpoint(Answer),
    /// Copy the generation now.
    Compact(Answer),
    /// Send every commit from now on here as well.
    Mirror(Sender<Receiver<Arc<Vec<Op>>>>),
    /// A copy is ready, but for the commits made meanwhile.
    Copied(Result<Box<Copied>, Fault>),
    /// End.
    Close,
}

/// The writer's state.
pub struct Writer {
    dir: PathBuf,
    current: Current,
    log: Log,
    shared: Shared,
    config: StoreConfig,
    observer: Observer,
    own: Sender<Message>,
    mirrors: Vec<Sender<Arc<Vec<Op>>>>,
    /// The disk failed in a way after which no write can be trusted; reads go on.
    broken: Option<Fault>,
    /// Records after the last commit.
    records: u64,
    /// When the generation or its log first held something that was meant to be gone.
    purge: Option<Instant>,
    /// At the last checkpoint the generation and its log were twice what they began with.
    outgrown: bool,
    copying: bool,
    /// The thread that copies, and how it is told to stop.
    copier: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    waiting: Vec<Answer>,
    not_before: Option<Instant>,
}

impl Writer {
    /// A writer for an open store.
    pub fn new(
        dir: &Path,
        current: Current,
        log: Log,
        shared: Shared,
        config: StoreConfig,
        observer: Observer,
        own: Sender<Message>,
    ) -> Result<Self, Fault> {
        let mut writer = Self {
            dir: dir.to_owned(),
            current,
            log,
            shared,
            config,
            observer,
            own,
            mirrors: Vec::new(),
            broken: None,
            records: 0,
            purge: None,
            outgrown: false,
            copying: false,
            copier: None,
            stop: Arc::default(),
            waiting: Vec::new(),
            not_before: None,
        };
        writer.records = census::total(&writer.tree())?;
        writer.purge = writer.to_purge()?;
        Ok(writer)
    }

    /// Serves until it is told to close.
    pub fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            match receiver.recv_timeout(self.patience()) {
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Message::Write(job)) => {
                    if self.group(job, receiver) {
                        break;
                    }
                }
                Ok(message) => self.serve(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.keep_house();
        }
        // What the log holds is durable; emptying it only makes the next open shorter.
        let _ = self.checkpoint();
        // A copy must not go on writing in a directory whose lock is given back.
        self.stop.store(true, Ordering::Release);
        if let Some(copier) = self.copier.take() {
            let _ = copier.join();
        }
    }

    /// How long it may wait for a message: until something is to be purged.
    fn patience(&self) -> Duration {
        let purge =
            self.purge.filter(|_| !self.copying).map(|since| self.config.purge_after.saturating_sub(since.elapsed()));
        purge.map_or(PATIENCE, |left| left.clamp(LEAST_PATIENCE, PATIENCE))
    }

    /// Everything but a write.
    fn serve(&mut self, message: Message) {
        match message {
            Message::Checkpoint(answer) => {
                let _ = answer.send(self.checkpoint());
            }
            Message::Compact(answer) => {
                self.waiting.push(answer);
                self.start_copy();
            }
            Message::Mirror(answer) => {
                let (sender, receiver) = channel();
                self.mirrors.push(sender);
                let _ = answer.send(receiver);
            }
            Message::Copied(copied) => self.copied(copied.map(|copied| *copied)),
            Message::Write(_) | Message::Close => {}
        }
    }

    /// Plans `first` and whatever waits behind it, commits once, tells everybody. Whether it was told to close.
    fn group(&mut self, first: Job, receiver: &Receiver<Message>) -> bool {
        let tree = self.tree();
        let mut view = View::new(&tree);
        let mut told = Vec::new();
        let mut after = None;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            let (failed, acknowledge) = job(&mut view);
            if failed {
                view.take_back()
            } else {
                view.keep()
            }
            told.push(acknowledge);
            if told.len() < MAX_GROUP && view.bytes() < MAX_GROUP_BYTES {
                match receiver.try_recv() {
                    Ok(Message::Write(job)) => next = Some(job),
                    Ok(other) => after = Some(other),
                    Err(_) => {}
                }
            }
        }
        let purges = view.purges();
        let outcome = self.commit(&tree, view.into_ops());
        if purges && outcome.is_ok() {
            self.purge.get_or_insert_with(Instant::now);
        }
        for acknowledge in told {
            acknowledge(outcome.clone());
        }
        match after {
            Some(Message::Close) => true,
            Some(message) => {
                self.serve(message);
                false
            }
            None => false,
        }
    }

    /// Log, tree, observers: in this order.
    fn commit(&mut self, tree: &Tree, ops: Vec<Op>) -> Result<(), Fault> {
        if ops.is_empty() {
            return Ok(());
        }
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        let bytes = batch::encoded_len(&ops);
        if bytes > MAX_COMMIT {
            return Err(Fault::Full { path: self.log.path().to_owned(), bytes: bytes as u64 });
        }
        self.check_space(bytes as u64)?;
        let records = census::after(self.records, tree, &ops)?;
        let seq = self.log.append(&ops, records).map_err(|(fault, usable)| {
            if usable == Usable::No {
                self.broken = Some(fault.clone());
            }
            fault
        })?;
        if let Err(fault) = tree.apply(&ops, seq) {
            // It is in the log and will be applied at the next open; until then nothing may be planned upon it.
            self.broken = Some(fault.clone());
            return Err(fault);
        }
        self.records = records;
        (self.observer)(&ops);
        let ops = Arc::new(ops);
        self.mirrors.retain(|mirror| mirror.send(ops.clone()).is_ok());
        Ok(())
    }

    /// Refuses what would leave less than the reserve: the log takes the bytes once, sled about twice.
    fn check_space(&self, bytes: u64) -> Result<(), Fault> {
        let free = free_bytes(&self.dir)?;
        if free < self.config.reserve_bytes.saturating_add(3 * bytes) {
            return Err(Fault::Full { path: self.log.path().to_owned(), bytes });
        }
        Ok(())
    }

    fn keep_house(&mut self) {
        if self.log.len() > self.config.log_bytes {
            // A failure leaves the log as it is, to be tried again at the next commit.
            let _ = self.checkpoint();
        }
        let rested = self.not_before.is_none_or(|at| Instant::now() >= at);
        let purge = self.purge.is_some_and(|since| since.elapsed() > self.config.purge_after);
        if !self.copying && rested && (purge || self.outgrown) {
            self.start_copy();
        }
    }

    /// Makes sled durable, says so in `current`, and goes on in a new file of the log.
    pub(super) fn checkpoint(&mut self) -> Result<(), Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if !self.log.is_empty() {
            self.tree().sync()?;
            let current = Current { seq: self.log.next() - 1, records: self.records, ..self.current };
            current.write(&self.dir)?;
            self.current = current;
            self.log.rotate()?;
            self.outgrown = self.live_bytes() > self.config.compact_floor_bytes.max(2 * self.current.base_bytes);
        }
        Ok(())
    }

    /// Bytes of the generation and its log.
    fn live_bytes(&self) -> u64 {
        let logs = [self.current.base(&self.dir), self.dir.join("log")];
        self.tree().disk_bytes() + logs.iter().map(|path| disk_bytes(path)).sum::<u64>()
    }

    /// Has the generation copied, on a thread of its own.
    fn start_copy(&mut self) {
        if self.copying {
            return;
        }
        let (dir, generation) = (self.dir.clone(), self.current.generation + 1);
        let started = self.broken.clone().map_or(Ok(()), Err).and_then(|()| {
            // A copy takes at most what there is.
            self.check_space(self.live_bytes() / 3)?;
            let (sender, receiver) = channel();
            self.mirrors.push(sender);
            let (tree, own, cache) = (self.tree(), self.own.clone(), self.config.cache_bytes);
            let stop = self.stop.clone();
            let copy = move || {
                let copied = compact::copy(&tree, (&dir, generation), cache, receiver, &stop);
                drop(tree);
                // The writer may have ended; the copy is then removed at the next open.
                let _ = own.send(Message::Copied(copied.map(Box::new)));
            };
            let thread = std::thread::Builder::new().name("memory-compact".to_owned()).spawn(copy);
            self.copier = Some(thread.map_err(io_fault("start a copy of", &self.dir))?);
            Ok(())
        });
        match started {
            Ok(()) => self.copying = true,
            Err(fault) => self.end_copy(Err(fault)),
        }
    }

    /// The copy is there: what was committed meanwhile is added, and it becomes the store.
    fn copied(&mut self, copied: Result<Copied, Fault>) {
        let outcome = copied.and_then(|copied| self.switch(copied));
        self.end_copy(outcome);
    }

    fn switch(&mut self, copied: Copied) -> Result<(), Fault> {
        let (tree, next) = copied.catch_up(self.log.next() - 1)?;
        next.write(&self.dir)?;
        let old = std::mem::replace(&mut *self.shared.write().unwrap_or_else(PoisonError::into_inner), Arc::new(tree));
        let old_base = std::mem::replace(&mut self.current, next).base(&self.dir);
        // Everything in the log is in the new base. What cannot be removed now is at the next open.
        compact::retire(old);
        let _ = std::fs::remove_dir_all(old_base);
        self.log.rotate()?;
        self.log.remove_up_to(next.base_seq)
    }

    fn end_copy(&mut self, outcome: Result<(), Fault>) {
        self.copying = false;
        self.not_before = outcome.is_err().then(|| Instant::now() + RETRY);
        if outcome.is_ok() {
            self.outgrown = false;
            // What was forgotten while the copy was made is in it.
            self.purge = self.to_purge().unwrap_or_else(|_| Some(Instant::now()));
        }
        for answer in self.waiting.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }

    fn to_purge(&self) -> Result<Option<Instant>, Fault> {
        Ok(self.tree().get(keys::PURGE)?.map(|_| Instant::now()))
    }

    fn tree(&self) -> Arc<Tree> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Bytes that the file system of `dir` has left for us.
fn free_bytes(dir: &Path) -> Result<u64, Fault> {
    let stat = rustix::fs::statvfs(dir).map_err(|error| io_fault("ask the free space of", dir)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
