//! The engine's door: submit requests, read their tokens, ask how it is, shut it down.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError, Sender};
use futures_core::Stream;

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::forward::Geometry;
use crate::request::{GenerateRequest, Timing, TokenEvent, Usage};
use crate::sequence::SeqId;
use crate::session::{Leave, QueuePlace, Signal};
use crate::stats::{EngineStats, Health};

/// Most alternatives a position reports, as the OpenAI API has it.
const MAX_LOGPROBS: usize = 20;

/// What the engine's thread is asked to do.
pub(crate) enum Command {
    Submit(Box<Submission>),
    /// The reader of a stream left; its signal says how.
    Left(SeqId),
    Probe(Sender<Result<(), EngineError>>),
    DropCache(Sender<usize>),
    Drain {
        deadline: Instant,
        done: Sender<DrainReport>,
    },
}

/// A checked request on its way in.
pub(crate) struct Submission {
    pub id: SeqId,
    pub request: GenerateRequest,
    pub submitted: Instant,
    pub events: Sender<TokenEvent>,
    pub signal: Arc<Signal>,
    pub place: QueuePlace,
}

/// What the thread last said about itself.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub stats: EngineStats,
    pub last_healthy: Option<Instant>,
    pub failing: bool,
    /// Time a request runs, averaged over the last ones.
    pub mean_run: Option<Duration>,
}

/// What handles and thread share. The snapshot's lock is held for a copy of a few hundred bytes, once
/// a step by the thread: a reader never makes a step wait longer than that.
pub(crate) struct Shared {
    pub queued: Arc<AtomicUsize>,
    pub refused: AtomicU64,
    pub draining: AtomicBool,
    pub stopped: AtomicBool,
    next_id: AtomicU64,
    snapshot: Mutex<Snapshot>,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            queued: Arc::default(),
            refused: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            snapshot: Mutex::default(),
        }
    }

    pub fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an engine has to give; fixed once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The model's sizes.
    pub geometry: Geometry,
    /// Longest sequence, prompt and output together.
    pub max_len: usize,
    /// Blocks of the KV cache.
    pub num_blocks: usize,
    /// Tokens the KV cache holds.
    pub kv_tokens: usize,
    /// Bytes the KV cache takes once it was all written.
    pub kv_bytes: usize,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Requests that were cut off at the deadline.
    pub cut_off: usize,
}

/// A way to talk to an engine; clones talk to the same one. The engine ends when it is drained, or
/// when all handles and streams are gone.
#[derive(Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    config: Arc<EngineConfig>,
    capacity: Capacity,
}

