//! What of a memory can be set: limits, lifetimes, caches, and the weights of a search.

use std::time::Duration;

use crate::error::{MemoryError, Result};
use crate::record::{Feedback, Kind, Trust};

/// All settings of a [`crate::Memory`], fixed once it is made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MemoryConfig {
    /// What is refused as too large.
    pub limits: Limits,
    /// How long records are kept.
    pub lifetimes: Lifetimes,
    /// How much is cached, and how long.
    pub caches: Caches,
    /// How hits are ranked.
    pub weights: Weights,
}

/// Sizes past which a request is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// A record's content, bytes.
    pub content_bytes: usize,
    /// A record's metadata as JSON, bytes.
    pub metadata_bytes: usize,
    /// Records in one call.
    pub records: usize,
    /// A query's text, bytes; the encoder reads only its beginning.
    pub query_bytes: usize,
    /// Hits a search may ask for.
    pub k: usize,
    /// Texts handed to the encoder at once.
    pub embed_batch: usize,
    /// Records that a search of the past may scan: it holds them all in memory.
    pub past_records: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            content_bytes: 256 << 10,
            metadata_bytes: 16 << 10,
            records: 1000,
            query_bytes: 64 << 10,
            k: 200,
            embed_batch: 64,
            past_records: 100_000,
        }
    }
}

/// How long a record of each kind is kept when its writer does not say; `None`: until it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifetimes {
    /// Source: it goes when its file goes, not by age.
    pub code: Option<Duration>,
    /// Patterns and decisions.
    pub knowledge: Option<Duration>,
    /// What was said: 30 days.
    pub conversation: Option<Duration>,
    /// Prose.
    pub document: Option<Duration>,
    /// How something is done: 180 days, for tools change.
    pub workflow: Option<Duration>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for Lifetimes {
    fn default() -> Self {
        Self { code: None, knowledge: None, conversation: Some(DAY * 30), document: None, workflow: Some(DAY * 180) }
    }
}

impl Lifetimes {
    /// Of one kind.
    pub fn of(&self, kind: Kind) -> Option<Duration> {
        match kind {
            Kind::Code => self.code,
            Kind::Knowledge => self.knowledge,
            Kind::Conversation => self.conversation,
            Kind::Document => self.document,
            Kind::Workflow => self.workflow,
        }
    }
}

/// Sizes and times of the caches; a size of 0 turns one off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caches {
    /// Vectors of queries, bytes.
    pub embedding_bytes: u64,
    /// How long a query's vector is kept unasked.
    pub embedding_idle: Duration,
    /// Answers to searches, bytes.
    pub recall_bytes: u64,
    /// How long an answer with code may be used.
    pub code: Duration,
    /// With knowledge, documents or workflows.
    pub knowledge: Duration,
    /// With conversations.
    pub conversation: Duration,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            embedding_bytes: 32 << 20,
            embedding_idle: Duration::from_secs(3600),
            recall_bytes: 64 << 20,
            code: Duration::from_secs(30 * 60),
            knowledge: Duration::from_secs(60 * 60),
            conversation: Duration::from_secs(5 * 60),
        }
    }
}

impl Caches {
    /// How long an answer may be used in which records of these kinds could stand (none: all kinds): the shortest
    /// of their times.
    pub fn recall_time(&self, kinds: &[Kind]) -> Duration {
        let kinds = if kinds.is_empty() { &Kind::ALL } else { kinds };
        let time = |kind: &Kind| match kind {
            Kind::Code => self.code,
            Kind::Knowledge | Kind::Document | Kind::Workflow => self.knowledge,
            Kind::Conversation => self.conversation,
        };
        kinds.iter().map(time).min().unwrap_or_default()
    }
}

