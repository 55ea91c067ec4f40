//! One output slice, written by several threads in parts that do not meet.

use std::marker::PhantomData;
use std::ops::Range;

use crate::pool::pool;

/// Below this many values a second thread costs more than it saves (about a microsecond to wake one).
const WORTH_SHARING: usize = 8192;

/// A mutable slice that tasks of one job take parts of.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out parts, and `part` makes its caller promise that no two of them meet.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        Self { start: all.as_mut_ptr(), len: all.len(), owner: PhantomData }
    }

    /// Panics where the range leaves the slice.
    ///
    /// # Safety
    /// No two parts alive at the same time overlap.
    #[allow(clippy::mut_from_ref)] // the point of the type; see Safety
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {} values", self.len);
        // SAFETY: inside the slice by the check above, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Calls `f` on runs of rows that together are all of them, on the pool where there is enough work.
///
/// `weight` is the cost of a row in values written or read.
pub(crate) fn over_rows(rows: usize, weight: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
    let per_task = (WORTH_SHARING / weight.max(1)).max(1);
    if rows <= per_task {
        if rows > 0 {
            f(0..rows);
        }
        return;
    }
    pool().run(rows.div_ceil(per_task), &|task| {
        f(task * per_task..((task + 1) * per_task).min(rows));
    });
}
