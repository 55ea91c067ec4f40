//! The memory of this process behind its doors: the facade over a backend, and what only the embedded one can do.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engram_memory::backend::embedded::Embedded;
use engram_memory::backend::{BackendStats, Forget, Selection, Written};
use engram_memory::ingest::{Manifest, ManifestStore, ORIGIN, Part};
use engram_memory::{
    Embedder, Kind, Memory, MemoryError, MemoryObserver, NewRecord, Partition, Patch, Provenance, Query, Recall,
    Record, RecordId, Result, Scope, Timestamp,
};

use super::store::{Count, MemoryStore, SnapshotReport};
use crate::metrics::Metrics;

/// Partitions that self-checks take turns with; past it they look at those only.
const MAX_CHECKED: usize = 64;
/// Records embedded together where that is done anew: a search waits for one batch at most.
const BATCH: usize = 32;
/// Neighbours that a self-check compares.
const CHECKED_K: usize = 10;

/// An open memory.
pub struct Opened {
    memory: Memory,
    /// There if the records lie in this process's own directory.
    embedded: Option<Arc<Embedded>>,
    /// Beside the records that lie here. There are none for a shared engine: another server that forgets a project
    /// could not drop them, so a tree is compared with the engine's records each time.
    manifests: Option<ManifestStore>,
    /// Partitions that were searched, the next to be checked last.
    searched: Mutex<(HashSet<Partition>, Vec<Partition>)>,
}

impl Opened {
    /// Over a facade, and its backend where that is the embedded one, in `dir`.
    pub fn new(memory: Memory, embedded: Option<Arc<Embedded>>, dir: &Path) -> Self {
        let manifests = embedded.as_ref().map(|_| manifests(dir));
        Self { memory, embedded, manifests, searched: Mutex::default() }
    }

    /// The embedded backend; `otherwise` says why only that can do it.
    fn embedded(&self, otherwise: &str) -> Result<&Arc<Embedded>> {
        self.embedded
            .as_ref()
            .ok_or_else(|| MemoryError::Invalid { field: "memory.backend".into(), message: otherwise.into() })
    }

    /// Forgets that what is about to be forgotten was indexed: the next run asks what is there.
    fn drop_manifests(&self, what: &Forget) -> Result<()> {
        let Some(manifests) = &self.manifests else { return Ok(()) };
        match what {
            Forget::Matching(selection) => manifests.remove(&selection.scope),
            Forget::Tenant(tenant) => manifests.remove_tenant(tenant),
            Forget::Ids(partition, ids) => {
                let mut done: HashSet<Scope> = HashSet::new();
                for stored in self.memory.backend().get_many(partition, ids)? {
                    let indexed = stored.record.metadata.get("origin").is_some_and(|origin| *origin == ORIGIN);
                    if indexed && done.insert(stored.record.scope.clone()) {
                        manifests.remove(&stored.record.scope)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn note(&self, partition: &Partition) {
        let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        if searched.0.len() < MAX_CHECKED && !searched.0.contains(partition) {
            searched.0.insert(partition.clone());
            searched.1.push(partition.clone());
        }
    }
}

impl MemoryStore for Opened {
    fn remember(&self, records: Vec<NewRecord>) -> Result<Vec<Written>> {
        self.memory.remember(records)
    }

    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Record> {
        self.memory.get(partition, id, as_of)?.ok_or(MemoryError::NotFound(id))
    }

    fn update(&self, partition: &Partition, id: RecordId, patch: Patch) -> Result<Record> {
        self.memory.update(partition, id, patch)
    }

    fn search(&self, query: &Query, count: Option<Count<'_>>) -> Result<Recall> {
        self.note(&query.scope.partition);
        match count {
            Some(count) => self.memory.search(query, Some(&|text: &str| count(text))),
            None => self.memory.search(query, None),
        }
    }

    fn list(&self, selection: &Selection, after: Option<RecordId>, limit: usize) -> Result<Vec<Record>> {
        self.memory.list(selection, after, limit)
    }

    fn relocate(&self, partition: &Partition, moved: Vec<(RecordId, Provenance)>) -> Result<u64> {
        self.memory.relocate(partition, moved)
    }

    fn manifest(&self, scope: &Scope) -> Result<Option<Manifest>> {
        self.manifests.as_ref().map_or(Ok(None), |manifests| manifests.load(scope))
    }

    fn keep_manifest(&self, scope: &Scope, manifest: &Manifest, part: Option<&Part>) -> Result<()> {
        match (&self.manifests, part) {
            (None, _) => Ok(()),
            (Some(manifests), None) => manifests.save(scope, manifest),
            (Some(manifests), Some(part)) => manifests.save_part(scope, part, manifest),
        }
    }

    fn forget(&self, what: &Forget) -> Result<u64> {
        self.drop_manifests(what)?;
        self.memory.forget(what)
    }

    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats> {
        Ok(self.memory.stats(partition)?.stored)
    }

    fn snapshot(&self, path: &Path) -> Result<SnapshotReport> {
        let embedded =
            self.embedded("a shared engine is backed up with its own tools: snapshots are the embedded memory's")?;
        let contents = embedded.snapshot(path)?;
        let sized = |source| MemoryError::Io { action: "look at", path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(sized)?.len();
        Ok(SnapshotReport { path: path.display().to_string(), records: contents.records.values().sum(), bytes })
    }

    fn self_check(&self, sample: usize) -> Result<Option<f64>> {
        let next = {
            let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
            // Round and round: the one that was looked at goes to the other end.
            let next = searched.1.pop();
            next.iter().for_each(|next| searched.1.insert(0, next.clone()));
            next
        };
        let Some(partition) = next else {
            return Ok(None);
        };
        let scope = Scope { partition, project: None, session: None };
        let check = self.memory.self_check(&Selection::all(scope), sample, CHECKED_K)?;
        Ok((check.sampled > 0).then_some(check.recall))
    }

    fn expire(&self) -> Result<u64> {
        self.memory.expire(Timestamp::now())
    }

    fn upkeep(&self) -> Result<()> {
        self.memory.upkeep()
    }

    fn encoder(&self) -> String {
        self.memory.embedder().name().to_owned()
    }

    fn reembed(&self, embedder: Arc<dyn Embedder>, go_on: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<bool> {
        let embedded =
            self.embedded("a shared engine keeps another encoder's records apart: index and remember them again")?;
        let Some(mut run) = embedded.begin_reembed(embedder.as_ref(), BATCH)? else { return Ok(true) };
        if run.embed(go_on)? {
            self.memory.switch_encoder(Arc::clone(&embedder), || run.switch())?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// The manifests of what was indexed into the embedded memory in `dir`.
pub fn manifests(dir: &Path) -> ManifestStore {
    ManifestStore::new(dir.join("manifests"))
}

/// Takes the lookups of the facade's caches into the metrics. Its operations are counted by the service, which knows
/// the waiting too.
pub struct CacheCounts(pub Arc<Metrics>);

impl MemoryObserver for CacheCounts {
    fn operation(&self, _: engram_memory::Operation, _: Option<Kind>, _: bool, _: Duration) {}

    fn cache(&self, name: &'static str, hit: bool) {
        self.0.memory().cache(name, hit);
    }
}
