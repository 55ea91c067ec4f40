//! From rankings to hits: fused, weighed, and set apart from their copies.

use std::collections::HashMap;

use crate::backend::Stored;
use crate::config::Weights;
use crate::error::Result;
use crate::fuse::{Fused, Rankings, fuse};
use crate::mmr::diverse;
use crate::query::{Hit, Query, SignalScores};
use crate::record::{RecordId, Timestamp};

/// What a ranking goes by.
pub(super) struct Ranker<'a> {
    pub query: &'a Query,
    pub weights: &'a Weights,
    /// Ages are counted to here.
    pub now: Timestamp,
    /// The query is nothing but literals: exact matches come before all else, and their scores lie above 0.5.
    pub literals_only: bool,
}

struct Weighed {
    hit: Hit,
    vector: Vec<f32>,
    exact: bool,
}

impl Ranker<'_> {
    /// The hits of `rankings`; `read` gives records with their vectors.
    pub fn hits(&self, rankings: &Rankings, read: impl FnOnce(&[RecordId]) -> Result<Vec<Stored>>) -> Result<Vec<Hit>> {
        let mut fused = fuse(rankings, self.weights);
        if self.literals_only {
            fused.sort_by(|a, b| b.literal.unwrap_or(0.0).total_cmp(&a.literal.unwrap_or(0.0)));
        }
        // Weights and copies can lift a hit over others by some places, not over all: more need not be read.
        fused.truncate(self.query.k * 2 + 10);
        let ids: Vec<RecordId> = fused.iter().map(|hit| hit.id).collect();
        let mut stored: HashMap<RecordId, Stored> =
            read(&ids)?.into_iter().map(|stored| (stored.record.id, stored)).collect();
        let strongest = fused.iter().filter_map(|hit| hit.literal).fold(1.0, f32::max);
        let mut weighed: Vec<Weighed> = fused
            .iter()
            .filter_map(|hit| Some(self.weigh(hit, strongest, stored.remove(&hit.id)?)))
            .filter(|weighed| self.query.min_score.is_none_or(|least| weighed.hit.score >= least))
            .collect();
        weighed.sort_by(|a, b| b.hit.score.total_cmp(&a.hit.score).then(a.hit.record.id.cmp(&b.hit.record.id)));
        Ok(self.apart(weighed))
    }

    fn weigh(&self, fused: &Fused, strongest: f32, stored: Stored) -> Weighed {
        let Stored { record, vector } = stored;
        let signals = SignalScores {
            dense: fused.dense,
            lexical: fused.lexical,
            literal: fused.literal,
            recency: self.weights.recency_factor(record.kind, self.now.0.saturating_sub(record.updated.0)),
            trust: self.weights.trust_factor(record.provenance.trust),
            feedback: self.weights.feedback_factor(record.feedback),
        };
        let factor = signals.recency * signals.trust * signals.feedback;
        let weighed = |score: f32| (score * factor).min(1.0);
        let exact = self.literals_only && fused.literal.is_some();
        let score = match (self.literals_only, fused.literal) {
            (false, _) => weighed(fused.score),
            // The strength of the match decides; what else speaks for a hit orders equal ones.
            (true, Some(literal)) => 0.5 + 0.5 * weighed(0.8 * literal / strongest + 0.2 * fused.score),
            (true, None) => 0.5 * weighed(fused.score),
        };
        Weighed { hit: Hit { record, score, signals, tokens: None }, vector, exact }
    }

    /// The first `k` with copies set back; an exact match is never set back behind a hit that is none.
    fn apart(&self, weighed: Vec<Weighed>) -> Vec<Hit> {
        let (exact, other): (Vec<_>, Vec<_>) = weighed.into_iter().partition(|weighed| weighed.exact);
        let mut hits = Vec::with_capacity(self.query.k);
        for group in [exact, other] {
            let scored: Vec<(f32, &[f32])> =
                group.iter().map(|weighed| (weighed.hit.score, weighed.vector.as_slice())).collect();
            let order = diverse(&scored, self.query.k - hits.len(), self.weights);
            let mut group: Vec<Option<Hit>> = group.into_iter().map(|weighed| Some(weighed.hit)).collect();
            hits.extend(order.into_iter().filter_map(|place| group[place].take()));
        }
        hits
    }
}
