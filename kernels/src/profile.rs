//! Where a step's time goes: each op counts its calls, its time and what it must move, while somebody asks.
//!
//! Off, it costs a load and a branch an op. Times are of the calling thread, from entering the op to leaving it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// Products with packed weights.
    Linear,
    /// Attention over the KV cache.
    Attention,
    /// Norms, with the residual addition before them.
    Norm,
    /// SwiGLU and GELU.
    Activation,
    /// Rotary positions.
    Rope,
    /// Writes to the KV cache.
    KvWrite,
    /// Rows of the token table.
    Embedding,
}

impl Kernel {
    /// Every kind, in the order of [`snapshot`].
    pub const ALL: [Kernel; 7] = [
        Kernel::Linear,
        Kernel::Attention,
        Kernel::Norm,
        Kernel::Activation,
        Kernel::Rope,
        Kernel::KvWrite,
        Kernel::Embedding,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Linear => "linear",
            Kernel::Attention => "attention",
            Kernel::Norm => "norm",
            Kernel::Activation => "activation",
            Kernel::Rope => "rope",
            Kernel::KvWrite => "kv_write",
            Kernel::Embedding => "embedding",
        }
    }
}

/// What the calls of one kind add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// How many calls.
    pub calls: u64,
    /// Time in them.
    pub time: Duration,
    /// Bytes of weights that they read at least.
    pub bytes: u64,
    /// Multiplications with weights.
    pub macs: u64,
}

impl Spent {
    /// What came after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            time: self.time.saturating_sub(earlier.time),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            macs: self.macs.saturating_sub(earlier.macs),
        }
    }
}

struct Counter {
    calls: AtomicU64,
    nanos: AtomicU64,
    bytes: AtomicU64,
    macs: AtomicU64,
}

static ENABLED: AtomicBool = AtomicBool::new(false);
static COUNTERS: [Counter; Kernel::ALL.len()] = [const {
    Counter { calls: AtomicU64::new(0), nanos: AtomicU64::new(0), bytes: AtomicU64::new(0), macs: AtomicU64::new(0) }
}; Kernel::ALL.len()];

/// Counts from now on, or no longer.
pub fn enable(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
}

/// What was counted so far, in the order of [`Kernel::ALL`].
pub fn snapshot() -> [Spent; Kernel::ALL.len()] {
    std::array::from_fn(|i| Spent {
        calls: COUNTERS[i].calls.load(Ordering::Relaxed),
        time: Duration::from_nanos(COUNTERS[i].nanos.load(Ordering::Relaxed)),
        bytes: COUNTERS[i].bytes.load(Ordering::Relaxed),
        macs: COUNTERS[i].macs.load(Ordering::Relaxed),
    })
}

/// An op that runs; counted when it is dropped.
pub(crate) struct Running {
    kernel: Kernel,
    begun: Option<Instant>,
    bytes: usize,
    macs: usize,
}

/// Begins an op that reads no weights.
#[inline]
pub(crate) fn running(kernel: Kernel) -> Running {
    running_over(kernel, 0, 0)
}

/// Begins an op over weights.
#[inline]
pub(crate) fn running_over(kernel: Kernel, bytes: usize, macs: usize) -> Running {
    let begun = ENABLED.load(Ordering::Relaxed).then(Instant::now);
    Running { kernel, begun, bytes, macs }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        let Some(begun) = self.begun else { return };
        let counter = &COUNTERS[self.kernel as usize];
        counter.calls.fetch_add(1, Ordering::Relaxed);
        counter.nanos.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        counter.bytes.fetch_add(self.bytes as u64, Ordering::Relaxed);
        counter.macs.fetch_add(self.macs as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_while_enabled_is_counted() {
        let at = Kernel::Embedding as usize; // no other test of this crate enables counting
        let before = snapshot()[at];
        drop(running_over(Kernel::Embedding, 10, 20));
        assert_eq!(snapshot()[at], before);
        enable(true);
        drop(running_over(Kernel::Embedding, 10, 20));
        enable(false);
        let spent = snapshot()[at].since(before);
        // Other tests may have looked up rows meanwhile; ours is among them.
        assert!(spent.calls >= 1 && spent.bytes >= 10 && spent.macs >= 20);
        for (i, kernel) in Kernel::ALL.into_iter().enumerate() {
            assert_eq!(kernel as usize, i);
        }
    }
}
