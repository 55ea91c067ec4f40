//! Answers and vectors that need not be computed again.
//!
//! Everything is keyed by its partition, vectors of queries too: whether another tenant asked the same is not to be
//! told from how long an answer takes. An answer is found only under the partition's generation, which every write
//! replaces; it is used no longer than the shortest time of its kinds, and never holds an expired record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;
use serde::Serialize;

use crate::config::Caches;
use crate::query::{Hit, Query};
use crate::record::Record;
use crate::scope::{Name, Partition, Scope};

/// The caches of one memory.
#[derive(Debug)]
pub struct MemoryCaches {
    vectors: Option<Cache<VectorKey, Arc<[f32]>>>,
    recalls: Option<Cache<RecallKey, Arc<Answer>>>,
    times: Caches,
    generations: Generations,
    embedding: Counter,
    recall: Counter,
}

/// How often a cache was asked, and had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CacheCounts {
    /// Answered.
    pub hits: u64,
    /// Not there.
    pub misses: u64,
}

#[derive(Debug, Default)]
struct Counter {
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct VectorKey {
    partition: Partition,
    text: Box<str>,
}

/// Under which an answer is kept: the whole query, and what had been written when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecallKey {
    partition: Partition,
    /// Of everything, of the tenant, of the partition.
    generations: [u64; 3],
    query: Box<[u8]>,
}

#[derive(Debug)]
struct Answer {
    hits: Vec<Hit>,
    time: Duration,
}

struct AnswerTime;

impl Expiry<RecallKey, Arc<Answer>> for AnswerTime {
    fn expire_after_create(&self, _: &RecallKey, answer: &Arc<Answer>, _: Instant) -> Option<Duration> {
        Some(answer.time)
    }
}

/// A number for each partition, and for each tenant, that every write replaces by one that nobody had. Those of the
/// partitions asked lately are kept; one that is dropped is replaced too, which costs its answers and nothing else. No
/// partition's answers depend on another's writes, so that nobody learns of those from what is kept of his own.
#[derive(Debug)]
struct Generations {
    next: AtomicU64,
    everything: AtomicU64,
    of: Cache<Partition, u64>,
}

impl Generations {
    const KEPT: u64 = 1 << 16;

    fn new() -> Self {
        Self { next: AtomicU64::new(1), everything: AtomicU64::new(0), of: Cache::new(Self::KEPT) }
    }

    fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Of everything, of the partition's tenant, of the partition.
    fn standing(&self, partition: &Partition) -> [u64; 3] {
        let of = |partition: Partition| self.of.get_with(partition, || self.fresh());
        let tenant = every_domain(&partition.tenant);
        [self.everything.load(Ordering::SeqCst), of(tenant), of(partition.clone())]
    }

    fn replace(&self, partition: Partition) {
        self.of.insert(partition, self.fresh());
    }
}

/// Stands for all of a tenant.
fn every_domain(tenant: &Name) -> Partition {
    Partition { tenant: tenant.clone(), domain: Scope::every_domain() }
}

impl RecallKey {
    /// The whole question in bytes, what had been written apart.
    pub fn question(&self) -> &[u8] {
        &self.query
    }
}

