//! What the memory is asked, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::filter::Filter;
use crate::record::{Kind, Provenance, Record, Timestamp};
use crate::scope::Scope;

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// As the configuration says for its kind.
    #[default]
    OfKind,
    /// Until it is forgotten.
    Forever,
    /// This long from now.
    For(Duration),
}

/// Something to remember.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRecord {
    /// Where it is kept.
    pub scope: Scope,
    /// What it is about.
    pub kind: Kind,
    /// The text.
    pub content: String,
    /// Whatever the client wants kept beside it.
    pub metadata: Map<String, Value>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// How long it is kept.
    pub lifetime: Lifetime,
    /// Never expires, never dropped as a near-copy.
    pub pinned: bool,
}

/// A change to a record by its owner; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch {
    /// New text: a new version, the old one stays readable by `as_of`.
    pub content: Option<String>,
    /// New metadata, in place of the old: a new version.
    pub metadata: Option<Map<String, Value>>,
    /// How long it is kept from now.
    pub lifetime: Option<Lifetime>,
    /// Pinned or not.
    pub pinned: Option<bool>,
    /// Was it useful (`Some(true)`) or wrong (`Some(false)`).
    pub useful: Option<bool>,
}

/// Which signals a search uses; all of them, unless one is to be looked at alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signals {
    /// Nearness of meaning.
    pub dense: bool,
    /// BM25.
    pub lexical: bool,
    /// Symbols and literals.
    pub literal: bool,
}

impl Default for Signals {
    fn default() -> Self {
        Self { dense: true, lexical: true, literal: true }
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Where it looks.
    pub scope: Scope,
    /// What for.
    pub text: String,
    /// Hits at most.
    pub k: usize,
    /// Kinds; empty: all.
    pub kinds: Vec<Kind>,
    /// More conditions.
    pub filter: Option<Filter>,
    /// Hits below this fused score are left out, 0 to 1.
    pub min_score: Option<f32>,
    /// Searches the past: what stood there then.
    pub as_of: Option<Timestamp>,
    /// Tokens that the hits' contents may have together; the caller counts them, see
    /// `Memory::search`.
    pub budget_tokens: Option<usize>,
    /// Signals used.
    pub signals: Signals,
}

/// What each signal said about a hit; `None`: it did not name it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct SignalScores {
    /// Cosine to the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<f32>,
    /// BM25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lexical: Option<f32>,
    /// Strength of the exact match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal: Option<f32>,
    /// Factor of its age.
    pub recency: f32,
    /// Factor of who said it.
    pub trust: f32,
    /// Factor of what users said about it.
    pub feedback: f32,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The record.
    pub record: Record,
    /// Fused score, 0 to 1.
    pub score: f32,
    /// Why.
    pub signals: SignalScores,
    /// Tokens of its content, if they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
}

/// What a search gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recall {
    /// Best first.
    pub hits: Vec<Hit>,
    /// It came from the cache of recalls.
    pub cached: bool,
    /// Time taken by embedding the query; zero where its vector was cached.
    pub embed: Duration,
    /// Time taken by the search itself, vector in, hits out.
    pub search: Duration,
}