impl EngineHandle {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
        config: Arc<EngineConfig>,
        capacity: Capacity,
    ) -> Self {
        Self { commands, shared, config, capacity }
    }

    /// Hands a request in. Refused at once, on the caller's thread, if it is not valid for this model
    /// or the queue is full. Dropping the stream aborts the request.
    pub fn submit(&self, request: GenerateRequest) -> Result<TokenStream, EngineError> {
        self.check(&request)?;
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(EngineError::ShuttingDown);
        }
        if self.shared.stopped.load(Ordering::Acquire) {
            return Err(EngineError::Stopped);
        }
        let place = QueuePlace::take(&self.shared.queued, self.config.queue_limit).map_err(|waiting| {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            EngineError::Overloaded { waiting, limit: self.config.queue_limit, retry_after: self.retry_after(waiting) }
        })?;
        let id = SeqId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        // Unbounded, but a request never has more events than max_tokens and three.
        let (events, receiver) = flume::unbounded();
        let signal = Arc::new(Signal::default());
        let prompt_tokens = request.prompt.len();
        let submitted = Instant::now();
        let reader = Reader {
            id,
            commands: self.commands.clone(),
            signal: Arc::clone(&signal),
            submitted,
            first_token: None,
            tokens: 0,
            ended: false,
        };
        let submission = Submission { id, request, submitted, events, signal, place };
        let sent = self.commands.send(Command::Submit(Box::new(submission)));
        sent.map_err(|_| EngineError::Stopped)?;
        Ok(TokenStream { events: receiver, reader, prompt_tokens })
    }

    /// Checks a request against the model, as [`Self::submit`] does, without handing it in.
    pub fn check(&self, request: &GenerateRequest) -> Result<(), EngineError> {
        let vocab_size = self.capacity.geometry.vocab_size;
        let prompt_len = request.prompt.len();
        if prompt_len == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&id) = request.prompt.iter().find(|id| **id as usize >= vocab_size) {
            return Err(EngineError::UnknownToken { id, vocab_size });
        }
        let total = prompt_len.saturating_add(request.max_tokens);
        if total > self.capacity.max_len {
            let max_len = self.capacity.max_len;
            return Err(EngineError::ContextExceeded { prompt_len, max_tokens: request.max_tokens, max_len });
        }
        // The last token is sampled but never read, so it needs no slot.
        let needed = (total - 1).max(prompt_len).div_ceil(self.config.block_size);
        if needed > self.capacity.num_blocks {
            return Err(EngineError::KvExhausted { needed, total: self.capacity.num_blocks });
        }
        check_lengths(request)?;
        request.sampling.validate(vocab_size)
    }

    /// Counters and gauges as of the last step; never waits for one.
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.shared.snapshot().stats;
        stats.requests.refused = self.shared.refused.load(Ordering::Relaxed);
        stats.queued = self.shared.queued.load(Ordering::Relaxed);
        stats
    }

    /// When the last forward pass with finite logits ended.
    pub fn last_healthy(&self) -> Option<Instant> {
        self.shared.snapshot().last_healthy
    }

    /// Whether passes give sane numbers, as far as is known without a new one.
    pub fn health(&self) -> Health {
        let stopped = self.shared.stopped.load(Ordering::Acquire);
        let snapshot = self.shared.snapshot();
        Health { last_healthy: snapshot.last_healthy, failing: snapshot.failing, stopped }
    }

    /// Good if a pass within `health_interval` was, else whatever a new pass says; waits for that pass
    /// at most `timeout`.
    pub fn check_health(&self, timeout: Duration) -> Result<(), EngineError> {
        if self.health().is_good(self.config.health_interval) {
            return Ok(());
        }
        self.probe(timeout)
    }

    /// [`Self::check_health`] for async callers, who bring their own timeout.
    pub async fn check_health_async(&self) -> Result<(), EngineError> {
        if self.health().is_good(self.config.health_interval) {
            return Ok(());
        }
        self.probe_async().await
    }

    /// Makes sure of a forward pass now: the running one's outcome, or a pass over one token if idle.
    pub fn probe(&self, timeout: Duration) -> Result<(), EngineError> {
        match self.ask(Command::Probe)?.recv_timeout(timeout) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(EngineError::ProbeTimeout { timeout }),
            Err(RecvTimeoutError::Disconnected) => Err(EngineError::Stopped),
        }
    }

    /// [`Self::probe`] for async callers, who bring their own timeout.
    pub async fn probe_async(&self) -> Result<(), EngineError> {
        self.ask(Command::Probe)?.recv_async().await.map_err(|_| EngineError::Stopped)?
    }

    /// Forgets all cached prefixes; returns how many blocks that frees.
    pub fn drop_cache(&self) -> Result<usize, EngineError> {
        self.ask(Command::DropCache)?.recv().map_err(|_| EngineError::Stopped)
    }

    /// Takes no more requests, lets the accepted ones finish until `deadline`, cuts off the rest, and
    /// ends the engine. Returns when that is done.
    pub fn drain(&self, deadline: Instant) -> Result<DrainReport, EngineError> {
        self.start_drain(deadline)?.recv().map_err(|_| EngineError::Stopped)
    }

    /// [`Self::drain`] for async callers.
    pub async fn drain_async(&self, deadline: Instant) -> Result<DrainReport, EngineError> {
        self.start_drain(deadline)?.recv_async().await.map_err(|_| EngineError::Stopped)
    }

    /// How it was configured.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// What it has to give.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    fn start_drain(&self, deadline: Instant) -> Result<Receiver<DrainReport>, EngineError> {
        self.shared.draining.store(true, Ordering::Release);
        self.ask(|done| Command::Drain { deadline, done })
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<Receiver<T>, EngineError> {
        let (sender, receiver) = flume::bounded(1);
        self.commands.send(command(sender)).map_err(|_| EngineError::Stopped)?;
        Ok(receiver)
    }

    /// When a quarter of the queue will have moved, by how long requests ran lately.
    fn retry_after(&self, waiting: usize) -> Duration {
        let snapshot = self.shared.snapshot();
        let run = snapshot.mean_run.unwrap_or(Duration::from_secs(1)).as_secs_f64();
        let seconds = run / snapshot.stats.running.max(1) as f64 * waiting.div_ceil(4) as f64;
        Duration::from_secs_f64(seconds.clamp(1.0, 60.0))
    }
}

