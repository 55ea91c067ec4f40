//! The circuit breaker: a backend that keeps failing is left alone for a while.
//!
//! Closed, every call goes through, and its verdict is counted. Failures in a row, or the share of failures among
//! the calls of a window, open it. Open, calls are refused at once. After a while one call may probe: its success
//! closes the breaker, its failure opens it again for twice as long, up to a cap. A call that took too long counts
//! as a failure. A call without a verdict (its client left) counts as nothing, and gives a probe back.
//!
//! Closed, asking costs one load; a verdict costs one short lock. Verdicts of calls that began before the last change of
//! state are not counted: what was sent to a backend before it opened says nothing about a probe after that.
//! Nygard, *Release It!*, chapter 5.

mod state;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use state::Core;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it; 0: they do not.
    pub failures: u32,
    /// Share of failures, in percent of the calls in the window, that opens it; 0: it does not.
    pub error_percent: u32,
    /// Fewest calls in the window for which there is a share.
    pub min_calls: u32,
    /// How far back the share looks.
    pub window: Duration,
    /// Time until the first probe, less up to a fifth, so that breakers that opened together do not probe together.
    pub open: Duration,
    /// Longest time until a probe: each one that fails doubles it up to this.
    pub open_cap: Duration,
    /// A call that takes this long is a failure, whatever came of it.
    pub slow_call: Option<Duration>,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            error_percent: 50,
            min_calls: 20,
            window: Duration::from_secs(30),
            open: Duration::from_secs(10),
            open_cap: Duration::from_secs(120),
            slow_call: None,
        }
    }
}

/// What a breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets it through.
    Closed,
    /// Refuses it.
    Open,
    /// Lets one through as a probe, or refuses it while one is out.
    HalfOpen,
}

impl BreakerState {
    /// Its name in metrics and in the admin view.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trip {
    /// So many failures in a row.
    InARow {
        /// How many.
        failures: u32,
    },
    /// Too large a share of failures.
    Share {
        /// Failures in the window.
        failures: u64,
        /// Calls in it.
        calls: u64,
    },
    /// A probe failed.
    Probe {
        /// How many have, one after the other.
        failed: u32,
    },
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow { failures } => write!(f, "{failures} failures in a row"),
            Self::Share { failures, calls } => write!(f, "{failures} of the last {calls} calls failed"),
            Self::Probe { failed: 1 } => write!(f, "the probe failed"),
            Self::Probe { failed } => write!(f, "{failed} probes failed, one after the other"),
        }
    }
}

/// A breaker at a moment, for `/v1/admin/backends` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerView {
    /// Its state.
    pub state: BreakerState,
    /// How long it has been in that state.
    pub since: Duration,
    /// Time until a probe may go out; `None` while it is closed or a probe is out.
    pub retry_in: Option<Duration>,
    /// Failures since the last success.
    pub in_a_row: u32,
    /// Calls with a verdict in the window.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Why it opened last; `None` once it is closed.
    pub trip: Option<Trip>,
    /// How often it has opened, failed probes among them.
    pub opened: u64,
}

/// A call that is not made, because the backend is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker open, next try in {:.1} s", retry_in.as_secs_f64())]
pub struct OpenUntil {
    /// Time until a call may go through; while a probe is out, the time that its failure would bring at least.
    pub retry_in: Duration,
}

struct Shared {
    /// The number of the current state in the upper bits, in the lowest whether it is closed. Written with the lock held.
    epoch: AtomicU64,
    /// A mutex: it is held for some ten instructions, twice a call at most.
    core: Mutex<Core>,
}

/// Guards the calls to one backend, or to one model of it; clones are the same breaker.
#[derive(Clone)]
pub struct Breaker {
    shared: Arc<Shared>,
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("core", &*self.lock()).finish()
    }
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Self {
        Self::starting(settings, Instant::now(), rand::random())
    }

    /// The same with a time to start at, and a seed for what is random in it.
    fn starting(settings: BreakerSettings, now: Instant, seed: u64) -> Self {
        let core = Core::new(settings, now, seed);
        Self { shared: Arc::new(Shared { epoch: AtomicU64::new(core.epoch()), core: Mutex::new(core) }) }
    }

    /// Leave to make one call, which then says how it went.
    ///
    /// # Errors
    /// [`OpenUntil`] if the backend is to be left alone.
    pub fn try_acquire(&self, now: Instant) -> Result<Permit, OpenUntil> {
        // A load that is late lets one more call through, as if it had come a moment earlier.
        let mut epoch = self.shared.epoch.load(Ordering::Relaxed);
        if !state::is_closed(epoch) {
            epoch = self.change(|core| core.acquire(now)).0?;
        }
        Ok(Permit { breaker: self.clone(), epoch, reported: false })
    }

    /// What it would do with a call now.
    pub fn state(&self, now: Instant) -> BreakerState {
        self.lock().state(now)
    }

    /// All there is to see.
    pub fn view(&self, now: Instant) -> BreakerView {
        self.lock().view(now)
    }

    /// Closes it and forgets what was counted; verdicts of calls that are out are not counted any more.
    pub fn reset(&self, now: Instant) {
        self.change(|core| core.close(now));
    }

    /// Runs `act` under the lock; the state it leads to, if that is another.
    fn change<T>(&self, act: impl FnOnce(&mut Core) -> T) -> (T, Option<BreakerState>) {
        let mut core = self.lock();
        let before = core.epoch();
        let result = act(&mut core);
        let after = core.epoch();
        self.shared.epoch.store(after, Ordering::Relaxed);
        (result, (after != before).then(|| core.named()))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that may be made. Dropped without a verdict it counts as nothing, and the next call is the probe if this
/// one was.
#[must_use = "a call's verdict is what the breaker learns from"]
#[derive(Debug)]
pub struct Permit {
    breaker: Breaker,
    epoch: u64,
    reported: bool,
}

impl Permit {
    /// The backend answered, be it to say that the request is wrong; `took` decides whether that was too slow. The
    /// state that this led to, if it is another one.
    pub fn success(mut self, now: Instant, took: Duration) -> Option<BreakerState> {
        self.reported = true;
        let epoch = self.epoch;
        self.breaker.change(|core| core.success(epoch, now, took)).1
    }

    /// The answer has begun, and its end is to have the verdict, by the permit that is left. What is known already is
    /// told at once: that the beginning was too slow, and that a probe was answered, for nobody should wait for its end.
    pub fn begun(self, now: Instant, took: Duration) -> Option<Self> {
        let slow = self.breaker.lock().is_slow(took);
        if state::is_closed(self.epoch) && !slow {
            return Some(self);
        }
        let breaker = self.breaker.clone();
        self.success(now, took);
        (!slow).then(|| breaker.try_acquire(now).ok()).flatten()
    }

    /// The backend failed. The state that this led to, if it is another one.
    pub fn failure(mut self, now: Instant) -> Option<BreakerState> {
        self.reported = true;
        let epoch = self.epoch;
        self.breaker.change(|core| core.failure(epoch, now)).1
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.reported && !state::is_closed(self.epoch) {
            let epoch = self.epoch;
            self.breaker.change(|core| core.give_back(epoch));
        }
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