impl Counter {
    fn count(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> CacheCounts {
        CacheCounts { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}

impl MemoryCaches {
    /// Empty caches of these sizes.
    pub fn new(config: &Caches) -> Self {
        let vectors = (config.embedding_bytes > 0).then(|| {
            Cache::builder()
                .max_capacity(config.embedding_bytes)
                .weigher(|key: &VectorKey, vector: &Arc<[f32]>| bytes(key.text.len() + vector.len() * 4 + 200))
                .time_to_idle(config.embedding_idle)
                .support_invalidation_closures()
                .build()
        });
        let recalls = (config.recall_bytes > 0).then(|| {
            Cache::builder()
                .max_capacity(config.recall_bytes)
                .weigher(|key: &RecallKey, answer: &Arc<Answer>| {
                    bytes(key.query.len() + answer.hits.iter().map(|hit| weight(&hit.record)).sum::<usize>() + 300)
                })
                .expire_after(AnswerTime)
                .support_invalidation_closures()
                .build()
        });
        Self {
            vectors,
            recalls,
            times: config.clone(),
            generations: Generations::new(),
            embedding: Counter::default(),
            recall: Counter::default(),
        }
    }

    /// The vector of a query's text, if it was asked in this partition before.
    pub fn vector(&self, partition: &Partition, text: &str) -> Option<Arc<[f32]>> {
        let key = VectorKey { partition: partition.clone(), text: text.into() };
        let found = self.vectors.as_ref()?.get(&key);
        self.embedding.count(found.is_some());
        found
    }

    /// Keeps a query's vector.
    pub fn keep_vector(&self, partition: &Partition, text: &str, vector: &Arc<[f32]>) {
        if let Some(vectors) = &self.vectors {
            vectors.insert(VectorKey { partition: partition.clone(), text: text.into() }, Arc::clone(vector));
        }
    }

    /// The key of a query, to be made before the search begins: a write after that makes it one nobody asks for.
    ///
    /// `shared` is the shared cache's generation, where others write too. The budget is no part of the key, for it
    /// is applied to the answer. `None`: answers are not cached.
    pub fn key(&self, query: &Query, shared: Option<u64>) -> Option<RecallKey> {
        self.recalls.as_ref()?;
        let partition = query.scope.partition.clone();
        let signals = [query.signals.dense, query.signals.lexical, query.signals.literal];
        let place = (&query.scope, &query.text, query.k, &query.kinds, shared);
        let conditions = (&query.filter, query.min_score.map(f32::to_bits), query.as_of, signals);
        let bytes = serde_json::to_vec(&(place, conditions)).ok()?;
        let generations = self.generations.standing(&partition);
        Some(RecallKey { partition, generations, query: bytes.into() })
    }

    /// The answer kept under a key.
    pub fn recall(&self, key: &RecallKey) -> Option<Vec<Hit>> {
        let found = self.recalls.as_ref()?.get(key);
        self.recall.count(found.is_some());
        found.map(|answer| answer.hits.clone())
    }

    /// Keeps the answer to `query`.
    pub fn keep_recall(&self, key: RecallKey, query: &Query, hits: &[Hit]) {
        if let Some(recalls) = &self.recalls {
            let time = self.time(query);
            recalls.insert(key, Arc::new(Answer { hits: hits.to_vec(), time }));
        }
    }

    /// How long the answer to `query` may be used.
    pub fn time(&self, query: &Query) -> Duration {
        self.times.recall_time(&query.kinds)
    }

    /// Something was written in a partition: no answer from before is given any more.
    pub fn written(&self, partition: &Partition) {
        self.generations.replace(partition.clone());
    }

    /// Something may have been written anywhere.
    pub fn written_anywhere(&self) {
        self.generations.everything.fetch_add(1, Ordering::SeqCst);
    }

    /// Something was forgotten in a partition, or all of a tenant: what was kept of it leaves memory, now.
    pub fn forget(&self, tenant: &Name, domain: Option<&Name>) {
        let (tenant, domain) = (tenant.clone(), domain.cloned());
        let whole = every_domain(&tenant);
        self.generations.replace(domain.clone().map_or(whole, |domain| Partition { tenant: tenant.clone(), domain }));
        let meant = move |partition: &Partition| {
            partition.tenant == tenant && domain.as_ref().is_none_or(|domain| partition.domain == *domain)
        };
        let also = meant.clone();
        // The caches take closures whenever they were built to, which `new` does.
        if let Some(recalls) = &self.recalls {
            let _predicate = recalls.invalidate_entries_if(move |key, _| meant(&key.partition));
            recalls.run_pending_tasks();
        }
        if let Some(vectors) = &self.vectors {
            let _predicate = vectors.invalidate_entries_if(move |key, _| also(&key.partition));
            vectors.run_pending_tasks();
        }
    }

    /// Another encoder is asked from now on: no vector of the old one is given any more, and no answer that one led to.
    pub fn encoder_changed(&self) {
        self.written_anywhere();
        if let Some(vectors) = &self.vectors {
            vectors.invalidate_all();
        }
    }

    /// Looks for vectors.
    pub fn embedding_counts(&self) -> CacheCounts {
        self.embedding.counts()
    }

    /// Looks for answers.
    pub fn recall_counts(&self) -> CacheCounts {
        self.recall.counts()
    }

    /// Answers that are kept, old ones that wait for their sweep too.
    pub fn recalls_kept(&self) -> u64 {
        self.recalls.as_ref().map_or(0, |recalls| {
            recalls.run_pending_tasks();
            recalls.entry_count()
        })
    }
}

fn bytes(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes of a record in memory, about; metadata as twice its JSON.
fn weight(record: &Record) -> usize {
    let metadata: usize = record.metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum();
    size_of::<Hit>() + record.content.len() + 2 * metadata + 200
}