fn check_lengths(request: &GenerateRequest) -> Result<(), EngineError> {
    let invalid = |name, reason| Err(EngineError::InvalidParameter { name, reason });
    if request.max_tokens == 0 && request.prompt_logprobs.is_none() {
        return invalid("max_tokens", "is 0, must be at least 1".into());
    }
    if request.sampling.min_tokens > request.max_tokens {
        let (min, max) = (request.sampling.min_tokens, request.max_tokens);
        return invalid("min_tokens", format!("is {min}, must be at most `max_tokens`, which is {max}"));
    }
    match request.prompt_logprobs {
        Some(n) if n > MAX_LOGPROBS => invalid("prompt_logprobs", format!("is {n}, must be at most {MAX_LOGPROBS}")),
        _ => Ok(()),
    }
}

/// Notes what was read. Dropped before the end was, it tells the engine that nobody reads any more.
struct Reader {
    id: SeqId,
    commands: mpsc::Sender<Command>,
    signal: Arc<Signal>,
    submitted: Instant,
    first_token: Option<Duration>,
    tokens: usize,
    ended: bool,
}

impl Reader {
    /// The first read after the engine went away without an end is an error event.
    fn pass(&mut self, received: Option<TokenEvent>) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        let event = received.unwrap_or(TokenEvent::Failed(EngineError::Stopped));
        match event {
            TokenEvent::Token { .. } => {
                self.tokens += 1;
                self.first_token.get_or_insert_with(|| self.submitted.elapsed());
            }
            TokenEvent::Finished { .. } | TokenEvent::Failed(_) => self.ended = true,
            TokenEvent::Prompt(_) => {}
        }
        Some(event)
    }
}

impl Reader {
    fn leave(&mut self, how: Leave) {
        if !std::mem::replace(&mut self.ended, true) {
            self.signal.leave(how);
            let _ = self.commands.send(Command::Left(self.id)); // the engine may be gone already
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave(Leave::GaveUp);
    }
}

/// The events of one request. Dropping it aborts the request; its blocks are free within one step.
pub struct TokenStream {
    events: Receiver<TokenEvent>,
    reader: Reader,
    prompt_tokens: usize,
}

impl TokenStream {
    /// The next event; waits for it. `None` after `Finished` or `Failed`.
    pub fn recv(&mut self) -> Option<TokenEvent> {
        let received = self.events.recv().ok();
        self.reader.pass(received)
    }

    /// [`Self::recv`] for async callers. Cancel safe.
    pub async fn recv_async(&mut self) -> Option<TokenEvent> {
        let received = self.events.recv_async().await.ok();
        self.reader.pass(received)
    }

    /// The next event if one is there already.
    pub fn try_recv(&mut self) -> Option<TokenEvent> {
        match self.events.try_recv() {
            Ok(event) => self.reader.pass(Some(event)),
            Err(flume::TryRecvError::Empty) => None,
            Err(flume::TryRecvError::Disconnected) => self.reader.pass(None),
        }
    }

    /// As a [`Stream`] of the same events, with the same meaning of a drop.
    pub fn into_stream(self) -> TokenEvents {
        TokenEvents { events: self.events.into_stream(), reader: self.reader }
    }

    /// Tokens so far, for callers that end before the engine does (a stop string was found).
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.reader.signal.cached_tokens.load(Ordering::Relaxed),
            completion_tokens: self.reader.tokens,
        }
    }

    /// Times so far, as the reader saw them.
    pub fn timing(&self) -> Timing {
        Timing {
            queued: Duration::from_micros(self.reader.signal.queued_micros.load(Ordering::Relaxed)),
            first_token: self.reader.first_token,
            total: self.reader.submitted.elapsed(),
        }
    }

    /// Ends the request as finished, where a drop would count it as given up.
    pub fn stop(mut self) {
        self.reader.leave(Leave::Satisfied);
    }
}

/// A [`TokenStream`] as a [`Stream`].
pub struct TokenEvents {
    events: flume::r#async::RecvStream<'static, TokenEvent>,
    reader: Reader,
}

impl Stream for TokenEvents {
    type Item = TokenEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        let received = std::task::ready!(Pin::new(&mut self.events).poll_next(context));
        Poll::Ready(self.reader.pass(received))
    }
}
