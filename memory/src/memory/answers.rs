//! The answer to one question, in this process's cache and in the one that servers share.

use crate::backend::redis::{Generation, SharedCache};
use crate::cache::RecallKey;
use crate::memory::Memory;
use crate::query::{Hit, Query};

/// Where the answer to a question may be kept. Made before the search begins, so that an answer which a write overtook
/// is kept where nobody looks.
pub(super) struct Answers<'a> {
    memory: &'a Memory,
    key: RecallKey,
    shared: Option<(&'a dyn SharedCache, Generation)>,
}

impl<'a> Answers<'a> {
    /// `None`: answers are not cached, where others write and nothing tells of it, or not now, while the cache that
    /// would tell does not answer.
    pub(super) fn of(memory: &'a Memory, query: &Query) -> Option<Self> {
        let Some(cache) = memory.shared.as_deref() else {
            let alone = !memory.backend.shared();
            let key = alone.then(|| memory.caches.key(query, None))??;
            return Some(Self { memory, key, shared: None });
        };
        let [own, all] = memory.shared_generations(cache, &query.scope.partition)?;
        // Both are random numbers of 64 bits, so one stands for the pair.
        let both = own.number() ^ all.number().rotate_left(32);
        let key = memory.caches.key(query, Some(both))?;
        Some(Self { memory, key, shared: Some((cache, own)) })
    }

    /// The answer, if it is kept here or by another server.
    pub(super) fn kept(&self, query: &Query) -> Option<Vec<Hit>> {
        if let Some(hits) = self.memory.caches.recall(&self.key) {
            return Some(hits);
        }
        let (cache, generation) = self.shared?;
        let bytes = cache.get(&query.scope.partition, generation, self.key.question())?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps it.
    pub(super) fn keep(self, query: &Query, hits: &[Hit]) {
        if let Some((cache, generation)) = self.shared
            && let Ok(bytes) = serde_json::to_vec(hits)
        {
            let time = self.memory.caches.time(query);
            cache.set(&query.scope.partition, generation, self.key.question(), &bytes, time);
        }
        self.memory.caches.keep_recall(self.key, query, hits);
    }
}
