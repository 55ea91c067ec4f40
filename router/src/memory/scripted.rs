//! A memory for tests of the doors, where a failure must come on cue: records in a list, found by the words they
//! share with the query. The real one is tested in its own crate, and over HTTP with everything that belongs to it.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engram_memory::backend::{BackendStats, Forget, Selection, Written};
use engram_memory::ingest::{Manifest, Part};
use engram_memory::{
    Embedder, Hit, Lifetime, MemoryError, NewRecord, Partition, Patch, Provenance, Query, Recall, Record, RecordId,
    Result, Scope, SignalScores, Timestamp,
};

use super::store::{Count, MemoryStore, SnapshotReport};

/// The list, and the knobs that tests turn.
#[derive(Default)]
pub struct Scripted {
    records: Mutex<Vec<Record>>,
    manifests: Mutex<Vec<(Scope, Manifest)>>,
    encoder: Mutex<String>,
    /// The next operation fails.
    pub fail: AtomicBool,
    /// Every operation takes so long.
    pub delay_millis: AtomicU64,
}

impl Scripted {
    /// All records.
    pub fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> Result<()> {
        std::thread::sleep(Duration::from_millis(self.delay_millis.load(Ordering::SeqCst)));
        if self.fail.swap(false, Ordering::SeqCst) {
            return Err(MemoryError::Backend {
                backend: "scripted",
                message: "told to, at /a/secret".into(),
                retryable: true,
            });
        }
        Ok(())
    }
}

