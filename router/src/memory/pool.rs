//! Blocking work, so much at once and no more: the threads that serve connections never wait for a disk.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

/// Runs blocking work on the runtime's blocking threads, `workers` at once, `queue_limit` waiting.
#[derive(Debug, Clone)]
pub struct Pool {
    workers: usize,
    queue_limit: usize,
    /// One for each piece of work that runs or waits.
    seats: Arc<Semaphore>,
    /// One for each that runs.
    running: Arc<Semaphore>,
}

/// Why a piece of work has no result.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No seat was free.
    #[error("the memory's queue is full: {waiting} operations wait, the limit is {limit} (`memory.queue_limit`)")]
    Full {
        /// How many wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// It panicked.
    #[error("an operation of the memory panicked")]
    Panicked(#[source] JoinError),
}

impl Pool {
    /// A pool of this many threads and seats to wait in.
    pub fn new(workers: usize, queue_limit: usize) -> Self {
        let workers = workers.max(1);
        let seats = workers.saturating_add(queue_limit).min(Semaphore::MAX_PERMITS);
        Self {
            workers,
            queue_limit,
            seats: Arc::new(Semaphore::new(seats)),
            running: Arc::new(Semaphore::new(workers)),
        }
    }

    /// Operations that run and that wait, right now.
    pub fn load(&self) -> (usize, usize) {
        let running = self.workers.saturating_sub(self.running.available_permits());
        let seated = (self.workers + self.queue_limit).saturating_sub(self.seats.available_permits());
        (running, seated.saturating_sub(running))
    }

    /// Runs `work` once a thread is free. Whoever drops this while it waits gives up the seat; work that runs
    /// already runs to its end, and keeps its thread counted until then.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let seat = self.seat()?;
        // The semaphore is never closed, so this cannot fail; `ok` keeps the types simple.
        let thread = Arc::clone(&self.running).acquire_owned().await.ok();
        let span = tracing::Span::current();
        let running = tokio::task::spawn_blocking(move || {
            let result = span.in_scope(work);
            drop((seat, thread));
            result
        });
        running.await.map_err(PoolError::Panicked)
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, PoolError> {
        Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| PoolError::Full { waiting: self.load().1, limit: self.queue_limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn so_much_at_once_and_no_more() {
        let pool = Pool::new(2, 3);
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let peak = Arc::new(AtomicUsize::new(0));
        let now = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (pool, gate, now, peak) = (pool.clone(), Arc::clone(&gate), Arc::clone(&now), Arc::clone(&peak));
                tokio::spawn(async move {
                    pool.run(move || {
                        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        gate.lock().expect("whole").recv().expect("open");
                        now.fetch_sub(1, Ordering::SeqCst);
                    })
                    .await
                })
            })
            .collect();
        while pool.load() != (2, 3) || now.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let error = pool.run(|| ()).await.expect_err("full");
        assert!(matches!(error, PoolError::Full { waiting: 3, limit: 3 }), "{error}");
        for _ in 0..5 {
            open.send(()).expect("somebody waits");
        }
        for task in tasks {
            task.await.expect("no panic").expect("done");
        }
        assert_eq!(peak.load(Ordering::SeqCst), 2);
        assert_eq!(pool.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_its_thread() {
        let pool = Pool::new(1, 0);
        let error = pool.run(|| panic!("at the wrong moment")).await.expect_err("panicked");
        assert!(matches!(error, PoolError::Panicked(_)));
        assert_eq!(pool.run(|| 7).await.expect("free again"), 7);
    }
}
