//! What handlers hold: the memory, or the reason why there is none, and the pool its operations run on.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use engram_memory::{Kind, MemoryError};
use tokio::sync::{Notify, watch};

use super::pool::{Pool, PoolError};
use super::reembed::{Reembedding, Reembeddings};
use super::store::MemoryStore;
use crate::config::MemorySettings;
use crate::error::{ApiError, ErrorCode};
use crate::metrics::Metrics;

/// What is done, for metrics: its word and the kind of records it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// `remember`, `get`, `update`, `search`, `forget`, `stats`, `snapshot`.
    pub name: &'static str,
    /// `None`: several kinds, or none that is known.
    pub kind: Option<Kind>,
}

impl Operation {
    /// An operation on records of any kind.
    pub const fn any(name: &'static str) -> Self {
        Self { name, kind: None }
    }

    /// An operation on records of these kinds.
    pub fn on(name: &'static str, mut kinds: impl Iterator<Item = Kind>) -> Self {
        let first = kinds.next();
        Self { name, kind: first.filter(|first| kinds.all(|kind| kind == *first)) }
    }
}

/// The memory, or why there is none.
#[derive(Clone)]
enum Slot {
    Open(Arc<dyn MemoryStore>),
    /// Being opened: an index may have to be built, an encoder fetched.
    Opening,
    /// Not configured, or it could not be opened; the text is for clients and names the cure.
    Shut(Arc<str>),
}

struct Inner {
    slot: RwLock<Slot>,
    pool: Pool,
    settings: MemorySettings,
    metrics: Arc<Metrics>,
    /// Writes that outlive the requests they come from.
    pending: watch::Sender<usize>,
    /// Somebody asked while it was not open yet.
    wanted: Notify,
    reembeddings: Reembeddings,
}

/// The memory behind all doors. Cheap to clone.
#[derive(Clone)]
pub struct MemoryService(Arc<Inner>);

impl MemoryService {
    /// A memory that is still to be opened, with [`MemoryService::open`] or [`MemoryService::shut`].
    pub fn new(settings: MemorySettings, metrics: Arc<Metrics>) -> Self {
        let pool = Pool::new(settings.workers, settings.queue_limit);
        let slot = match settings.enabled {
            true => Slot::Opening,
            false => Slot::Shut("this server keeps no memory: set `memory.enabled`".into()),
        };
        Self(Arc::new(Inner {
            slot: RwLock::new(slot),
            pool,
            settings,
            metrics,
            pending: watch::Sender::new(0),
            wanted: Notify::new(),
            reembeddings: Reembeddings::default(),
        }))
    }

    /// Waits until somebody asks a memory that is not open yet.
    pub async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// From now on this is the memory.
    pub fn open(&self, store: Arc<dyn MemoryStore>) {
        *self.0.slot.write().unwrap_or_else(PoisonError::into_inner) = Slot::Open(store);
    }

    /// There is none, for this reason.
    pub fn shut(&self, reason: &str) {
        *self.0.slot.write().unwrap_or_else(PoisonError::into_inner) = Slot::Shut(reason.into());
    }

    /// Whether there is one.
    pub fn is_open(&self) -> bool {
        matches!(&*self.0.slot.read().unwrap_or_else(PoisonError::into_inner), Slot::Open(_))
    }

    /// Runs of embedding it anew.
    pub fn reembeddings(&self) -> &Reembeddings {
        &self.0.reembeddings
    }

    /// Begins to embed it with the encoder of this name, which then takes over; it serves meanwhile.
    pub fn reembed(&self, encoder: &str) -> Result<Reembedding, ApiError> {
        self.0.reembeddings.start(self.store()?, encoder)
    }

    /// What is configured.
    pub fn settings(&self) -> &MemorySettings {
        &self.0.settings
    }

