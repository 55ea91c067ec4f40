//! A search of the past: what stood there then, read in full and ranked by the same rules.

use std::collections::HashMap;

use crate::backend::{Candidate, Selection, Stored};
use crate::error::{MemoryError, Result};
use crate::fuse::Rankings;
use crate::lexical::{LexicalIndex, LexicalParams, Words, content_words};
use crate::literal::LiteralIndex;
use crate::memory::Memory;
use crate::memory::rank::Ranker;
use crate::mmr::dot;
use crate::query::{Hit, Query};
use crate::record::{RecordId, Timestamp};

/// Records read at once.
const PAGE: usize = 1000;

impl Memory {
    pub(super) fn found_in_the_past(
        &self,
        query: &Query,
        selection: &Selection,
        vector: Option<&[f32]>,
        at: Timestamp,
        literals_only: bool,
    ) -> Result<Vec<Hit>> {
        let records = self.as_they_stood(selection, at)?;
        let weights = &self.config.weights;
        let candidates = (query.k * weights.candidates_per_hit).max(weights.min_candidates);
        let dense = vector.map(|vector| nearest(&records, vector, candidates));
        let words: Vec<(RecordId, Words<'_>)> =
            records.iter().map(|(&id, stored)| (id, Words::from(&stored.record))).collect();
        let index = LexicalIndex::build(LexicalParams::default(), &words);
        let lexical = query.signals.lexical.then(|| index.search(&content_words(&query.text), candidates, &|_| true));
        let literal = query.signals.literal.then(|| {
            let mut literals = LiteralIndex::default();
            words.iter().for_each(|(id, words)| literals.insert(*id, *words));
            let content = |id: RecordId| records.get(&id).map(|stored| stored.record.content.clone());
            literals.search(&index, &query.text, candidates, &|_| true, &content)
        });
        let ranker = Ranker { query, weights, now: at, literals_only };
        ranker.hits(&Rankings { dense, lexical, literal }, |ids| {
            Ok(ids.iter().filter_map(|id| records.get(id).cloned()).collect())
        })
    }

    fn as_they_stood(&self, selection: &Selection, at: Timestamp) -> Result<HashMap<RecordId, Stored>> {
        let limit = self.config.limits.past_records;
        let mut records = HashMap::new();
        let mut after = None;
        loop {
            let page = self.backend.scan(selection, Some(at), after, PAGE)?;
            let Some(last) = page.last() else { return Ok(records) };
            after = Some(last.record.id);
            records.extend(page.into_iter().map(|stored| (stored.record.id, stored)));
            if records.len() > limit {
                return Err(MemoryError::TooLarge {
                    what: "past in records (narrow it by scope or filter)",
                    size: records.len(),
                    limit,
                });
            }
        }
    }
}

fn nearest(records: &HashMap<RecordId, Stored>, vector: &[f32], k: usize) -> Vec<Candidate> {
    let score = |(&id, stored): (&RecordId, &Stored)| Candidate { id, score: dot(&stored.vector, vector) };
    let mut all: Vec<Candidate> = records.iter().map(score).collect();
    all.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    all.truncate(k);
    all
}
