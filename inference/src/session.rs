//! The engine's side of one request: where its events go, and what its caller is told at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flume::Sender;

use crate::request::{FinishReason, GenerateRequest, Logprobs, Timing, TokenEvent, Usage};
use crate::sampler::SamplerState;
use crate::stats::Outcome;

/// How a reader left before its stream's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It dropped the stream.
    GaveUp,
    /// It has what it wanted, a stop string.
    Satisfied,
}

/// Shared by a stream and its session.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    satisfied: AtomicBool,
    /// Nobody reads any more.
    left: AtomicBool,
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: AtomicUsize,
    /// Time from submit to first admission.
    pub queued_micros: AtomicU64,
}

impl Signal {
    pub fn leave(&self, how: Leave) {
        self.satisfied.store(how == Leave::Satisfied, Ordering::Relaxed);
        self.left.store(true, Ordering::Release);
    }
}

/// A place in the bounded queue, given back when dropped.
#[derive(Debug)]
pub(crate) struct QueuePlace {
    taken: Arc<AtomicUsize>,
}

impl QueuePlace {
    /// A place, or how many are taken if all are.
    pub fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Result<Self, usize> {
        taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| (waiting < limit).then_some(waiting + 1))
            .map(|_| Self { taken: Arc::clone(taken) })
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Log-probabilities of a prompt, collected over its chunks.
#[derive(Debug)]
pub(crate) struct PromptScores {
    pub alternatives: usize,
    pub found: Vec<Option<Logprobs>>,
}

/// What the engine keeps of a request besides its sequence.
#[derive(Debug)]
pub(crate) struct Session {
    events: Sender<TokenEvent>,
    signal: Arc<Signal>,
    place: Option<QueuePlace>,
    pub sampler: SamplerState,
    pub scores: Option<PromptScores>,
    submitted: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    usage: Usage,
}

impl Session {
    pub fn new(
        request: &GenerateRequest,
        submitted: Instant,
        events: Sender<TokenEvent>,
        signal: Arc<Signal>,
        place: QueuePlace,
    ) -> Self {
        // Entry 0 has no probability: nothing precedes it.
        let scores = request.prompt_logprobs.map(|alternatives| PromptScores { alternatives, found: vec![None] });
        Self {
            events,
            signal,
            place: Some(place),
            sampler: SamplerState::new(request, rand::random()),
            scores,
            submitted,
            admitted: None,
            first_token: None,
            last_token: None,
            usage: Usage { prompt_tokens: request.prompt.len(), ..Usage::default() },
        }
    }

    /// It runs for the first time: its place in the queue is free.
    pub fn admit(&mut self, now: Instant, cached_tokens: usize) {
        self.place = None;
        self.admitted = Some(now);
        self.usage.cached_tokens = cached_tokens;
        let queued = u64::try_from(self.since_submit(now).as_micros()).unwrap_or(u64::MAX);
        self.signal.queued_micros.store(queued, Ordering::Relaxed);
        self.signal.cached_tokens.store(cached_tokens, Ordering::Relaxed);
    }

    /// What became of the request if its reader left.
    pub fn left(&self) -> Option<Outcome> {
        let is_satisfied = || self.signal.satisfied.load(Ordering::Relaxed);
        let outcome = || {
            if is_satisfied() { Outcome::Finished(FinishReason::Stop) } else { Outcome::Aborted }
        };
        self.signal.left.load(Ordering::Acquire).then(outcome)
    }

    /// Sends an event; false if nobody will read it.
    pub fn send(&self, event: TokenEvent) -> bool {
        self.events.send(event).is_ok()
    }

    /// Counts a token; the time since the one before, `None` for the first.
    pub fn count_token(&mut self, now: Instant) -> Option<Duration> {
        self.usage.completion_tokens += 1;
        self.first_token.get_or_insert(now);
        self.last_token.replace(now).map(|last| now - last)
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    pub fn since_submit(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.submitted)
    }

    /// How long it ran, if it did.
    pub fn ran(&self, now: Instant) -> Option<Duration> {
        self.admitted.map(|at| now.saturating_duration_since(at))
    }

    pub fn timing(&self, now: Instant) -> Timing {
        Timing {
            queued: self.since_submit(self.admitted.unwrap_or(now)),
            first_token: self.first_token.map(|at| self.since_submit(at)),
            total: self.since_submit(now),
        }
    }
}
