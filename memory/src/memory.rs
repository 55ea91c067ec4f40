//! The memory: remember, recall, forget, the same over every backend.

mod answers;
mod past;
mod rank;
mod search;
mod self_check;
mod write;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use serde::Serialize;

use crate::backend::redis::{Generation, SharedCache};
use crate::backend::{Backend, BackendStats, Forget, Selection};
use crate::cache::{CacheCounts, MemoryCaches};
use crate::config::MemoryConfig;
use crate::embedder::Embedder;
use crate::error::Result;
use crate::observer::{MemoryObserver, Operation, Unobserved};
use crate::record::{Kind, Record, RecordId, Timestamp};
use crate::redact::{Redactor, Unredacted};
use crate::scope::{Name, Partition, Scope};
pub use self_check::SelfCheck;

/// Records, found again by meaning, word and name. Shared by all threads; every method may block.
pub struct Memory {
    backend: Arc<dyn Backend>,
    /// Read for the whole of an operation that makes vectors, written where another encoder takes over: no vector of one
    /// is ever compared with those of the other.
    embedder: RwLock<Arc<dyn Embedder>>,
    config: MemoryConfig,
    caches: MemoryCaches,
    redactor: Arc<dyn Redactor>,
    observer: Arc<dyn MemoryObserver>,
    shared: Option<Arc<dyn SharedCache>>,
}

/// Sizes and counts of a memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryStats {
    /// The backend's name.
    pub backend: &'static str,
    /// The encoder's name.
    pub encoder: String,
    /// Length of its vectors.
    pub dim: usize,
    /// What is stored.
    pub stored: BackendStats,
    /// The cache of queries' vectors.
    pub embedding_cache: CacheCounts,
    /// The cache of answers.
    pub recall_cache: CacheCounts,
}

impl Memory {
    /// A memory over a backend, with nothing redacted and nobody counting.
    ///
    /// # Errors
    /// [`crate::MemoryError::Invalid`] for a setting out of its range.
    pub fn with_backend(backend: Arc<dyn Backend>, embedder: Arc<dyn Embedder>, config: MemoryConfig) -> Result<Self> {
        config.validate()?;
        let caches = MemoryCaches::new(&config.caches);
        let (embedder, redactor, observer) = (RwLock::new(embedder), Arc::new(Unredacted), Arc::new(Unobserved));
        Ok(Self { backend, embedder, config, caches, redactor, observer, shared: None })
    }

    /// The same with a redactor: content and metadata pass through it before they are embedded or stored.
    #[must_use]
    pub fn redacted_by(mut self, redactor: Arc<dyn Redactor>) -> Self {
        self.redactor = redactor;
        self
    }

