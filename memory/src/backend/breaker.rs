//! A circuit breaker: an engine that failed several times in a row is left alone for a while.
//!
//! Closed, it lets every call through and counts failures in a row. At the limit it opens and refuses
//! calls at once. After the cooldown one call may probe: success closes it, failure opens it again.
//! Nygard, *Release It!*, chapter 5.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{MemoryError, Result};

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it, at least 1.
    pub failures: u32,
    /// How long it stays open before a probe.
    pub cooldown: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, cooldown: Duration::from_secs(5) }
    }
}

/// What a breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets it through.
    Closed,
    /// Refuses it.
    Open,
    /// Refuses it, while a probe is out.
    HalfOpen,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { failures: u32, until: Instant },
    HalfOpen { failures: u32 },
}

/// Guards the calls to one engine; shared by all threads.
pub struct Breaker {
    backend: &'static str,
    config: BreakerConfig,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    // A mutex: it is held for a few instructions, beside calls that cross a network.
    state: Mutex<State>,
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("backend", &self.backend).field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Breaker {
    /// A closed one for the engine `backend`.
    pub fn new(backend: &'static str, config: BreakerConfig) -> Self {
        Self::with_clock(backend, config, Instant::now)
    }

    /// The same with a clock of the caller's.
    pub fn with_clock(
        backend: &'static str,
        config: BreakerConfig,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Self {
        let config = BreakerConfig { failures: config.failures.max(1), ..config };
        Self { backend, config, clock: Box::new(clock), state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// What it would do with a call now.
    pub fn state(&self) -> BreakerState {
        match *self.lock() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Runs `call`, unless the engine is to be left alone.
    ///
    /// Only a retryable [`MemoryError::Backend`] counts as a failure: any other outcome is an answer.
    ///
    /// # Errors
    /// [`MemoryError::BreakerOpen`] without calling, else what `call` says.
    pub fn call<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut permit = self.permit()?;
        let outcome = call();
        permit.failed = matches!(outcome, Err(MemoryError::Backend { retryable: true, .. }));
        drop(permit);
        outcome
    }

    fn permit(&self) -> Result<Permit<'_>> {
        let now = (self.clock)();
        let mut state = self.lock();
        let (failures, wait) = match *state {
            State::Closed { .. } => return Ok(Permit { breaker: self, probe: false, failed: true }),
            State::Open { failures, until } if until <= now => {
                *state = State::HalfOpen { failures };
                return Ok(Permit { breaker: self, probe: true, failed: true });
            }
            State::Open { failures, until } => (failures, until - now),
            State::HalfOpen { failures } => (failures, self.config.cooldown),
        };
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Err(MemoryError::BreakerOpen { backend: self.backend, failures, retry_in_ms })
    }

    fn settle(&self, probe: bool, failed: bool) {
        let until = (self.clock)() + self.config.cooldown;
        let mut state = self.lock();
        *state = match (*state, probe, failed) {
            (State::HalfOpen { .. }, true, false) | (State::Closed { .. }, _, false) => State::Closed { failures: 0 },
            (State::HalfOpen { failures }, true, true) => State::Open { failures: failures.saturating_add(1), until },
            (State::Closed { failures }, _, true) if failures + 1 < self.config.failures => {
                State::Closed { failures: failures + 1 }
            }
            (State::Closed { failures }, _, true) => State::Open { failures: failures + 1, until },
            // A call from before it opened comes back late: only the probe decides now.
            (other, _, _) => other,
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that was let through; if it unwinds, it failed.
struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    failed: bool,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.breaker.settle(self.probe, self.failed);
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
