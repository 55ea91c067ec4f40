//! What each key has spent this UTC day and month, and room held for what is in flight.
//!
//! A request holds its estimate before the call and settles the actual cost after it. Limits are held against what is
//! spent and held together, under one lock, so requests at once can pass a limit only by what their estimates were
//! short of. Spend belongs to the day of its hold.
//!
//! Spend is durable, behind the answers: a thread appends what was settled to a checksummed log (`spend.log`) within
//! 10 ms, and has it on disk within 200 ms. So a killed process forgets the spend of its last 10 ms at most, a power
//! failure that of the last 200 ms and of one fdatasync; [`Spend::flush`] waits for the disk. While the disk refuses,
//! counting and limits go on in memory, [`Spend::fault`] says so, and a new log is tried every second.

mod calendar;
mod error;
mod ledger;
mod log;
mod writer;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

pub use error::SpendError;
use error::failed;
use ledger::{Ledger, Place};
use log::Log;
use writer::{Pace, Writer};

use crate::money::Usd;

/// What a key may spend; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpendLimits {
    /// A UTC day.
    pub day: Option<Usd>,
    /// A calendar month, UTC.
    pub month: Option<Usd>,
}

/// What a key has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// This UTC day.
    pub day: Usd,
    /// This calendar month, UTC.
    pub month: Usd,
    /// Estimates of its requests in flight.
    pub held: Usd,
}

/// The time that a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// A UTC day.
    Day,
    /// A calendar month, UTC.
    Month,
}

impl Period {
    /// Its name in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// A request for which a key has no room left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "estimated {estimated}, but key `{key}` has spent {spent} of {limit} a {} and holds {held} for requests in flight; \
     the next {} begins in {}",
    period.as_str(), period.as_str(), Roughly(*resets_in)
)]
pub struct OverBudget {
    /// The key.
    pub key: String,
    /// Which limit it is.
    pub period: Period,
    /// The limit.
    pub limit: Usd,
    /// Spent in the period.
    pub spent: Usd,
    /// Held for requests in flight: with less of it there may be room again before the period ends.
    pub held: Usd,
    /// What the request may come to.
    pub estimated: Usd,
    /// Time until the next period.
    pub resets_in: Duration,
}

/// A time in the unit that one would say it in.
struct Roughly(Duration);

impl fmt::Display for Roughly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ ..120 => write!(f, "{seconds} s"),
            seconds @ ..7200 => write!(f, "{} min", seconds / 60),
            seconds @ ..172_800 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// The spend of all keys.
#[derive(Debug)]
pub struct Spend {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Held for as long as the log is ours.
    claim: Option<File>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One mutex for ledger and log: a charge is in both or in neither when a new log is begun. It is held for a look-up
    /// and a few sums, twice a request; never while a file is written.
    books: Mutex<Books>,
    /// For the writer: there is something to do.
    work: Condvar,
    /// For those that wait for the disk: an attempt was made.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Books {
    ledger: Ledger,
    /// Whether a writer takes what is settled.
    kept: bool,
    /// Charges settled, and how many of them are on disk.
    settled: u64,
    synced: u64,
    /// Somebody waits for this many to be on disk.
    wanted: u64,
    /// Writes that were tried.
    attempts: u64,
    fault: Option<Arc<str>>,
    closing: bool,
}

impl Spend {
    /// Reads what was spent from `dir`, which is made if it is not there, and begins to keep it there.
    ///
    /// # Errors
    /// [`SpendError`]; a damaged log among them, but not one whose end a power failure tore.
    pub fn open(dir: &Path) -> Result<Self, SpendError> {
        Self::open_at(dir, Pace::default())
    }

