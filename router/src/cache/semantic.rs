//! Answers to questions that mean the same.
//!
//! Two questions are compared only where all else is equal: tenant, plan, instructions, tools, format and sampling, by the hash of
//! all that. Within that their vectors must be near, and the numbers, names and quotes in them the same: to an encoder
//! `port 8080` and `port 8081` are one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use engram_kernels::distance::dot;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::exact::Counts;
use super::key::{Asker, CacheKey};
use super::{Answer, Endpoint};

/// Longest question that is compared, in bytes: an encoder reads no more, and what it did not read may differ.
const LONGEST: usize = 1024;

/// Makes a vector of a text.
pub trait Embed: Send + Sync {
    /// The vector; its length need not be 1, but is the same for every text.
    fn embed<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Vec<f32>, EmbedFailed>>;
}

/// No vector could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the question could not be embedded: {0}")]
pub struct EmbedFailed(pub String);

/// How near is near enough, how much is kept, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct SemanticSettings {
    /// Least cosine of two questions that share an answer.
    pub threshold: f32,
    /// Most answers.
    pub entries: usize,
    /// Bytes of all answers and vectors.
    pub memory: usize,
    /// Time an answer is given for.
    pub ttl: Duration,
}

impl Default for SemanticSettings {
    fn default() -> Self {
        Self { threshold: 0.95, entries: 2048, memory: 32 << 20, ttl: Duration::from_secs(300) }
    }
}

/// A question that may be compared with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    partition: CacheKey,
    text: String,
}

impl Question {
    /// Of a chat's body: instructions, and one question in words. `None` where there is more to it.
    pub fn of(asker: Asker<'_>, body: &Map<String, Value>) -> Option<Self> {
        if asker.endpoint != Endpoint::Chat {
            return None;
        }
        let messages = body.get("messages")?.as_array()?;
        let (last, before) = messages.split_last()?;
        let instructs = |message: &Value| matches!(message["role"].as_str(), Some("system" | "developer"));
        if last["role"] != "user" || !before.iter().all(instructs) {
            return None;
        }
        let text = text_of(&last["content"])?;
        if text.trim().is_empty() || text.len() > LONGEST {
            return None;
        }
        let mut rest = body.clone();
        let question = rest.get_mut("messages")?.as_array_mut()?.last_mut()?.as_object_mut()?;
        question.shift_remove("content");
        Some(Self { partition: CacheKey::of(asker, &rest), text })
    }

    /// The words.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Content that is text alone.
fn text_of(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let texts: Option<Vec<&str>> = parts.iter().map(|part| part["text"].as_str()).collect();
            Some(texts?.join("\n"))
        }
        _ => None,
    }
}

/// What a search finds.
#[derive(Debug)]
pub enum Look {
    /// The answer to a question that means the same.
    Near {
        /// The answer.
        answer: Arc<Answer>,
        /// Cosine of the two questions.
        similarity: f32,
    },
    /// Nothing; once it is answered, the answer may be kept.
    Far(Unanswered),
}

/// A question with its vector, to be answered.
#[derive(Debug)]
pub struct Unanswered {
    cache: Arc<SemanticCache>,
    question: Question,
    vector: Box<[f32]>,
}

impl Unanswered {
    /// Keeps the answer.
    pub fn keep(self, answer: &Arc<Answer>, now: Instant) {
        let cache = self.cache;
        let mut entries = cache.entries.write().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            marks: marks(&self.question.text),
            vector: self.vector,
            answer: Arc::clone(answer),
            expires: now + cache.settings.ttl,
        };
        entries.push(self.question.partition, entry, &cache.settings, now);
        cache.kept.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers by the meaning of their questions.
pub struct SemanticCache {
    settings: SemanticSettings,
    embed: Arc<dyn Embed>,
    // Searches go on beside each other; only what is kept is written, and nothing waits while it is held.
    entries: RwLock<Entries>,
    hits: AtomicU64,
    misses: AtomicU64,
    kept: AtomicU64,
}

impl std::fmt::Debug for SemanticCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SemanticCache").field("settings", &self.settings).field("counts", &self.counts()).finish()
    }
}

