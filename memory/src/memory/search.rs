//! Records coming out: one search over all signals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Selection;
use crate::embedder::{Embedder, Side};
use crate::error::{MemoryError, Result};
use crate::fuse::Rankings;
use crate::lexical::content_words;
use crate::literal::Literals;
use crate::memory::Memory;
use crate::memory::answers::Answers;
use crate::memory::rank::Ranker;
use crate::observer::Operation;
use crate::query::{Hit, Query, Recall};
use crate::record::Timestamp;
use crate::scope::Partition;

/// Counts the tokens of a text, for [`Query::budget_tokens`].
pub type CountTokens<'a> = &'a dyn Fn(&str) -> usize;

impl Memory {
    /// Finds what is like a query, in meaning, in words, and as it stands; best first, each with its reasons.
    ///
    /// With `budget_tokens`, `count` is asked for each hit; a hit that does not fit any more is left out whole, and
    /// smaller ones below it may still come. With `as_of` the past is searched, exactly: all records of the selection
    /// are read, so it is slow and bounded by [`crate::config::Limits::past_records`].
    ///
    /// Hits are in the order of their scores, but for copies of a hit above, which stand further below.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] or [`MemoryError::TooLarge`] for what cannot be asked; the encoder's and the backend's.
    pub fn search(&self, query: &Query, count: Option<CountTokens<'_>>) -> Result<Recall> {
        let kind = if let [kind] = query.kinds.as_slice() { Some(*kind) } else { None };
        self.watched(Operation::Search, kind, || {
            let selection = self.checked(query, count.is_some())?;
            let answers = Answers::of(self, query);
            let start = Instant::now();
            let cached = answers.as_ref().and_then(|answers| {
                let hits = answers.kept(query);
                self.observer.cache("recall", hits.is_some());
                hits
            });
            if let Some(hits) = cached {
                let hits = within_budget(unexpired(hits, query), query, count);
                return Ok(Recall { hits, cached: true, embed: Duration::ZERO, search: start.elapsed() });
            }
            let encoder = self.encoder();
            let (vector, embed) = self.query_vector(query, encoder.as_ref())?;
            let start = Instant::now();
            let hits = self.found(query, &selection, vector.as_deref())?;
            let search = start.elapsed();
            if let Some(answers) = answers {
                answers.keep(query, &hits);
            }
            Ok(Recall { hits: within_budget(unexpired(hits, query), query, count), cached: false, embed, search })
        })
    }

    fn checked(&self, query: &Query, counted: bool) -> Result<Selection> {
        let limits = &self.config.limits;
        let invalid = |field: &str, message: String| Err(MemoryError::Invalid { field: field.to_owned(), message });
        if query.text.len() > limits.query_bytes {
            let size = query.text.len();
            return Err(MemoryError::TooLarge { what: "query in bytes", size, limit: limits.query_bytes });
        }
        if query.text.trim().is_empty() {
            return invalid("query", "is empty: say what is looked for".to_owned());
        }
        if query.k == 0 || query.k > limits.k {
            return invalid("k", format!("is {}, from 1 to {} hits may be asked for", query.k, limits.k));
        }
        if query.min_score.is_some_and(|score| !(0.0..=1.0).contains(&score)) {
            return invalid("min_score", "lies between 0 and 1".to_owned());
        }
        if query.budget_tokens.is_some() && !counted {
            return invalid("budget_tokens", "needs a model whose tokens are counted".to_owned());
        }
        let signals = query.signals;
        if !(signals.dense || signals.lexical || signals.literal) {
            return invalid("signals", "none is asked: use dense, lexical or literal".to_owned());
        }
        let selection =
            Selection { scope: query.scope.clone(), kinds: query.kinds.clone(), filter: query.filter.clone() };
        selection.compile()?;
        Ok(selection)
    }

    /// The query's vector, if its signals need one, and how long it took to make.
    fn query_vector(&self, query: &Query, encoder: &dyn Embedder) -> Result<(Option<Arc<[f32]>>, Duration)> {
        if !query.signals.dense {
            return Ok((None, Duration::ZERO));
        }
        let partition: &Partition = &query.scope.partition;
        let kept = self.caches.vector(partition, &query.text);
        self.observer.cache("embedding", kept.is_some());
        if kept.is_some() {
            return Ok((kept, Duration::ZERO));
        }
        let start = Instant::now();
        let mut made = encoder.embed(&[&query.text], Side::Query)?;
        let vector: Option<Arc<[f32]>> = made.pop().map(Into::into);
        if let Some(vector) = &vector {
            self.caches.keep_vector(partition, &query.text, vector);
        }
        Ok((vector, start.elapsed()))
    }

    /// The hits, before their budget.
    fn found(&self, query: &Query, selection: &Selection, vector: Option<&[f32]>) -> Result<Vec<Hit>> {
        let weights = &self.config.weights;
        let literals = if query.signals.literal { Literals::of(&query.text) } else { Literals::default() };
        if let Some(at) = query.as_of {
            return self.found_in_the_past(query, selection, vector, at, literals.only);
        }
        let candidates = (query.k * weights.candidates_per_hit).max(weights.min_candidates);
        let dense = vector.map(|vector| self.backend.nearest(selection, vector, candidates)).transpose()?;
        let lexical =
            query.signals.lexical.then(|| self.backend.lexical(selection, &content_words(&query.text), candidates));
        let literal = (!literals.all.is_empty()).then(|| self.backend.literal(selection, &query.text, candidates));
        let rankings = Rankings { dense, lexical: lexical.transpose()?, literal: literal.transpose()? };
        let ranker = Ranker { query, weights, now: Timestamp::now(), literals_only: literals.only };
        ranker.hits(&rankings, |ids| self.backend.get_many(&selection.scope.partition, ids))
    }
}

/// Records may expire while their answer is cached.
fn unexpired(mut hits: Vec<Hit>, query: &Query) -> Vec<Hit> {
    let now = query.as_of.unwrap_or_else(Timestamp::now);
    hits.retain(|hit| !hit.record.expired(now));
    hits
}

/// The hits that fit into the budget, whole, from the best down.
fn within_budget(mut hits: Vec<Hit>, query: &Query, count: Option<CountTokens<'_>>) -> Vec<Hit> {
    let Some(count) = count else { return hits };
    let mut left = query.budget_tokens.unwrap_or(usize::MAX);
    hits.retain_mut(|hit| {
        let tokens = count(&hit.record.content);
        hit.tokens = Some(tokens);
        let fits = tokens <= left;
        left -= if fits { tokens } else { 0 };
        fits
    });
    hits
}