/// How one ranking is made of several signals.
///
/// A hit's score is `sum over signals of weight / (rrf_k + rank)`, as a share of what a hit first in all signals
/// would have, times its factors of age, trust and feedback. So 1 is a fresh, trusted hit that every signal put first.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// The constant of reciprocal rank fusion (Cormack et al. 2009); the smaller, the more first places count.
    pub rrf_k: f32,
    /// Weight of nearness in meaning.
    pub dense: f32,
    /// Weight of BM25.
    pub lexical: f32,
    /// Weight of exact matches, where a query holds literals among other words.
    pub literal: f32,
    /// Candidates taken from each signal, for each hit asked for.
    pub candidates_per_hit: usize,
    /// Candidates taken from each signal at least.
    pub min_candidates: usize,
    /// What age can take of a score, 0 to 1.
    pub recency: f32,
    /// Age at which half of it is taken: conversations.
    pub conversation_half_life: Duration,
    /// Age at which half of it is taken: all kinds but code and documents, which do not age.
    pub knowledge_half_life: Duration,
    /// Factor of what a tool reported; a user's word is 1.
    pub trust_tool: f32,
    /// Factor of what a model wrote.
    pub trust_model: f32,
    /// Factor of what was imported.
    pub trust_imported: f32,
    /// What one call of `useful` adds to the factor of feedback; n calls add ln(1 + n) as much.
    pub useful: f32,
    /// What one call of `wrong` takes, in the same way.
    pub wrong: f32,
    /// Share of relevance in maximal marginal relevance (Carbonell & Goldstein 1998); the rest is unlikeness to the
    /// hits above.
    pub mmr_lambda: f32,
    /// Cosine from which a new record is looked at as a copy of one that is there, see [`crate::Memory::remember`].
    pub near_copy: f32,
    /// Cosine between two records from which likeness counts: below it they are not copies, only of one subject.
    pub mmr_from: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            rrf_k: 10.0,
            dense: 1.0,
            lexical: 1.0,
            literal: 0.1,
            candidates_per_hit: 5,
            min_candidates: 50,
            recency: 0.15,
            conversation_half_life: DAY * 7,
            knowledge_half_life: DAY * 90,
            trust_tool: 0.97,
            trust_model: 0.92,
            trust_imported: 0.95,
            useful: 0.08,
            wrong: 0.35,
            mmr_lambda: 0.7,
            near_copy: 0.97,
            mmr_from: 0.9,
        }
    }
}

impl Weights {
    /// Least and most a hit's feedback makes of its score.
    pub const FEEDBACK: (f32, f32) = (0.1, 1.3);

    /// Factor of an age in milliseconds, `1 - recency` to 1.
    pub fn recency_factor(&self, kind: Kind, age_ms: u64) -> f32 {
        let half_life = match kind {
            Kind::Code | Kind::Document => return 1.0,
            Kind::Conversation => self.conversation_half_life,
            Kind::Knowledge | Kind::Workflow => self.knowledge_half_life,
        };
        let lives = Duration::from_millis(age_ms).as_secs_f32() / half_life.as_secs_f32();
        1.0 - self.recency * (1.0 - (-lives).exp2())
    }

    /// Factor of who said it.
    pub fn trust_factor(&self, trust: Trust) -> f32 {
        match trust {
            Trust::User => 1.0,
            Trust::Tool => self.trust_tool,
            Trust::Model => self.trust_model,
            Trust::Imported => self.trust_imported,
        }
    }

    /// Factor of what users said, within [`Weights::FEEDBACK`].
    pub fn feedback_factor(&self, feedback: Feedback) -> f32 {
        let shift = self.useful * (feedback.useful as f32).ln_1p() - self.wrong * (feedback.wrong as f32).ln_1p();
        let (least, most) = Self::FEEDBACK;
        (1.0 + shift).clamp(least, most)
    }
}

