//! How much a key may use: its buckets, and the requests that it runs now.
//!
//! One lock a key, held for some ten nanoseconds: what one request needs is taken at once or not at all, so that a
//! refusal costs nothing and no two requests are let in for one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::tenant::KeyLimits;

/// Why a key may not use more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many requests a minute.
    Requests {
        /// Its limit.
        limit: u64,
        /// When there is room.
        retry_in: Duration,
    },
    /// Too many tokens a minute.
    Tokens {
        /// Its limit.
        limit: u64,
        /// What this request is taken to need.
        asked: u64,
        /// When there is room.
        retry_in: Duration,
    },
    /// Too many requests at once.
    Concurrency {
        /// Its limit.
        limit: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests { limit, retry_in } => {
                write!(f, "this key may ask {limit} times a minute: the next time in {:.1} s", retry_in.as_secs_f64())
            }
            Self::Tokens { limit, asked, retry_in } => write!(
                f,
                "this key may use {limit} tokens a minute, and this request is taken to need {asked}: there is room in \
                 {:.1} s, sooner with a lower `max_tokens`",
                retry_in.as_secs_f64()
            ),
            Self::Concurrency { limit } => {
                write!(f, "this key may run {limit} requests at once: wait until one of them has ended")
            }
        }
    }
}

/// The state of one limit, for the headers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// So much a minute.
    pub limit: u64,
    /// So much is there.
    pub remaining: u64,
    /// All of it is there again then.
    pub full_in: Duration,
}

/// The limits of one key and how much of them is used. Rotating the key changes nothing about it.
#[derive(Debug, Default)]
pub struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    concurrency: Option<u32>,
    running: u32,
}

impl Gate {
    /// A gate with these limits, nothing of them used.
    pub fn new(limits: &KeyLimits, now: Instant) -> Self {
        let gate = Self::default();
        gate.set_limits(limits, now);
        gate
    }

    /// Other limits; what is used stays used.
    pub fn set_limits(&self, limits: &KeyLimits, now: Instant) {
        let mut state = self.lock();
        set(&mut state.requests, limits.rpm, now);
        set(&mut state.tokens, limits.tpm, now);
        state.concurrency = limits.concurrency;
    }

    /// Lets one request in.
    pub fn enter(self: &Arc<Self>, now: Instant) -> Result<Pass, Refusal> {
        let mut state = self.lock();
        if let Some(limit) = state.concurrency.filter(|limit| state.running >= *limit) {
            return Err(Refusal::Concurrency { limit });
        }
        if let Some(requests) = &mut state.requests {
            let limit = requests.limit();
            requests.take(1, now).map_err(|retry_in| Refusal::Requests { limit, retry_in })?;
        }
        state.running += 1;
        Ok(Pass { gate: Arc::clone(self), reserved: 0 })
    }

    /// The limits on requests and on tokens as they stand.
    pub fn allowances(&self, now: Instant) -> (Option<Allowance>, Option<Allowance>) {
        let mut state = self.lock();
        let requests = state.requests.as_mut().map(|bucket| allowance(bucket, now));
        (requests, state.tokens.as_mut().map(|bucket| allowance(bucket, now)))
    }

    /// Requests that run now.
    pub fn running(&self) -> u32 {
        self.lock().running
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set(bucket: &mut Option<Bucket>, limit: Option<u64>, now: Instant) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(limit)) => bucket.set_limit(limit, now),
        (_, limit) => *bucket = limit.map(|limit| Bucket::new(limit, now)),
    }
}

fn allowance(bucket: &mut Bucket, now: Instant) -> Allowance {
    Allowance { limit: bucket.limit(), remaining: bucket.remaining(now), full_in: bucket.full_in(now) }
}

/// A request that was let in; it counts as running until this is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    reserved: u64,
}

impl Pass {
    /// Takes the tokens that the request is expected to need, on top of what it took before.
    pub fn reserve(&mut self, tokens: u64, now: Instant) -> Result<(), Refusal> {
        if let Some(bucket) = &mut self.gate.lock().tokens {
            let limit = bucket.limit();
            bucket.take(tokens, now).map_err(|retry_in| Refusal::Tokens { limit, asked: tokens, retry_in })?;
        }
        self.reserved += tokens;
        Ok(())
    }

    /// What was reserved so far.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Ends the request, which used `tokens`: what was reserved beyond them is given back, what is missing is owed.
    pub fn settle(self, tokens: u64, now: Instant) {
        if let Some(bucket) = &mut self.gate.lock().tokens {
            bucket.settle(self.reserved, tokens, now);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.running = state.running.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn gate(rpm: Option<u64>, tpm: Option<u64>, concurrency: Option<u32>, now: Instant) -> Arc<Gate> {
        Arc::new(Gate::new(&KeyLimits { rpm, tpm, concurrency, ..KeyLimits::default() }, now))
    }

    /// Asks from many threads at one moment; how many were let in, and stayed.
    fn burst(gate: &Arc<Gate>, now: Instant) -> usize {
        const THREADS: usize = 16;
        let (start, passed) = (Barrier::new(THREADS), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    let passes: Vec<Pass> = (0..100).filter_map(|_| gate.enter(now).ok()).collect();
                    passed.fetch_add(passes.len(), Ordering::SeqCst);
                    start.wait();
                });
            }
        });
        passed.load(Ordering::SeqCst)
    }

    #[test]
    fn bursts_from_many_threads_pass_exactly_the_limit() {
        let now = Instant::now();
        for limit in [1, 97, 500] {
            assert_eq!(burst(&gate(Some(limit), None, None, now), now), limit as usize);
            let concurrent = gate(None, None, Some(limit as u32), now);
            assert_eq!(burst(&concurrent, now), limit as usize);
            assert_eq!(concurrent.running(), 0);
        }
        assert_eq!(burst(&gate(None, None, None, now), now), 1600);
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let now = Instant::now();
        let gate = gate(Some(10), Some(100), Some(1), now);
        let mut first = gate.enter(now).expect("room");
        assert_eq!(gate.enter(now).expect_err("one runs"), Refusal::Concurrency { limit: 1 });
        assert_eq!(gate.allowances(now).0.expect("limited").remaining, 9);
        first.reserve(80, now).expect("room");
        let refused = first.reserve(30, now).expect_err("20 are there");
        assert_eq!(refused, Refusal::Tokens { limit: 100, asked: 30, retry_in: Duration::from_secs(6) });
        assert_eq!((first.reserved(), gate.allowances(now).1.expect("limited").remaining), (80, 20));
        first.settle(45, now);
        assert_eq!((gate.running(), gate.allowances(now).1.expect("limited").remaining), (0, 55));
        drop(gate.enter(now).expect("none runs"));
        assert_eq!(gate.running(), 0);
    }

    #[test]
    fn new_limits_hold_at_once_and_forgive_nothing() {
        let now = Instant::now();
        let gate = gate(Some(2), None, None, now);
        let _held = [gate.enter(now).expect("room"), gate.enter(now).expect("room")];
        gate.set_limits(&KeyLimits { rpm: Some(2), concurrency: Some(2), ..KeyLimits::default() }, now);
        assert_eq!(gate.enter(now).expect_err("two run"), Refusal::Concurrency { limit: 2 });
        gate.set_limits(&KeyLimits { rpm: Some(2), ..KeyLimits::default() }, now);
        assert!(matches!(gate.enter(now), Err(Refusal::Requests { limit: 2, .. })));
        gate.set_limits(&KeyLimits::default(), now);
        assert!(gate.enter(now).is_ok());
    }
}
