//! Whether the engine here can keep a request's time: reckoned from what steps cost now and how much is to be read
//! before it. What cannot make it is sent elsewhere or refused with the estimate, instead of letting all miss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_inference::{EngineStats, StepCost};

use crate::answer::Asked;
use crate::backend::ServedModel;
use crate::error::{ApiError, ErrorCode};

use super::plan::Candidate;
use super::report::Attempt;
use super::{Refusal, Routing};

/// What the engine is expected to need.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Until the first token.
    pub first_token: Duration,
    /// Until the last.
    pub whole: Duration,
}

/// Whether a request may try the engine here.
pub enum Admission {
    /// In time, as far as anybody can tell.
    Go,
    /// Not in time.
    Late(Late),
}

/// A request that would miss its time.
#[derive(Debug, Clone, Copy)]
pub struct Late {
    /// What it would need.
    pub needs: Duration,
    /// What it has.
    pub has: Duration,
    /// `ttft_ms` or `deadline_ms`.
    pub bound: &'static str,
    /// Sequences before it.
    pub ahead: usize,
}

impl Estimate {
    /// For a prompt and an output of so many tokens, as the engine stands; `None` before it has measured a step.
    pub fn of(stats: &EngineStats, prompt: usize, output: usize) -> Option<Self> {
        let StepCost { fixed, decode, prefill, .. } = stats.step_cost?;
        let to_read = (stats.backlog_tokens + prompt) as f64;
        // Prompts are read in chunks beside the running streams, so each chunk pays for a step and its decodes.
        let steps = (to_read / stats.prefill_budget.max(16) as f64).ceil();
        // What is fixed and what a decode costs are hard to tell apart on a quiet machine: one decode always counts.
        let step = fixed + decode * stats.running.max(1) as f64;
        let first = to_read * prefill + steps * step;
        let rest = output.saturating_sub(1) as f64 * (fixed + decode * (stats.running + 1) as f64);
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0));
        Some(Self { first_token: seconds(first), whole: seconds(first + rest) })
    }
}

impl Late {
    /// The refusal; the estimate says when another try is worth it.
    pub fn refusal(self, candidate: &Candidate) -> Refusal {
        let message = format!(
            "about {:.0} ms are needed and {:.0} ms are left (`{}`); {} sequences are before it",
            self.needs.as_secs_f64() * 1e3,
            self.has.as_secs_f64() * 1e3,
            self.bound,
            self.ahead
        );
        let wait = self.needs.saturating_sub(self.has).max(Duration::from_secs(1));
        let attempt = Attempt {
            backend: candidate.backend().to_owned(),
            model: candidate.model.clone(),
            code: ErrorCode::DeadlineUnreachable.as_str().to_owned(),
            message: message.clone(),
            status: None,
            retry_after: Some(wait),
            took: Duration::ZERO,
        };
        let error =
            ApiError::new(ErrorCode::DeadlineUnreachable, message).with_param(self.bound).with_retry_after(wait);
        Refusal::Local(attempt, error)
    }
}

impl Routing {
    /// Whether `model`, served here, can answer in time. A deadline that has passed is [`Admission::Late`] too: it is
    /// dropped, never made most urgent.
    pub fn admission(
        &self,
        model: &Arc<ServedModel>,
        asked: &Asked,
        first_by: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Admission {
        // Only who asked for a time is refused for it: the server's own bound is far longer and holds anyway.
        let deadline = deadline.filter(|_| asked.wish.deadline.is_some());
        if first_by.is_none() && deadline.is_none() {
            return Admission::Go;
        }
        let stats = model.engine.stats();
        let Some(estimate) = Estimate::of(&stats, asked.prompt_tokens, asked.output_tokens) else {
            return Admission::Go;
        };
        let now = Instant::now();
        // How many tokens an answer will have is the client's bound, not a promise: an unbounded one is only asked to begin.
        let whole = if asked.bound().is_some() { estimate.whole } else { estimate.first_token };
        let bounds = [("ttft_ms", first_by, estimate.first_token), ("deadline_ms", deadline, whole)];
        for (bound, by, needs) in bounds {
            let Some(by) = by else { continue };
            let has = by.saturating_duration_since(now);
            if needs > has {
                return Admission::Late(Late { needs, has, bound, ahead: stats.waiting + stats.running });
            }
        }
        Admission::Go
    }

    /// Whether others should be asked before the engine here: it has a queue, and would be late or slow.
    pub fn spills(&self, model: &ServedModel) -> bool {
        let limit = self.table().settings.spill_waiting;
        limit > 0 && model.engine.stats().waiting >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(backlog: usize, running: usize) -> EngineStats {
        EngineStats {
            running,
            backlog_tokens: backlog,
            prefill_budget: 100,
            step_cost: Some(StepCost { fixed: 0.01, decode: 0.001, prefill: 0.0005, pair: 0.0 }),
            ..EngineStats::default()
        }
    }

    #[test]
    fn an_estimate_counts_what_is_before_it_and_what_runs_beside_it() {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e3).round();
        let idle = Estimate::of(&stats(0, 0), 100, 11).expect("measured");
        // One chunk: 100 tokens at half a millisecond and one step; then ten steps of one decode.
        assert_eq!((ms(idle.first_token), ms(idle.whole)), (61.0, 171.0));
        let busy = Estimate::of(&stats(900, 10), 100, 11).expect("measured");
        assert_eq!(ms(busy.first_token), 1000.0 * 0.5 + 10.0 * 20.0);
        assert!(busy.whole > busy.first_token);
        assert_eq!(Estimate::of(&EngineStats::default(), 100, 1), None);
    }
}