impl MemoryConfig {
    /// Checks what could not work.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] names the key and its range.
    pub fn validate(&self) -> Result<()> {
        let weights = &self.weights;
        let within = |field: &str, value: f32, low: f32, high: f32| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let message = format!("is {value}, from {low} to {high} is possible");
            Err(MemoryError::Invalid { field: format!("memory.weights.{field}"), message })
        };
        within("rrf_k", weights.rrf_k, 1.0, 1000.0)?;
        within("dense", weights.dense, 0.0, 100.0)?;
        within("lexical", weights.lexical, 0.0, 100.0)?;
        within("literal", weights.literal, 0.0, 100.0)?;
        within("recency", weights.recency, 0.0, 1.0)?;
        within("trust_tool", weights.trust_tool, 0.0, 1.0)?;
        within("trust_model", weights.trust_model, 0.0, 1.0)?;
        within("trust_imported", weights.trust_imported, 0.0, 1.0)?;
        within("useful", weights.useful, 0.0, 10.0)?;
        within("wrong", weights.wrong, 0.0, 10.0)?;
        within("mmr_lambda", weights.mmr_lambda, 0.0, 1.0)?;
        within("near_copy", weights.near_copy, 0.5, 1.1)?;
        within("mmr_from", weights.mmr_from, 0.0, 0.999)?;
        within("conversation_half_life", weights.conversation_half_life.as_secs_f32(), 1.0, f32::MAX)?;
        within("knowledge_half_life", weights.knowledge_half_life.as_secs_f32(), 1.0, f32::MAX)?;
        let Limits { content_bytes, metadata_bytes, records, query_bytes, k, embed_batch, past_records } = self.limits;
        let sizes = [
            ("limits.content_bytes", content_bytes),
            ("limits.metadata_bytes", metadata_bytes),
            ("limits.records", records),
            ("limits.query_bytes", query_bytes),
            ("limits.k", k),
            ("limits.embed_batch", embed_batch),
            ("limits.past_records", past_records),
            ("weights.candidates_per_hit", weights.candidates_per_hit),
            ("weights.min_candidates", weights.min_candidates),
        ];
        match sizes.into_iter().find(|&(_, size)| size == 0) {
            None => Ok(()),
            Some((field, _)) => {
                let message = "is 0, at least 1 is needed".to_owned();
                Err(MemoryError::Invalid { field: format!("memory.{field}"), message })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors() {
        let weights = Weights { recency: 0.2, ..Weights::default() };
        let check = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
        let week = 7 * 24 * 3600 * 1000;
        check(weights.recency_factor(Kind::Code, week), 1.0);
        check(weights.recency_factor(Kind::Conversation, 0), 1.0);
        check(weights.recency_factor(Kind::Conversation, week), 0.9);
        check(weights.recency_factor(Kind::Conversation, 1000 * week), 0.8);
        check(weights.feedback_factor(Feedback::default()), 1.0);
        check(weights.feedback_factor(Feedback { useful: 1, wrong: 1 }), 1.0 - 0.27 * 2f32.ln());
        check(weights.feedback_factor(Feedback { useful: 0, wrong: u32::MAX }), 0.1);
        check(weights.feedback_factor(Feedback { useful: u32::MAX, wrong: 0 }), 1.3);
    }

    #[test]
    fn what_is_refused() {
        let check = |change: fn(&mut MemoryConfig), expected: &str| {
            let mut config = MemoryConfig::default();
            config.validate().unwrap();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().to_string(), expected);
        };
        check(|c| c.weights.rrf_k = 0.0, "`memory.weights.rrf_k`: is 0, from 1 to 1000 is possible");
        check(|c| c.weights.recency = f32::NAN, "`memory.weights.recency`: is NaN, from 0 to 1 is possible");
        check(|c| c.limits.k = 0, "`memory.limits.k`: is 0, at least 1 is needed");
    }

    #[test]
    fn an_answer_is_cached_for_the_shortest_time_of_its_kinds() {
        let minutes = |kinds: &[Kind]| Caches::default().recall_time(kinds).as_secs() / 60;
        assert_eq!([minutes(&[]), minutes(&[Kind::Code]), minutes(&[Kind::Knowledge, Kind::Code])], [5, 30, 30]);
        assert_eq!([minutes(&[Kind::Document]), minutes(&[Kind::Conversation, Kind::Code])], [60, 5]);
    }
}
