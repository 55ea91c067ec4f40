//! The thread that writes what was settled: together what came together, and to the disk now and then.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::error::SpendError;
use super::ledger::Charge;
use super::log::Log;
use super::{Books, Shared};

/// How often things are done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Rest after a write: what is settled meanwhile is one frame.
    pub(super) linger: Duration,
    /// What was written is on disk after this.
    pub(super) sync_every: Duration,
    /// Until the next try after a failure.
    pub(super) retry: Duration,
    /// A shorter log is not begun anew.
    pub(super) least_log: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(10),
            sync_every: Duration::from_millis(200),
            retry: Duration::from_secs(1),
            least_log: 1 << 20,
        }
    }
}

/// What is to be written.
enum Batch {
    /// Behind what the log holds.
    New(Log, Vec<Charge>),
    /// In a new log.
    All(Vec<Charge>),
}

/// One piece of work.
struct Work {
    batch: Batch,
    /// Charges that are settled with this batch.
    settled: u64,
    sync: bool,
    last: bool,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    /// None after a failure: what such a file holds is not known, so a new one is begun from the ledger.
    log: Option<Log>,
    pace: Pace,
    /// When the oldest write that may not be on disk was made.
    unsynced: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, dir: PathBuf, log: Log, pace: Pace) -> Self {
        Self { shared, dir, log: Some(log), pace, unsynced: None }
    }

    /// Until it is closed, and all is written or has failed once more.
    pub(super) fn run(mut self) {
        loop {
            let work = self.next();
            let (settled, last) = (work.settled, work.last);
            let outcome = self.write(work);
            let failed = outcome.is_err();
            self.tell(outcome, settled);
            if last {
                return;
            }
            if failed {
                self.rest();
            } else {
                std::thread::sleep(self.pace.linger);
            }
        }
    }

    /// Waits for something to do.
    fn next(&mut self) -> Work {
        let mut books = self.shared.lock();
        loop {
            let wait = self.unsynced.map(|since| self.pace.sync_every.saturating_sub(since.elapsed()));
            let sync = books.closing || books.wanted > books.synced || wait == Some(Duration::ZERO);
            if sync || self.log.is_none() || books.ledger.has_unwritten() {
                let batch = match self.log.take().filter(|log| !log.is_outgrown(self.pace.least_log)) {
                    Some(log) => Batch::New(log, books.ledger.take_unwritten()),
                    None => Batch::All(books.ledger.take_all()),
                };
                return Work { batch, settled: books.settled, sync, last: books.closing };
            }
            let work = &self.shared.work;
            books = match wait {
                Some(wait) => work.wait_timeout(books, wait).map_or_else(|error| error.into_inner().0, |woken| woken.0),
                None => work.wait(books).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether all that is settled is on disk now.
    fn write(&mut self, work: Work) -> Result<bool, SpendError> {
        let mut log = match work.batch {
            Batch::New(mut log, charges) => {
                if !charges.is_empty() {
                    log.append(&charges)?;
                    self.unsynced.get_or_insert_with(Instant::now);
                }
                log
            }
            Batch::All(charges) => {
                let log = Log::begin(&self.dir, &charges)?;
                self.unsynced = None;
                log
            }
        };
        if work.sync && self.unsynced.is_some() {
            log.sync()?;
            self.unsynced = None;
        }
        self.log = Some(log);
        Ok(self.unsynced.is_none())
    }

    /// Tells those that wait, and the log when a failure begins or ends.
    fn tell(&mut self, outcome: Result<bool, SpendError>, settled: u64) {
        let mut books = self.shared.lock();
        books.attempts += 1;
        match outcome {
            Ok(synced) => {
                if synced {
                    books.synced = settled;
                }
                if books.fault.take().is_some() {
                    tracing::info!("spend is kept again");
                }
            }
            Err(error) => {
                self.unsynced = None;
                // They are told below, and ask again if they want another try.
                books.wanted = books.synced;
                let words = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                if books.fault.is_none() {
                    tracing::error!(error = words, "spend is counted, but not kept");
                }
                books.fault = Some(words.into());
            }
        }
        drop(books);
        self.shared.done.notify_all();
    }

    /// Between two tries, unless somebody asks for one.
    fn rest(&self) {
        let idle = |books: &mut Books| !books.closing && books.wanted <= books.synced;
        // Woken or not, the next try is made.
        let _ = self.shared.work.wait_timeout_while(self.shared.lock(), self.pace.retry, idle);
    }
}