    fn open_at(dir: &Path, pace: Pace) -> Result<Self, SpendError> {
        std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let claim = claim(dir)?;
        let replay = log::read(dir)?;
        if replay.torn > 0 {
            tracing::warn!(torn_bytes = replay.torn, "the spend log ends in an unfinished write, which is left out");
        }
        let mut books = Books { kept: true, ..Books::default() };
        for charge in &replay.charges {
            books.ledger.book(&charge.key, charge.day, charge.amount);
        }
        let log = Log::begin(dir, &books.ledger.take_all())?;
        let shared = Arc::new(Shared { books: Mutex::new(books), ..Shared::default() });
        let writer = Writer::new(Arc::clone(&shared), dir.to_owned(), log, pace);
        let thread = std::thread::Builder::new().name("engram-spend".into()).spawn(move || writer.run());
        let thread = thread.map_err(failed("start a thread for", dir))?;
        Ok(Self { shared, writer: Some(thread), claim: Some(claim) })
    }

    /// Counts without keeping: for a server without a data directory.
    pub fn in_memory() -> Self {
        Self { shared: Arc::default(), writer: None, claim: None }
    }

    /// Holds `estimate` for a request of `key`; one of zero is never refused.
    ///
    /// # Errors
    /// [`OverBudget`] if a limit has no room for it.
    pub fn hold(&self, key: &str, limits: &SpendLimits, estimate: Usd, now: SystemTime) -> Result<Hold, OverBudget> {
        let place = self.shared.lock().ledger.hold(key, limits, estimate, now)?;
        Ok(Hold { shared: Arc::clone(&self.shared), place, settled: false })
    }

    /// What `key` has spent.
    pub fn spent(&self, key: &str, now: SystemTime) -> Spent {
        self.shared.lock().ledger.spent(key, now)
    }

    /// What every key has spent that did so this month, by name.
    pub fn all(&self, now: SystemTime) -> Vec<(Arc<str>, Spent)> {
        self.shared.lock().ledger.all(now)
    }

    /// Waits until all that is settled is on disk. It blocks: not for the threads of the runtime.
    ///
    /// # Errors
    /// Why it is not, in the disk's words.
    pub fn flush(&self) -> Result<(), Arc<str>> {
        let mut books = self.shared.lock();
        let (goal, before) = (books.settled, books.attempts);
        while books.kept && books.synced < goal {
            if let Some(fault) = books.fault.clone().filter(|_| books.attempts > before) {
                return Err(fault);
            }
            books.wanted = books.wanted.max(goal);
            self.shared.work.notify_one();
            books = self.shared.done.wait(books).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Why the last write failed, while none has succeeded since.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.shared.lock().fault.clone()
    }
}

impl Drop for Spend {
    /// Waits until what is settled is on disk, or the disk refuses once more.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was reported when it happened.
            let _ = writer.join();
        }
        if let Some(claim) = self.claim.take() {
            // Closing is not enough: a process that is just being started from this one may hold a copy of the file yet.
            let _ = claim.unlock();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claims the directory for this process; the claim ends with its [`Spend`], or with the process.
fn claim(dir: &Path) -> Result<File, SpendError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(failed("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpendError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// Room for one request, given back when dropped: a request that was not billed. Whoever stops reading an answer
/// settles what it came to until then.
#[must_use = "the room is free again as soon as this is dropped"]
#[derive(Debug)]
pub struct Hold {
    shared: Arc<Shared>,
    place: Place,
    settled: bool,
}

impl Hold {
    /// What is held.
    pub fn estimate(&self) -> Usd {
        self.place.held
    }

    /// Spends `actual` in its place, be it more or less.
    pub fn settle(mut self, actual: Usd) {
        self.settled = true;
        let mut books = self.shared.lock();
        let idle = !books.ledger.has_unwritten();
        books.ledger.settle(&self.place, actual);
        if !books.kept {
            books.ledger.take_unwritten();
        } else if books.ledger.has_unwritten() {
            books.settled += 1;
            drop(books);
            // It sleeps only where nothing was left to write.
            if idle {
                self.shared.work.notify_one();
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.lock().ledger.release(&self.place);
        }
    }
}

#[cfg(test)]
mod tests;
