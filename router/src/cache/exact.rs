//! Answers by the hash of their question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Endpoint;
use super::answer::{Answer, Incomplete};
use super::flight::{Flights, Joined, Leader};
use super::key::CacheKey;

/// Most choices of an answer that is kept.
const MOST_CHOICES: usize = 8;
/// Most inputs of an embeddings request whose answer is kept.
const MOST_INPUTS: usize = 64;

/// How much is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bytes of all answers.
    pub memory: u64,
    /// Time an answer is given for.
    pub ttl: Duration,
    /// Bytes of the largest answer that is kept.
    pub largest: usize,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { memory: 64 << 20, ttl: Duration::from_secs(300), largest: 1 << 20 }
    }
}

/// How often an answer was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Found.
    pub hits: u64,
    /// Waited for, for an equal request was under way.
    pub followed: u64,
    /// Not there.
    pub misses: u64,
    /// Kept.
    pub kept: u64,
}

/// Whether equal requests get equal answers: at temperature 0, or with a seed; vectors always. Few choices only, and nothing
/// that the memory adds to, for it changes.
///
/// What a key's defaults have the memory do does not stand in the body: the caller looks at that.
pub fn cacheable(endpoint: Endpoint, body: &Map<String, Value>) -> bool {
    let field = |name: &str| body.get(name).filter(|value| !value.is_null());
    if endpoint == Endpoint::Embeddings {
        return choices(endpoint, body) <= MOST_INPUTS;
    }
    let cold = field("temperature").and_then(Value::as_f64) == Some(0.0);
    let fixed = cold || field("seed").is_some();
    fixed && choices(endpoint, body) <= MOST_CHOICES && field("memory").is_none()
}

/// How many choices (of embeddings: vectors) a whole answer has.
pub fn choices(endpoint: Endpoint, body: &Map<String, Value>) -> usize {
    // A list of numbers is one prompt of token ids.
    let several = |name: &str| match body.get(name) {
        Some(Value::Array(list)) if !list.first().is_some_and(Value::is_number) => list.len(),
        _ => 1,
    };
    let n = body.get("n").and_then(Value::as_u64).map_or(1, |n| usize::try_from(n).unwrap_or(usize::MAX));
    match endpoint {
        Endpoint::Chat => n,
        Endpoint::Completions => n.saturating_mul(several("prompt")),
        Endpoint::Embeddings => several("input"),
    }
}

/// Whole answers, and the questions that are just being answered.
#[derive(Debug)]
pub struct ResponseCache {
    answers: Cache<CacheKey, Arc<Answer>>,
    flights: Arc<Flights>,
    largest: usize,
    hits: AtomicU64,
    followed: AtomicU64,
    misses: AtomicU64,
    kept: AtomicU64,
}

/// What a question finds.
#[derive(Debug)]
pub enum Asked {
    /// An answer from before.
    Hit(Arc<Answer>),
    /// The answer to an equal request that was under way.
    Followed(Arc<Answer>),
    /// Nothing: it is for the caller to answer, and for others to wait for that.
    Miss(Recorder),
}

/// The deadline passed while an equal request was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed while the answer to an equal request was awaited")]
pub struct WaitedTooLong;

impl ResponseCache {
    /// An empty cache.
    pub fn new(settings: &CacheSettings) -> Arc<Self> {
        const KEY: usize = 200;
        let answers = Cache::builder()
            .max_capacity(settings.memory)
            .weigher(|_, answer: &Arc<Answer>| u32::try_from(answer.bytes() + KEY).unwrap_or(u32::MAX))
            .time_to_live(settings.ttl)
            .build();
        Arc::new(Self {
            answers,
            flights: Arc::default(),
            largest: settings.largest,
            hits: AtomicU64::new(0),
            followed: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        })
    }

    /// Finds the answer, waits for the one that is under way, or has the caller answer.
    ///
    /// # Errors
    /// The deadline passed meanwhile.
    pub async fn ask(self: &Arc<Self>, key: CacheKey, deadline: Option<Instant>) -> Result<Asked, WaitedTooLong> {
        if let Some(answer) = self.answers.get(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Asked::Hit(answer));
        }
        match self.flights.join(key, deadline).await {
            Joined::Landed(answer) => {
                self.followed.fetch_add(1, Ordering::Relaxed);
                Ok(Asked::Followed(answer))
            }
            Joined::TooLate => Err(WaitedTooLong),
            // An answer may have landed between the look and the joining.
            Joined::Leads(leader) => match self.answers.get(&key) {
                Some(answer) => {
                    leader.land(&answer);
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    Ok(Asked::Hit(answer))
                }
                None => {
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    Ok(Asked::Miss(Recorder { cache: Arc::clone(self), key, leader }))
                }
            },
        }
    }

    /// How often answers were there.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { hits: of(&self.hits), followed: of(&self.followed), misses: of(&self.misses), kept: of(&self.kept) }
    }

    /// Answers that are kept and their bytes, about; what has expired and waits for its sweep is not among them.
    pub fn size(&self) -> (u64, u64) {
        self.answers.run_pending_tasks();
        (self.answers.entry_count(), self.answers.weighted_size())
    }

    /// Questions that are being answered.
    pub fn under_way(&self) -> usize {
        self.flights.under_way()
    }
}

/// The duty to answer. Dropped, whatever the reason, it keeps nothing, and one of those who wait takes its place.
#[derive(Debug)]
pub struct Recorder {
    cache: Arc<ResponseCache>,
    key: CacheKey,
    leader: Leader,
}

impl Recorder {
    /// The answer, to be kept and given to all who wait.
    pub fn complete(self, answer: &Arc<Answer>) {
        // Kept before it lands: who comes after finds one or the other.
        if answer.bytes() <= self.cache.largest {
            self.cache.answers.insert(self.key, Arc::clone(answer));
            self.cache.kept.fetch_add(1, Ordering::Relaxed);
        }
        self.leader.land(answer);
    }

    /// The same from a body, which must be whole.
    ///
    /// # Errors
    /// What is missing; then nothing is kept.
    pub fn complete_body(self, endpoint: Endpoint, choices: usize, body: Value) -> Result<Arc<Answer>, Incomplete> {
        let answer = Answer::whole(endpoint, choices, body)?;
        self.complete(&answer);
        Ok(answer)
    }
}

#[cfg(test)]
#[path = "exact_tests.rs"]
mod tests;
