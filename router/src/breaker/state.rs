//! A breaker's states and what leads from one to another; time is told, and nothing waits.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{BreakerSettings, BreakerState, BreakerView, OpenUntil, Trip};
use crate::window::Window;

/// Whether calls of this epoch go through.
pub(super) fn is_closed(epoch: u64) -> bool {
    epoch & 1 == 1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// A probe is out; the time that it was let out at.
    Probing {
        until: Instant,
    },
}

/// A breaker without its lock.
#[derive(Debug)]
pub(super) struct Core {
    settings: BreakerSettings,
    state: State,
    since: Instant,
    /// States so far.
    number: u64,
    window: Window,
    in_a_row: u32,
    failed_probes: u32,
    trip: Option<Trip>,
    opened: u64,
    rng: SmallRng,
}

impl Core {
    pub(super) fn new(settings: BreakerSettings, now: Instant, seed: u64) -> Self {
        Self {
            settings,
            state: State::Closed,
            since: now,
            number: 0,
            window: Window::new(settings.window, now),
            in_a_row: 0,
            failed_probes: 0,
            trip: None,
            opened: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Which state this is: no two are the same, and the lowest bit says whether it is closed.
    pub(super) fn epoch(&self) -> u64 {
        self.number << 1 | u64::from(self.state == State::Closed)
    }

    /// The epoch of a call that may go out now.
    pub(super) fn acquire(&mut self, now: Instant) -> Result<u64, OpenUntil> {
        match self.state {
            State::Closed => {}
            State::Open { until } if until <= now => self.enter(State::Probing { until }, now),
            State::Open { until } => return Err(OpenUntil { retry_in: until - now }),
            State::Probing { .. } => return Err(OpenUntil { retry_in: self.settings.open }),
        }
        Ok(self.epoch())
    }

    /// Whether a call that took so long counts as failed.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.settings.slow_call.is_some_and(|slow| took >= slow)
    }

    pub(super) fn success(&mut self, epoch: u64, now: Instant, took: Duration) {
        if self.is_slow(took) {
            return self.failure(epoch, now);
        }
        if epoch != self.epoch() {
            return;
        }
        if self.state == State::Closed {
            self.window.add(now, 1, 0);
            self.in_a_row = 0;
        } else {
            self.close(now);
        }
    }

    pub(super) fn failure(&mut self, epoch: u64, now: Instant) {
        if epoch != self.epoch() {
            return;
        }
        if self.state != State::Closed {
            self.failed_probes += 1;
            return self.open(Trip::Probe { failed: self.failed_probes }, now);
        }
        self.window.add(now, 1, 1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let (calls, failures) = self.window.sums(now);
        let BreakerSettings { failures: row, error_percent, min_calls, .. } = self.settings;
        if row > 0 && self.in_a_row >= row {
            self.open(Trip::InARow { failures: self.in_a_row }, now);
        } else if error_percent > 0
            && calls >= u64::from(min_calls)
            && failures * 100 >= calls * u64::from(error_percent)
        {
            self.open(Trip::Share { failures, calls }, now);
        }
    }

    /// A probe that has no verdict: another may go out at once.
    pub(super) fn give_back(&mut self, epoch: u64) {
        if epoch == self.epoch()
            && let State::Probing { until } = self.state
        {
            self.enter(State::Open { until }, self.since);
        }
    }

    pub(super) fn close(&mut self, now: Instant) {
        self.window.clear();
        self.in_a_row = 0;
        self.failed_probes = 0;
        self.trip = None;
        self.enter(State::Closed, now);
    }

    fn open(&mut self, trip: Trip, now: Instant) {
        self.trip = Some(trip);
        self.opened += 1;
        let until = now + self.open_time();
        self.enter(State::Open { until }, now);
    }

    /// Doubled for each failed probe up to the cap, less up to a fifth.
    fn open_time(&mut self) -> Duration {
        let BreakerSettings { open, open_cap, .. } = self.settings;
        let doubled = open.saturating_mul(1u32.checked_shl(self.failed_probes).unwrap_or(u32::MAX));
        doubled.min(open_cap.max(open)).mul_f64(self.rng.random_range(0.8..=1.0))
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.number += 1;
    }

    /// The state's name.
    pub(super) fn named(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// The same, and half-open from the moment that a probe may go out.
    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Open { until } if until <= now => BreakerState::HalfOpen,
            _ => self.named(),
        }
    }

    pub(super) fn view(&self, now: Instant) -> BreakerView {
        let (calls, failures) = self.window.sums(now);
        let (since, retry_in) = match self.state {
            State::Open { until } if until <= now => (until, Some(Duration::ZERO)),
            State::Open { until } => (self.since, Some(until - now)),
            State::Closed | State::Probing { .. } => (self.since, None),
        };
        BreakerView {
            state: self.state(now),
            since: now.saturating_duration_since(since),
            retry_in,
            in_a_row: self.in_a_row,
            calls,
            failures,
            trip: self.trip,
            opened: self.opened,
        }
    }
}
