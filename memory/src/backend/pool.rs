//! Connections kept open and lent out, at most so many at once.
//!
//! A connection is made when one is asked for and none is idle, so an engine that is down is known at once
//! with its own words; a borrower waits only when all are lent. One that lay idle for a while is asked
//! whether it still works before it is lent: a restarted engine costs its callers nothing.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{MemoryError, Result};

/// Idle for longer than this, a connection is checked before it is lent.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How many connections there may be, and how long a caller waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Connections at most, at least 1.
    pub size: u32,
    /// How long a caller waits while all are lent.
    pub wait: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { size: 8, wait: Duration::from_secs(2) }
    }
}

/// Makes and checks connections of one engine.
pub(super) trait Connect: Send + Sync {
    /// What is kept open.
    type Connection: Send + 'static;

    /// Opens one.
    fn connect(&self) -> Result<Self::Connection>;

    /// Whether it cannot be used any more, told without asking the engine.
    fn broken(&self, connection: &Self::Connection) -> bool;

    /// Whether the engine still answers on it.
    fn answers(&self, connection: &mut Self::Connection) -> bool;
}

struct Shelf<C> {
    idle: VecDeque<(C, Instant)>,
    open: u32,
}

/// The pool.
pub(super) struct Pool<M: Connect> {
    maker: M,
    backend: &'static str,
    setting: &'static str,
    config: PoolConfig,
    // A mutex and a condition: connections are taken and put back in nanoseconds and used for milliseconds.
    shelf: Mutex<Shelf<M::Connection>>,
    returned: Condvar,
}

impl<M: Connect> Pool<M> {
    /// An empty one; nothing is opened yet. `setting` is the key of its size in the configuration.
    pub(super) fn new((backend, setting): (&'static str, &'static str), config: PoolConfig, maker: M) -> Self {
        let config = PoolConfig { size: config.size.max(1), ..config };
        let shelf = Mutex::new(Shelf { idle: VecDeque::new(), open: 0 });
        Self { maker, backend, setting, config, shelf, returned: Condvar::new() }
    }

    /// What makes the connections.
    pub(super) fn maker(&self) -> &M {
        &self.maker
    }

    /// Lent now, and at most.
    pub(super) fn usage(&self) -> (u32, u32) {
        let shelf = self.lock();
        let idle = u32::try_from(shelf.idle.len()).unwrap_or(u32::MAX);
        (shelf.open.saturating_sub(idle), self.config.size)
    }

    /// Lends a connection.
    pub(super) fn get(&self) -> Result<Lent<'_, M>> {
        let deadline = Instant::now() + self.config.wait;
        let mut shelf = self.lock();
        loop {
            if let Some((connection, since)) = shelf.idle.pop_back() {
                drop(shelf);
                let mut lent = Lent { pool: self, connection: Some(connection) };
                if since.elapsed() < TRUSTED_IDLE || self.maker.answers(&mut lent) {
                    return Ok(lent);
                }
                lent.connection = None;
                drop(lent);
                shelf = self.lock();
            } else if shelf.open < self.config.size {
                shelf.open += 1;
                drop(shelf);
                // The slot goes back by `Drop` if connecting fails or unwinds.
                let mut lent = Lent { pool: self, connection: None };
                lent.connection = Some(self.maker.connect()?);
                return Ok(lent);
            } else {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(self.exhausted());
                }
                shelf = self.returned.wait_timeout(shelf, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn exhausted(&self) -> MemoryError {
        let (size, wait) = (self.config.size, self.config.wait.as_millis());
        let message = format!("all {size} connections were in use for {wait} ms: raise `{}`", self.setting);
        // Not a failure of the engine: the breaker must not open because we are busy.
        MemoryError::Backend { backend: self.backend, message, retryable: false }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<M::Connection>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Connect> Drop for Pool<M> {
    /// Connections are closed on a thread of their own: a driver that runs a runtime inside may not do so
    /// on a thread of another runtime.
    fn drop(&mut self) {
        let idle = std::mem::take(&mut self.lock().idle);
        if !idle.is_empty() {
            let _ = std::thread::spawn(move || drop(idle)).join();
        }
    }
}

/// A connection on loan; it goes back when dropped, unless it broke.
pub(super) struct Lent<'a, M: Connect> {
    pool: &'a Pool<M>,
    connection: Option<M::Connection>,
}

impl<M: Connect> Deref for Lent<'_, M> {
    type Target = M::Connection;

    fn deref(&self) -> &M::Connection {
        self.connection.as_ref().expect("there from `get` until `drop`")
    }
}

impl<M: Connect> DerefMut for Lent<'_, M> {
    fn deref_mut(&mut self) -> &mut M::Connection {
        self.connection.as_mut().expect("there from `get` until `drop`")
    }
}

impl<M: Connect> Drop for Lent<'_, M> {
    fn drop(&mut self) {
        // A borrower that panicked may have left half a conversation on it.
        let fit = |connection: &M::Connection| !std::thread::panicking() && !self.pool.maker.broken(connection);
        let connection = self.connection.take().filter(fit);
        let mut shelf = self.pool.lock();
        match connection {
            Some(connection) => shelf.idle.push_back((connection, Instant::now())),
            None => shelf.open -= 1,
        }
        drop(shelf);
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
