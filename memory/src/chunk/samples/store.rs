//! A bounded queue.

use std::collections::VecDeque;

const LIMIT: usize = 16;

/// Holds at most [`LIMIT`] jobs.
#[derive(Debug, Default)]
pub struct Queue<T> {
    jobs: VecDeque<T>,
}

impl<T> Queue<T> {
    /// Adds a job at the end, or gives it back when the queue is full and nobody has taken one of those
    /// that wait in it.
    pub fn push(&mut self, job: T) -> Result<(), T> {
        if self.jobs.len() == LIMIT {
            return Err(job);
        }
        self.jobs.push_back(job);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

mod wire {
    pub trait Encode {
        /// Writes itself at the end of `out`, in the order of its fields, each number little-endian, so that
        /// files can be read on another machine than the one that wrote them.
        fn encode(&self, out: &mut Vec<u8>);
    }
}
