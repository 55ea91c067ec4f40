//! The bulkhead: one backend that hangs fills its own seats and nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many calls a backend may have, and how many may wait for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkheadSettings {
    /// Calls at once, at least 1.
    pub max_in_flight: usize,
    /// Most calls that wait for a seat; 0: none does.
    pub max_waiting: usize,
    /// Longest such wait: after it the next backend of the plan is asked.
    pub max_wait: Duration,
}

impl Default for BulkheadSettings {
    fn default() -> Self {
        Self { max_in_flight: 256, max_waiting: 64, max_wait: Duration::from_millis(100) }
    }
}

/// No seat at the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{in_flight} calls are in flight of {limit} that may be, {waiting} wait, waited {} ms", waited.as_millis())]
pub struct BulkheadFull {
    /// Calls in flight.
    pub in_flight: usize,
    /// How many may be (`max_in_flight`).
    pub limit: usize,
    /// Calls that wait for a seat.
    pub waiting: usize,
    /// How long this one waited; zero if too many did already.
    pub waited: Duration,
}

/// A bulkhead at a moment, for `/v1/admin/backends` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkheadView {
    /// Calls in flight.
    pub in_flight: usize,
    /// How many may be.
    pub limit: usize,
    /// Calls that wait for a seat.
    pub waiting: usize,
    /// Calls that got none, since the start.
    pub refused: u64,
}

/// The seats of one backend; clones share them.
#[derive(Debug, Clone)]
pub struct Bulkhead {
    settings: BulkheadSettings,
    seats: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    refused: AtomicU64,
}

/// A call's place at the backend, given back when it is dropped.
#[must_use = "the seat is free again as soon as this is dropped"]
#[derive(Debug)]
pub struct Seat(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Bulkhead {
    /// All seats free.
    pub fn new(settings: BulkheadSettings) -> Self {
        let max_in_flight = settings.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let settings = BulkheadSettings { max_in_flight, ..settings };
        Self { settings, seats: Arc::new(Semaphore::new(max_in_flight)), counts: Arc::default() }
    }

    /// A seat, at once or after a short wait; who came first is first.
    ///
    /// # Errors
    /// [`BulkheadFull`] if too many wait already, or the wait was in vain.
    pub async fn enter(&self) -> Result<Seat, BulkheadFull> {
        if let Ok(permit) = Arc::clone(&self.seats).try_acquire_owned() {
            return Ok(Seat(permit));
        }
        let Some(place) = self.counts.wait(self.settings.max_waiting) else {
            return Err(self.full(Duration::ZERO));
        };
        let acquire = Arc::clone(&self.seats).acquire_owned();
        let seat = tokio::time::timeout(self.settings.max_wait, acquire).await;
        drop(place);
        // The semaphore is never closed, so that a time-out is the only failure.
        seat.ok().and_then(Result::ok).map(Seat).ok_or_else(|| self.full(self.settings.max_wait))
    }

    /// All there is to see.
    pub fn view(&self) -> BulkheadView {
        BulkheadView {
            in_flight: self.in_flight(),
            limit: self.settings.max_in_flight,
            waiting: self.counts.waiting.load(Ordering::Relaxed),
            refused: self.counts.refused.load(Ordering::Relaxed),
        }
    }

    /// Calls that have a seat.
    pub fn in_flight(&self) -> usize {
        self.settings.max_in_flight - self.seats.available_permits()
    }

    fn full(&self, waited: Duration) -> BulkheadFull {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let BulkheadView { in_flight, limit, waiting, .. } = self.view();
        BulkheadFull { in_flight, limit, waiting, waited }
    }
}

impl Counts {
    /// A place among those that wait, if there are fewer than `limit`.
    fn wait(&self, limit: usize) -> Option<Place<'_>> {
        let more = |waiting: usize| (waiting < limit).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Place(self))
    }
}

/// A call that waits; dropped too when its client leaves.
struct Place<'a>(&'a Counts);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn bulkhead(max_in_flight: usize, max_waiting: usize) -> Bulkhead {
        Bulkhead::new(BulkheadSettings { max_in_flight, max_waiting, max_wait: Duration::from_millis(100) })
    }

    #[tokio::test]
    async fn a_full_one_is_waited_for_shortly_and_in_turn() {
        let bulkhead = bulkhead(2, 2);
        let first = bulkhead.enter().await.expect("free");
        let _second = bulkhead.enter().await.expect("free");
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for name in ["third", "fourth"] {
            let (bulkhead, order) = (bulkhead.clone(), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let seat = bulkhead.enter().await;
                order.lock().expect("whole").push(name);
                seat
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(bulkhead.view(), BulkheadView { in_flight: 2, limit: 2, waiting: 2, refused: 0 });
        let error = bulkhead.enter().await.expect_err("nobody may wait any more");
        assert_eq!(error, BulkheadFull { in_flight: 2, limit: 2, waiting: 2, waited: Duration::ZERO });
        assert_eq!(error.to_string(), "2 calls are in flight of 2 that may be, 2 wait, waited 0 ms");
        drop(first);
        let fourth = waiting.pop().expect("two");
        let third = waiting.pop().expect("two").await.expect("no panic").expect("the first one's seat");
        let start = Instant::now();
        let error = fourth.await.expect("no panic").expect_err("no seat in time");
        assert_eq!((error.in_flight, error.waited), (2, Duration::from_millis(100)));
        assert!(start.elapsed() <= Duration::from_secs(5));
        assert_eq!(*order.lock().expect("whole"), ["third", "fourth"]);
        drop(third);
        assert_eq!(bulkhead.view(), BulkheadView { in_flight: 1, limit: 2, waiting: 0, refused: 2 });
    }

    #[tokio::test]
    async fn who_leaves_while_waiting_leaves_nothing_behind() {
        let bulkhead = bulkhead(1, 1);
        let seat = bulkhead.enter().await.expect("free");
        for _ in 0..20 {
            let mine = bulkhead.clone();
            let waiting = tokio::spawn(async move { mine.enter().await.map(drop) });
            while bulkhead.view().waiting == 0 {
                tokio::task::yield_now().await;
            }
            waiting.abort();
            assert!(waiting.await.expect_err("aborted").is_cancelled());
            assert_eq!(bulkhead.view().waiting, 0);
        }
        drop(seat);
        drop(bulkhead.enter().await.expect("free again"));
        assert_eq!(bulkhead.view(), BulkheadView { in_flight: 0, limit: 1, waiting: 0, refused: 0 });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stuck_backend_holds_up_nobody() {
        let (stuck, healthy) = (bulkhead(4, 4), bulkhead(4, 4));
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(stuck.enter().await.expect("free"));
        }
        let start = Instant::now();
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let (stuck, healthy) = (stuck.clone(), healthy.clone());
                tokio::spawn(async move {
                    let stuck = stuck.enter().await.is_err();
                    loop {
                        // Its calls end, so that everyone has a turn.
                        let seat = healthy.enter().await;
                        tokio::task::yield_now().await;
                        if seat.is_ok() {
                            return stuck;
                        }
                    }
                })
            })
            .collect();
        for call in calls {
            assert!(call.await.expect("no panic"));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!((stuck.view().in_flight, stuck.view().refused), (4, 200));
        assert_eq!(healthy.view().in_flight, 0);
    }
}
