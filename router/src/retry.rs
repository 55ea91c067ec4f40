//! When to try again, and when not to: backoff for one call, a budget for all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::window::Window;

/// Retries that a quiet server may make in a [`WINDOW`], whatever the share of its requests allows.
pub const FLOOR: u32 = 10;
/// How far back a budget looks.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Waits between attempts: capped, exponential, with full jitter (any time up to the bound is as likely), so that
/// clients that failed together do not come back together.
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the wait before the first retry; it doubles with each further one.
    pub base: Duration,
    /// Longest wait, whoever asks for it.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(100), cap: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// How long to wait before retry number `retry` (from 0), or `None` if this backend is not worth the wait.
    ///
    /// A `retry_after` of the backend's is waited for in full, with up to `base` on top. It is not worth it when the
    /// backend asks for more than `cap` (the next one in the plan will not), or when nothing would be `left` until the
    /// deadline.
    pub fn delay(
        &self,
        retry: u32,
        retry_after: Option<Duration>,
        left: Option<Duration>,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        let wait = match retry_after {
            Some(asked) if asked > self.cap => return None,
            Some(asked) => asked.saturating_add(up_to(self.base, rng)),
            None => {
                let doubled = self.base.saturating_mul(1u32.checked_shl(retry).unwrap_or(u32::MAX));
                up_to(doubled.min(self.cap), rng)
            }
        };
        left.is_none_or(|left| wait < left).then_some(wait)
    }
}

fn up_to(bound: Duration, rng: &mut impl Rng) -> Duration {
    bound.mul_f64(rng.random_range(0.0..=1.0))
}

/// How many retries all requests to a backend may make together, so that a bad day is not multiplied: a share of the
/// requests of the last while, and a few in any case, without which a quiet server could never retry.
///
/// Within the window retries are never more than `floor` and `percent` of its requests. Finagle's idea:
/// <https://finagle.github.io/blog/2016/02/08/retry-budgets/>
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    floor: u64,
    refused: AtomicU64,
    /// Requests, and the retries they made. A mutex: it is held for some ten instructions.
    window: Mutex<Window>,
}

/// A budget at a moment, for metrics and the admin view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryView {
    /// Requests in the window.
    pub requests: u64,
    /// Retries in it.
    pub retries: u64,
    /// How many more there may be now.
    pub left: u64,
    /// Retries that were not made for want of budget, since the start.
    pub refused: u64,
}

impl RetryBudget {
    /// Retries for `percent` of the requests of the last `window`, and `floor` more; [`WINDOW`] and [`FLOOR`] where
    /// nothing says otherwise.
    pub fn new(percent: u32, floor: u32, window: Duration) -> Self {
        Self {
            percent: u64::from(percent),
            floor: u64::from(floor),
            refused: AtomicU64::new(0),
            window: Mutex::new(Window::new(window, Instant::now())),
        }
    }

    /// A request is made: its first attempt, not its retries.
    pub fn deposit(&self, now: Instant) {
        self.lock().add(now, 1, 0);
    }

    /// Whether a retry may be made; if so it is counted.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut window = self.lock();
        let may = self.left(&window, now) > 0;
        if may {
            window.add(now, 0, 1);
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// All there is to see.
    pub fn view(&self, now: Instant) -> RetryView {
        let window = self.lock();
        let (requests, retries) = window.sums(now);
        RetryView { requests, retries, left: self.left(&window, now), refused: self.refused.load(Ordering::Relaxed) }
    }

    fn left(&self, window: &Window, now: Instant) -> u64 {
        let (requests, retries) = window.sums(now);
        (self.floor + requests.saturating_mul(self.percent) / 100).saturating_sub(retries)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_double_up_to_the_cap_and_fill_their_range() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (retry, bound) in [(0, 100), (1, 200), (2, 400), (5, 3200), (6, 5000), (31, 5000), (32, 5000), (99, 5000)] {
            let waits: Vec<Duration> =
                (0..2000).map(|_| BACKOFF.delay(retry, None, None, &mut rng).expect("no deadline")).collect();
            assert!(waits.iter().all(|wait| *wait <= ms(bound)), "{retry}");
            // Full jitter: the mean is the half, and both ends are met.
            let mean = waits.iter().sum::<Duration>().as_secs_f64() / 2000.0;
            assert!((mean / ms(bound).as_secs_f64() - 0.5).abs() < 0.03, "{retry}: {mean}");
            assert!(waits.iter().any(|wait| *wait < ms(bound) / 50));
            assert!(waits.iter().any(|wait| *wait > ms(bound) * 49 / 50));
        }
    }

    #[test]
    fn what_the_backend_asks_for_and_what_the_deadline_leaves() {
        let mut rng = SmallRng::seed_from_u64(2);
        // retry_after, left, the range of the wait; all in milliseconds
        let table = [
            (Some(2000), None, Some((2000, 2100))),
            (Some(0), None, Some((0, 100))),
            (Some(5000), None, Some((5000, 5100))),
            (Some(5001), None, None),
            (Some(3_600_000), Some(7_200_000), None),
            (Some(2000), Some(2101), Some((2000, 2100))),
            (Some(2000), Some(2000), None),
            (Some(2000), Some(10), None),
            (None, Some(101), Some((0, 100))),
            (None, Some(0), None),
        ];
        for (asked, left, range) in table {
            for _ in 0..50 {
                let wait = BACKOFF.delay(0, asked.map(ms), left.map(ms), &mut rng);
                let fits = match (wait, range) {
                    (Some(wait), Some((low, high))) => wait >= ms(low) && wait <= ms(high),
                    (None, None) => true,
                    _ => false,
                };
                assert!(fits, "{asked:?} {left:?}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_bad_day_is_not_multiplied() {
        let budget = RetryBudget::new(20, FLOOR, WINDOW);
        let start = Instant::now();
        // 1,000 requests a second for a minute, each of which fails and would retry three times.
        let mut retries = 0;
        for request in 0..60_000u64 {
            let now = start + Duration::from_millis(request);
            budget.deposit(now);
            retries += (0..3).filter(|_| budget.withdraw(now)).count();
        }
        // A fifth of them, the floor once a window, and what a window's first tenth lets through early.
        assert!((12_000..=12_500).contains(&retries), "{retries}");
        let now = start + Duration::from_secs(61);
        let view = budget.view(now);
        assert_eq!(view.refused, 180_000 - retries as u64);
        assert!(view.retries <= 10 + view.requests / 5, "{view:?}");
        // After a silence there is the floor again, and no more.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..30).filter(|_| budget.withdraw(later)).count(), 10);
        assert!(!RetryBudget::new(0, 0, WINDOW).withdraw(later));
    }

    proptest! {
        #[test]
        fn retries_stay_within_the_share(steps in prop::collection::vec((0u64..300, any::<bool>()), 1..400)) {
            let start = Instant::now();
            let budget = RetryBudget::new(20, 2, Duration::from_secs(1));
            let (mut at, mut requests, mut retries) = (0, Vec::new(), Vec::new());
            for (step, retry) in steps {
                at += step;
                let now = start + ms(at);
                if !retry {
                    budget.deposit(now);
                    requests.push(at);
                } else if budget.withdraw(now) {
                    retries.push(at);
                    // Of the last 0.9 seconds the window sees all, of the tenth before them what it may.
                    let of = |list: &[u64], span: u64| list.iter().filter(|event| **event + span > at).count();
                    prop_assert!(of(&retries, 900) <= 2 + of(&requests, 1001) / 5);
                }
            }
        }
    }
}