fn words(text: &str) -> HashSet<String> {
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Whether a record shows in a search of its session and of no other; the only filter that recall makes.
fn shows(query: &Query, record: &Record) -> bool {
    let Some(filter) = &query.filter else { return true };
    let text = serde_json::to_string(filter).unwrap_or_default();
    record.scope.session.as_ref().is_none_or(|session| text.contains(&format!("\"value\":\"{session}\"")))
}

impl MemoryStore for Scripted {
    fn remember(&self, records: Vec<NewRecord>) -> Result<Vec<Written>> {
        self.turn()?;
        let mut all = self.records();
        Ok(records
            .into_iter()
            .map(|new| {
                let id = RecordId::of(&new.scope, new.kind, &new.content, 0);
                if let Some(known) = all.iter_mut().find(|record| record.id == id) {
                    known.seen += 1;
                    return Written::SeenAgain(known.clone());
                }
                let now = Timestamp::now();
                let expires = match new.lifetime {
                    Lifetime::For(time) => Some(Timestamp(now.0 + time.as_millis() as u64)),
                    Lifetime::OfKind | Lifetime::Forever => None,
                };
                let record = Record {
                    metadata: new.metadata,
                    provenance: new.provenance,
                    expires,
                    pinned: new.pinned,
                    ..Record::new(new.scope, new.kind, new.content, now)
                };
                all.push(record.clone());
                Written::Created(record)
            })
            .collect())
    }

    fn get(&self, partition: &Partition, id: RecordId, _: Option<Timestamp>) -> Result<Record> {
        self.turn()?;
        let all = self.records();
        let here = |record: &&Record| record.id == id && record.scope.partition == *partition;
        all.iter().find(here).cloned().ok_or(MemoryError::NotFound(id))
    }

    fn update(&self, partition: &Partition, id: RecordId, patch: Patch) -> Result<Record> {
        self.turn()?;
        let mut all = self.records();
        let here = |record: &&mut Record| record.id == id && record.scope.partition == *partition;
        let record = all.iter_mut().find(here).ok_or(MemoryError::NotFound(id))?;
        if let Some(content) = patch.content {
            record.content = content;
            record.version += 1;
        }
        record.pinned = patch.pinned.unwrap_or(record.pinned);
        match patch.useful {
            Some(true) => record.feedback.useful += 1,
            Some(false) => record.feedback.wrong += 1,
            None => {}
        }
        Ok(record.clone())
    }

    fn search(&self, query: &Query, count: Option<Count<'_>>) -> Result<Recall> {
        self.turn()?;
        let wanted = words(&query.text);
        let mut hits: Vec<Hit> = self
            .records()
            .iter()
            .filter(|record| query.scope.covers(&record.scope) && shows(query, record))
            .filter(|record| query.kinds.is_empty() || query.kinds.contains(&record.kind))
            .map(|record| {
                let shared = words(&record.content).intersection(&wanted).count();
                let score = shared as f32 / wanted.len().max(1) as f32;
                let tokens = count.map(|count| count(&record.content));
                Hit { record: record.clone(), score, signals: SignalScores::default(), tokens }
            })
            .filter(|hit| hit.score > 0.0 && hit.score >= query.min_score.unwrap_or(0.0))
            .collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        hits.truncate(query.k);
        Ok(Recall { hits, cached: false, embed: Duration::ZERO, search: Duration::ZERO })
    }

    fn forget(&self, what: &Forget) -> Result<u64> {
        self.turn()?;
        let mut all = self.records();
        let before = all.len();
        all.retain(|record| match what {
            Forget::Ids(partition, ids) => record.scope.partition != *partition || !ids.contains(&record.id),
            Forget::Matching(selection) => {
                !selection.scope.covers(&record.scope)
                    || !(selection.kinds.is_empty() || selection.kinds.contains(&record.kind))
            }
            Forget::Tenant(tenant) => record.scope.partition.tenant != *tenant,
        });
        Ok((before - all.len()) as u64)
    }

    fn list(&self, selection: &Selection, after: Option<RecordId>, limit: usize) -> Result<Vec<Record>> {
        self.turn()?;
        let selection = selection.compile()?;
        let mut found: Vec<Record> =
            self.records().iter().filter(|record| selection.matches(record)).cloned().collect();
        found.retain(|record| after.is_none_or(|after| record.id > after));
        found.sort_by_key(|record| record.id);
        found.truncate(limit);
        Ok(found)
    }

    fn relocate(&self, partition: &Partition, moved: Vec<(RecordId, Provenance)>) -> Result<u64> {
        self.turn()?;
        let mut count = 0;
        for record in self.records().iter_mut().filter(|record| record.scope.partition == *partition) {
            if let Some((_, provenance)) = moved.iter().find(|(id, _)| *id == record.id) {
                record.provenance = provenance.clone();
                count += 1;
            }
        }
        Ok(count)
    }

    fn manifest(&self, scope: &Scope) -> Result<Option<Manifest>> {
        self.turn()?;
        let kept = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.iter().find(|(of, _)| of == scope).map(|(_, manifest)| manifest.clone()))
    }

    fn keep_manifest(&self, scope: &Scope, manifest: &Manifest, part: Option<&Part>) -> Result<()> {
        self.turn()?;
        assert!(part.is_none(), "parts are put together by the real store, in its own tests");
        let mut kept = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(of, _)| of != scope);
        kept.push((scope.clone(), manifest.clone()));
        Ok(())
    }

    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats> {
        self.turn()?;
        let mut stats = BackendStats::default();
        let all = self.records();
        for record in all.iter().filter(|record| partition.is_none_or(|wanted| record.scope.partition == *wanted)) {
            *stats.records.entry(record.kind.to_string()).or_default() += 1;
            stats.vectors += 1;
        }
        Ok(stats)
    }

    fn snapshot(&self, path: &Path) -> Result<SnapshotReport> {
        self.turn()?;
        let records = self.records().len() as u64;
        let failed = |source| MemoryError::Io { action: "write", path: path.to_owned(), source };
        std::fs::write(path, b"scripted").map_err(failed)?;
        Ok(SnapshotReport { path: path.display().to_string(), records, bytes: 8 })
    }

    fn self_check(&self, _: usize) -> Result<Option<f64>> {
        self.turn()?;
        Ok(None)
    }

    fn expire(&self) -> Result<u64> {
        self.turn()?;
        Ok(0)
    }

    fn upkeep(&self) -> Result<()> {
        self.turn()
    }

    fn encoder(&self) -> String {
        self.encoder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reembed(&self, embedder: Arc<dyn Embedder>, go_on: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<bool> {
        let count = self.records().len() as u64;
        for done in 1..=count {
            self.turn()?;
            if go_on(done).is_break() {
                return Ok(false);
            }
        }
        *self.encoder.lock().unwrap_or_else(PoisonError::into_inner) = embedder.name().to_owned();
        Ok(true)
    }
}