    /// Where snapshots are kept.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.0.settings.dir.join("snapshots")
    }

    fn store(&self) -> Result<Arc<dyn MemoryStore>, ApiError> {
        match &*self.0.slot.read().unwrap_or_else(PoisonError::into_inner) {
            Slot::Open(store) => Ok(Arc::clone(store)),
            Slot::Opening => {
                self.0.wanted.notify_one();
                Err(ApiError::new(ErrorCode::MemoryUnavailable, "the memory is still being opened")
                    .with_retry_after(Duration::from_secs(2)))
            }
            Slot::Shut(reason) => Err(ApiError::new(ErrorCode::MemoryUnavailable, reason.to_string())),
        }
    }

    /// Runs one operation on the pool, and counts it.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&dyn MemoryStore) -> engram_memory::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let begun = Instant::now();
        let result = self.try_run(work).await;
        let status = match &result {
            Ok(_) => "ok",
            Err(error) if error.status().is_client_error() => "refused",
            Err(error) if error.status().as_u16() == 503 => "unavailable",
            Err(_) => "failed",
        };
        let kind = operation.kind.map_or("any", Kind::as_str);
        self.0.metrics.memory().operation(operation.name, kind, status, begun.elapsed());
        result
    }

    async fn try_run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn MemoryStore) -> engram_memory::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.store()?;
        match self.0.pool.run(move || work(store.as_ref())).await {
            Ok(result) => Ok(result?),
            Err(error @ PoolError::Full { .. }) => {
                Err(ApiError::new(ErrorCode::Overloaded, error.to_string()).with_retry_after(Duration::from_secs(1)))
            }
            Err(error @ PoolError::Panicked(_)) => {
                Err(ApiError::internal("the memory failed at this request, the server's log says why", error))
            }
        }
    }

    /// Remembers after the answer is out: the caller does not wait, a shutdown does ([`MemoryService::idle`]).
    pub fn remember_later(&self, records: Vec<engram_memory::NewRecord>) {
        let pending = Pending::new(self.clone());
        let operation = Operation::on("remember", records.iter().map(|record| record.kind));
        let service = self.clone();
        let work = async move {
            if let Err(error) = service.run(operation, move |store| store.remember(records)).await {
                // The client has its answer: the log is the only place left to say it.
                tracing::warn!("an exchange was not remembered: {error}");
                error.log();
            }
            drop(pending);
        };
        tokio::spawn(tracing::Instrument::in_current_span(work));
    }

    /// Waits until no write is left that outlives its request.
    pub async fn idle(&self) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = self.0.pending.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Lets go of the memory: nothing new is taken, its files are closed when the last operation ends.
    pub fn close(&self) {
        self.0.reembeddings.stop();
        self.shut("the server stops");
    }

    /// Brings the gauges up to date, for a scrape.
    pub async fn measure(&self) {
        let (running, waiting) = self.0.pool.load();
        self.0.metrics.memory().queue(running, waiting);
        let backend = match self.settings().backend {
            crate::config::MemoryBackend::Embedded => "embedded",
            crate::config::MemoryBackend::Postgres { .. } => "postgres",
            crate::config::MemoryBackend::Qdrant { .. } => "qdrant",
        };
        // A slow engine must not hold a scrape up; its last sizes stay.
        // Nor must it have an encoder fetched that nobody asked for.
        if !self.is_open() {
            return;
        }
        let asked = tokio::time::timeout(Duration::from_secs(2), self.try_run(|store| store.stats(None))).await;
        if let Ok(Ok(stats)) = asked {
            self.0.metrics.memory().sizes(backend, &stats);
        }
    }

    /// Expires records and looks after the files once a minute, and compares the index with exact search as often as is configured, until
    /// the memory is closed.
    pub async fn maintain(self) {
        const TICK: Duration = Duration::from_secs(60);
        /// Queries of one self-check.
        const SAMPLE: usize = 32;
        let mut since_check = Duration::ZERO;
        loop {
            tokio::time::sleep(TICK).await;
            // The guard must not live across an await.
            let closed = matches!(&*self.0.slot.read().unwrap_or_else(PoisonError::into_inner), Slot::Shut(_));
            if closed {
                return;
            }
            for outcome in
                [self.try_run(|store| store.expire().map(drop)).await, self.try_run(|store| store.upkeep()).await]
            {
                if let Err(error) = outcome
                    && error.code() == ErrorCode::Internal
                {
                    error.log();
                }
            }
            since_check += TICK;
            if self.settings().self_check.is_none_or(|every| since_check < every) {
                continue;
            }
            since_check = Duration::ZERO;
            match self.try_run(|store| store.self_check(SAMPLE)).await {
                Ok(Some(recall)) => self.0.metrics.memory().self_checked(recall),
                Ok(None) => {}
                Err(error) => error.log(),
            }
        }
    }
}

/// A write that outlives its request.
struct Pending(MemoryService);

impl Pending {
    fn new(service: MemoryService) -> Self {
        service.0.pending.send_modify(|count| *count += 1);
        Self(service)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.0.pending.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl From<MemoryError> for ApiError {
    fn from(error: MemoryError) -> Self {
        let message = error.to_string();
        // Paths of this machine and words of other servers are for the log only.
        let unusable = "the memory cannot be used now, the server's log says why and what to do";
        match &error {
            MemoryError::Invalid { field, .. } => Self::invalid_value(field.clone(), message),
            MemoryError::NotFound(_) => Self::new(ErrorCode::RecordNotFound, message),
            MemoryError::TooLarge { .. } => Self::new(ErrorCode::PayloadTooLarge, message),
            MemoryError::DiskFull { .. } => {
                Self::new(ErrorCode::StorageFull, "the disk is full: nothing new is remembered, reads go on")
                    .with_source(error)
            }
            MemoryError::ReadOnly { .. } => {
                Self::new(ErrorCode::StorageFull, "the memory is read-only: nothing new is remembered, reads go on")
                    .with_source(error)
            }
            MemoryError::EncoderMismatch { .. } => Self::new(ErrorCode::MemoryUnavailable, message),
            MemoryError::Locked { .. } | MemoryError::Corrupt { .. } | MemoryError::Format { .. } => {
                Self::new(ErrorCode::MemoryUnavailable, unusable).with_source(error)
            }
            MemoryError::Backend { retryable: true, .. } => Self::new(ErrorCode::MemoryUnavailable, unusable)
                .with_retry_after(Duration::from_secs(1))
                .with_source(error),
            MemoryError::BreakerOpen { retry_in_ms, .. } => {
                let wait = Duration::from_millis(*retry_in_ms);
                Self::new(ErrorCode::MemoryUnavailable, unusable).with_retry_after(wait).with_source(error)
            }
            MemoryError::Backend { retryable: false, .. } | MemoryError::Io { .. } | MemoryError::Embed { .. } => {
                Self::internal("the memory failed at this request, the server's log says why", error)
            }
            MemoryError::Closed => Self::new(ErrorCode::ShuttingDown, message).with_retry_after(Duration::from_secs(5)),
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
