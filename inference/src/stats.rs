//! What the engine counted and measured, and who is told as it happens.

use std::time::{Duration, Instant};

use crate::block_manager::BlockCounts;
use crate::pace::StepCost;
use crate::request::{FinishReason, Timing, Usage};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It finished.
    Finished(FinishReason),
    /// Its deadline passed before it ran.
    ExpiredInQueue,
    /// The caller dropped its stream.
    Aborted,
    /// The engine could not go on with it.
    Failed,
}

/// Requests by what became of them. Those in none of these wait or run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Accepted by the engine.
    pub accepted: u64,
    /// Refused because the queue was full.
    pub refused: u64,
    /// Ended at a stop id.
    pub stopped: u64,
    /// Ended at their length.
    pub length: u64,
    /// Ended at their deadline while running.
    pub deadline: u64,
    /// Dropped at their deadline while waiting.
    pub expired_in_queue: u64,
    /// Given up by the caller.
    pub aborted: u64,
    /// Ended by an error.
    pub failed: u64,
}

impl RequestCounts {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Finished(FinishReason::Stop) => &mut self.stopped,
            Outcome::Finished(FinishReason::Length) => &mut self.length,
            Outcome::Finished(FinishReason::Deadline) => &mut self.deadline,
            Outcome::ExpiredInQueue => &mut self.expired_in_queue,
            Outcome::Aborted => &mut self.aborted,
            Outcome::Failed => &mut self.failed,
        };
        *counter += 1;
    }

    /// Requests that ended, however.
    pub fn ended(&self) -> u64 {
        self.stopped + self.length + self.deadline + self.expired_in_queue + self.aborted + self.failed
    }
}

/// Where the time of a step went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Deciding who runs and laying out the batch.
    pub schedule: Duration,
    /// The forward pass.
    pub forward: Duration,
    /// Choosing tokens.
    pub sample: Duration,
    /// Bookkeeping and sending.
    pub deliver: Duration,
}

impl StepTimes {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.schedule + self.forward + self.sample + self.deliver
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.schedule += other.schedule;
        self.forward += other.forward;
        self.sample += other.sample;
        self.deliver += other.deliver;
    }
}

/// One step, as it is told to an observer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Sequences that took part.
    pub sequences: usize,
    /// Tokens of prompts read.
    pub prefill_tokens: usize,
    /// Tokens of decodes.
    pub decode_tokens: usize,
    /// Sequences preempted.
    pub preempted: usize,
    /// Its time.
    pub times: StepTimes,
}

/// Counters since the start, and gauges of the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineStats {
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// Forward passes.
    pub steps: u64,
    /// Tokens of admitted prompts.
    pub prompt_tokens: u64,
    /// Of these, tokens whose KV came from the prefix cache.
    pub cached_tokens: u64,
    /// Prompt tokens, and tokens read again after a preemption, that went through the model.
    pub prefill_tokens: u64,
    /// Tokens sampled and delivered.
    pub generated_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Cached blocks given to other content.
    pub evicted_blocks: u64,
    /// Time of all steps.
    pub times: StepTimes,
    /// Requests accepted that have not run yet.
    pub queued: usize,
    /// Sequences waiting: queued, or preempted.
    pub waiting: usize,
    /// Sequences running.
    pub running: usize,
    /// Tokens that those who wait or run have still to read before they can say any.
    pub backlog_tokens: usize,
    /// What steps cost now; `None` before the first was measured.
    pub step_cost: Option<StepCost>,
    /// Tokens of a fresh prompt that the last step had room for: what fits into `max_itl` beside its
    /// decodes, or what `max_batch_tokens` left where nobody waits for a token.
    pub prefill_budget: usize,
    /// Blocks of the KV cache by state.
    pub blocks: BlockCounts,
}

/// Is told what happens, on the engine's thread: an implementation must be quick.
pub trait EngineObserver: Send + Sync {
    /// A step is done.
    fn on_step(&self, _report: &StepReport) {}
    /// A request's first token, and the time since it was submitted.
    fn on_first_token(&self, _since_submit: Duration) {}
    /// A further token, and the time since the one before.
    fn on_token(&self, _since_previous: Duration) {}
    /// A request ended.
    fn on_finish(&self, _outcome: Outcome, _usage: &Usage, _timing: &Timing) {}
}

/// Nobody listens.
impl EngineObserver for () {}

/// Whether forward passes give sane numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// When the last pass with finite logits ended.
    pub last_healthy: Option<Instant>,
    /// The newest pass failed, panicked, or gave NaN or infinities.
    pub failing: bool,
    /// The engine's thread is gone.
    pub stopped: bool,
}

impl Health {
    /// A good pass within `interval`, and no bad one since.
    pub fn is_good(&self, interval: Duration) -> bool {
        !self.stopped && !self.failing && self.last_healthy.is_some_and(|at| at.elapsed() <= interval)
    }
}
