//! How much the index misses, measured on a sample while it serves.

use std::collections::HashSet;
use std::sync::Arc;

use rand::RngExt;
use serde::Serialize;

use crate::backend::{Selection, Stored};
use crate::error::Result;
use crate::memory::Memory;
use crate::mmr::dot;
use crate::record::RecordId;

/// Records read at once.
const PAGE: usize = 1000;

/// The outcome of [`Memory::self_check`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SelfCheck {
    /// Records whose neighbours were looked for.
    pub sampled: usize,
    /// Records that were compared with, each.
    pub scanned: usize,
    /// Share of the true `k` nearest that the index gave, 0 to 1; 1 where there was nothing to find.
    pub recall: f64,
}

impl Memory {
    /// Takes up to `sample` random records of a selection as queries and compares the index's `k` nearest with those
    /// of an exact scan. It reads the whole selection once, page by page.
    ///
    /// A record as near as the last of the true nearest counts as found, so equal vectors do not look like misses.
    ///
    /// # Errors
    /// The backend's.
    pub fn self_check(&self, selection: &Selection, sample: usize, k: usize) -> Result<SelfCheck> {
        let before = self.embedder();
        let compared = self.compared(selection, sample, k);
        if Arc::ptr_eq(&before, &self.embedder()) {
            return compared;
        }
        // Another encoder took over, and its vectors were compared with the old one's: nothing was found out.
        Ok(SelfCheck { sampled: 0, scanned: 0, recall: 1.0 })
    }

    fn compared(&self, selection: &Selection, sample: usize, k: usize) -> Result<SelfCheck> {
        let queries = self.sampled(selection, sample)?;
        let mut nearest: Vec<Vec<f32>> = vec![Vec::new(); queries.len()];
        let (mut scanned, mut after) = (0, None);
        loop {
            let page = self.backend.scan(selection, None, after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.record.id);
            scanned += page.len();
            for (query, nearest) in queries.iter().zip(&mut nearest) {
                nearest.extend(page.iter().map(|stored| dot(&stored.vector, &query.vector)));
                nearest.sort_unstable_by(|a, b| b.total_cmp(a));
                nearest.truncate(k);
            }
        }
        let (mut found, mut wanted) = (0, 0);
        for (query, nearest) in queries.iter().zip(&nearest) {
            // The index may keep vectors in fewer bits than the scan reads.
            let least = nearest.last().map_or(f32::MAX, |least| least - 1e-3);
            let given = self.backend.nearest(selection, &query.vector, k)?;
            found += given.iter().filter(|candidate| candidate.score >= least).count().min(nearest.len());
            wanted += nearest.len();
        }
        let recall = if wanted == 0 { 1.0 } else { found as f64 / wanted as f64 };
        Ok(SelfCheck { sampled: queries.len(), scanned, recall })
    }

    /// Ids are hashes, so what follows a random id is a random record.
    fn sampled(&self, selection: &Selection, sample: usize) -> Result<Vec<Stored>> {
        let mut rng = rand::rng();
        let mut seen = HashSet::new();
        let mut queries = Vec::new();
        for _ in 0..sample {
            let from = RecordId(rng.random());
            let mut next = self.backend.scan(selection, None, Some(from), 1)?;
            if next.is_empty() {
                next = self.backend.scan(selection, None, None, 1)?;
            }
            queries.extend(next.into_iter().filter(|stored| seen.insert(stored.record.id)));
        }
        Ok(queries)
    }
}