impl SemanticCache {
    /// An empty cache over an encoder.
    pub fn new(settings: SemanticSettings, embed: Arc<dyn Embed>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            embed,
            entries: RwLock::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        })
    }

    /// The answer to the nearest question, if it is near enough.
    ///
    /// # Errors
    /// The encoder failed; the question can still be answered.
    pub async fn look(self: &Arc<Self>, question: Question, now: Instant) -> Result<Look, EmbedFailed> {
        let mut vector = self.embed.embed(&question.text).await?.into_boxed_slice();
        if !normalise(&mut vector) {
            return Err(EmbedFailed("the vector is zero or not finite".into()));
        }
        let found = {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            entries.nearest(&question, &vector, now).filter(|(similarity, _)| *similarity >= self.settings.threshold)
        };
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(match found {
            Some((similarity, answer)) => Look::Near { answer, similarity },
            None => Look::Far(Unanswered { cache: Arc::clone(self), question, vector }),
        })
    }

    /// How often an answer was there.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { hits: of(&self.hits), followed: 0, misses: of(&self.misses), kept: of(&self.kept) }
    }

    /// Answers that are kept and their bytes, expired ones that wait for the next to be kept among them.
    pub fn size(&self) -> (usize, usize) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        (entries.order.len(), entries.bytes)
    }
}

#[derive(Debug)]
struct Entry {
    vector: Box<[f32]>,
    marks: u64,
    answer: Arc<Answer>,
    expires: Instant,
}

impl Entry {
    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.vector) + self.answer.bytes()
    }
}

/// Entries by partition, and the order in which they came: the oldest goes first, whether it has expired or room is wanted.
#[derive(Debug, Default)]
struct Entries {
    partitions: HashMap<CacheKey, VecDeque<Entry>>,
    order: VecDeque<CacheKey>,
    bytes: usize,
}

impl Entries {
    fn nearest(&self, question: &Question, vector: &[f32], now: Instant) -> Option<(f32, Arc<Answer>)> {
        let marks = marks(&question.text);
        let alive = self
            .partitions
            .get(&question.partition)?
            .iter()
            .filter(|entry| entry.expires > now && entry.marks == marks && entry.vector.len() == vector.len());
        let best = alive.map(|entry| (dot(&entry.vector, vector), entry)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((best.0, Arc::clone(&best.1.answer)))
    }

    fn push(&mut self, partition: CacheKey, entry: Entry, settings: &SemanticSettings, now: Instant) {
        self.bytes += entry.bytes();
        self.partitions.entry(partition).or_default().push_back(entry);
        self.order.push_back(partition);
        while self.order.len() > settings.entries || self.bytes > settings.memory || self.oldest_is_over(now) {
            self.pop();
        }
    }

    fn oldest_is_over(&self, now: Instant) -> bool {
        let oldest = self.order.front().and_then(|partition| self.partitions.get(partition)?.front());
        oldest.is_some_and(|entry| entry.expires <= now)
    }

    fn pop(&mut self) {
        let Some(partition) = self.order.pop_front() else { return };
        if let Some(entries) = self.partitions.get_mut(&partition) {
            if let Some(entry) = entries.pop_front() {
                self.bytes -= entry.bytes();
            }
            if entries.is_empty() {
                self.partitions.remove(&partition);
            }
        }
    }
}

/// To length 1; `false` where that is not possible.
fn normalise(vector: &mut [f32]) -> bool {
    let length = dot(vector, vector).sqrt();
    if !length.is_finite() || length <= f32::MIN_POSITIVE {
        return false;
    }
    vector.iter_mut().for_each(|value| *value /= length);
    true
}

/// A hash of the words that must be the same: with digits, signs or capitals inside, in quotes, or that turn the meaning round.
fn marks(text: &str) -> u64 {
    const TURNS: [&str; 14] = [
        "not",
        "no",
        "never",
        "without",
        "except",
        "none",
        "dont",
        "don't",
        "can't",
        "cannot",
        "isn't",
        "doesn't",
        "won't",
        "shouldn't",
    ];
    let mut found = BTreeSet::new();
    for word in text.split_whitespace() {
        let word = word.trim_end_matches(['.', ',', ';', ':', '?', '!']);
        let inner = word.chars().skip(1);
        let named = word.chars().any(|c| !c.is_alphabetic() && !matches!(c, '\'' | '-'))
            || inner.clone().any(char::is_uppercase)
            || word.starts_with('\'');
        let turns = TURNS.contains(&word.to_lowercase().as_str());
        if named || turns {
            found.insert(word);
        }
    }
    for (at, quoted) in text.split(['"', '`']).enumerate() {
        if at % 2 == 1 {
            found.insert(quoted);
        }
    }
    let mut hash = DefaultHasher::new();
    found.hash(&mut hash);
    hash.finish()
}

#[cfg(test)]
#[path = "semantic_tests.rs"]
mod tests;