    /// The same with somebody who counts.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn MemoryObserver>) -> Self {
        self.observer = observer;
        self
    }

    /// The same with a cache of answers that a fleet shares. Its own caches then know of the others' writes too; while
    /// the shared one does not answer, nothing is cached.
    #[must_use]
    pub fn sharing(mut self, cache: Arc<dyn SharedCache>) -> Self {
        self.shared = Some(cache);
        self
    }

    /// What it was made with.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// Where the records lie.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Who makes its vectors.
    pub fn embedder(&self) -> Arc<dyn Embedder> {
        Arc::clone(&self.encoder())
    }

    /// Who makes its vectors, until the guard goes.
    fn encoder(&self) -> RwLockReadGuard<'_, Arc<dyn Embedder>> {
        self.embedder.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another encoder takes over once `switch` has made the backend search by its vectors. Operations that make vectors
    /// and are under way are waited for, and those that come meanwhile wait, so `switch` should be quick.
    ///
    /// # Errors
    /// Those of `switch`; the old encoder stays then.
    pub fn switch_encoder<T>(&self, embedder: Arc<dyn Embedder>, switch: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut now = self.embedder.write().unwrap_or_else(PoisonError::into_inner);
        let switched = switch()?;
        *now = embedder;
        self.caches.encoder_changed();
        Ok(switched)
    }

    /// A record as it stands, or as it stood at `as_of`; `None`: it is not there, expired, or another partition's.
    ///
    /// # Errors
    /// The backend's.
    pub fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Option<Record>> {
        self.watched(Operation::Get, None, || self.backend.get(partition, id, as_of))
    }

    /// The selected records as they stand, in the order of their ids, at most `limit`, after `after`.
    ///
    /// # Errors
    /// [`crate::MemoryError::Invalid`] for a filter that is not valid; the backend's.
    pub fn list(&self, selection: &Selection, after: Option<RecordId>, limit: usize) -> Result<Vec<Record>> {
        self.watched(Operation::Get, None, || {
            let page = self.backend.scan(selection, None, after, limit)?;
            Ok(page.into_iter().map(|stored| stored.record).collect())
        })
    }

    /// Forgets records with their history, and what the caches hold of their partition. How many went.
    ///
    /// # Errors
    /// [`crate::MemoryError::Invalid`] for a filter that is not valid; the backend's.
    pub fn forget(&self, what: &Forget) -> Result<u64> {
        self.watched(Operation::Forget, None, || {
            if let Forget::Matching(selection) = what {
                selection.compile()?;
            }
            let gone = self.backend.forget(what);
            // Also after a failure, for a part may be gone.
            match what {
                Forget::Ids(partition, _) => self.forgotten(&partition.tenant, Some(&partition.domain)),
                Forget::Matching(selection) => {
                    let partition = &selection.scope.partition;
                    self.forgotten(&partition.tenant, Some(&partition.domain));
                }
                Forget::Tenant(tenant) => self.forgotten(tenant, None),
            }
            gone
        })
    }

    /// Removes what expired before `now`; to be called now and then. Searches leave expired records out before that.
    ///
    /// # Errors
    /// The backend's.
    pub fn expire(&self, now: Timestamp) -> Result<u64> {
        self.watched(Operation::Expire, None, || {
            let gone = self.backend.expire(now);
            if !matches!(gone, Ok(0)) {
                self.caches.written_anywhere();
            }
            gone
        })
    }

    /// What the backend puts off to a quiet moment; to be called now and then.
    ///
    /// # Errors
    /// The backend's.
    pub fn upkeep(&self) -> Result<()> {
        self.backend.upkeep()
    }

    /// Sizes of one partition, or of all, and counts of the caches.
    ///
    /// # Errors
    /// The backend's.
    pub fn stats(&self, partition: Option<&Partition>) -> Result<MemoryStats> {
        let embedder = self.embedder();
        Ok(MemoryStats {
            backend: self.backend.name(),
            encoder: embedder.name().to_owned(),
            dim: embedder.dim(),
            stored: self.backend.stats(partition)?,
            embedding_cache: self.caches.embedding_counts(),
            recall_cache: self.caches.recall_counts(),
        })
    }

    /// No answer from before a write in `partition` is given any more, here or by another server.
    fn written(&self, partition: &Partition) {
        self.caches.written(partition);
        if let Some(shared) = &self.shared {
            shared.invalidate(partition);
        }
    }

    /// What the caches hold of a partition, or of a whole tenant, is given no more.
    fn forgotten(&self, tenant: &Name, domain: Option<&Name>) {
        self.caches.forget(tenant, domain);
        if let Some(shared) = &self.shared {
            let domain = domain.cloned().unwrap_or_else(Scope::every_domain);
            shared.invalidate(&Partition { tenant: tenant.clone(), domain });
        }
    }

    /// The shared cache's generations of a partition and of all its tenant's domains; `None`: it does not answer.
    fn shared_generations(&self, shared: &dyn SharedCache, partition: &Partition) -> Option<[Generation; 2]> {
        let all = Partition { tenant: partition.tenant.clone(), domain: Scope::every_domain() };
        Some([shared.generation(partition)?, shared.generation(&all)?])
    }

    /// Runs an operation and tells the observer.
    fn watched<T>(&self, operation: Operation, kind: Option<Kind>, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let outcome = run();
        self.observer.operation(operation, kind, outcome.is_ok(), start.elapsed());
        outcome
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Memory");
        debug.field("backend", &self.backend.name()).field("encoder", &self.embedder().name());
        debug.field("config", &self.config).finish_non_exhaustive()
    }
}
