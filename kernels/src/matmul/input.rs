//! What is multiplied: rows as they are, or a residual stream that is normed on the way.

use std::cell::Cell;

use crate::disjoint::{Disjoint, over_rows};
use crate::dispatch::Isa;
use crate::error::KernelError;
use crate::norm::norm_row;

/// The left side of a product, `[m, cols]`.
pub enum Input<'a> {
    /// Rows as they are.
    Rows(&'a [f32]),
    /// The RMSNorm of a residual stream; for quantised weights it is never written down.
    Normed(Normed<'a>),
}

/// `residual += add; rms_norm(residual)`, bit for bit what [`crate::norm::add_rms_norm`] gives.
pub struct Normed<'a> {
    /// The residual stream `[m, cols]`; what is added stays in it.
    pub residual: &'a mut [f32],
    /// What is added first, `[m, cols]`.
    pub add: Option<&'a [f32]>,
    /// Gains, `[cols]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

impl Input<'_> {
    /// Values of all rows, if all parts agree on it. Errors: [`KernelError::Length`].
    pub(super) fn check(&self, m: usize, cols: usize) -> Result<(), KernelError> {
        let values = m.saturating_mul(cols);
        match self {
            Input::Rows(x) => super::check_len("activations", values, x.len()),
            Input::Normed(normed) => {
                super::check_len("residual", values, normed.residual.len())?;
                super::check_len("what is added to the residual", values, normed.add.map_or(values, <[f32]>::len))?;
                super::check_len("norm weight", cols, normed.weight.len())
            }
        }
    }
}

/// The same, as the tasks of a call see it.
pub(super) enum Source<'a> {
    Rows(&'a [f32]),
    Normed { residual: Disjoint<'a, f32>, add: Option<&'a [f32]>, weight: &'a [f32], eps: f32 },
}

impl<'a> Source<'a> {
    pub(super) fn of(input: Input<'a>) -> Self {
        match input {
            Input::Rows(x) => Self::Rows(x),
            Input::Normed(Normed { residual, add, weight, eps }) => {
                Self::Normed { residual: Disjoint::new(residual), add, weight, eps }
            }
        }
    }

    /// The rows written down, in `buffer` where they have to be made first.
    pub(super) fn written(self, isa: Isa, m: usize, cols: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        if let Self::Rows(x) = self {
            return x;
        }
        if buffer.len() < m * cols {
            buffer.resize(m * cols, 0.0);
        }
        let out = Disjoint::new(&mut buffer[..m * cols]);
        over_rows(m, cols, &|rows| {
            // SAFETY: runs of rows do not overlap.
            let out = unsafe { out.part(rows.start * cols..rows.end * cols) };
            // SAFETY: the same rows.
            unsafe { self.norm(isa, rows, cols, out) };
        });
        &buffer[..m * cols]
    }

    /// Calls `f` with some rows, `[rows, cols]`.
    ///
    /// # Safety
    /// No other call has the same rows at the same time.
    pub(super) unsafe fn with<T>(
        &self,
        isa: Isa,
        rows: std::ops::Range<usize>,
        cols: usize,
        f: impl FnOnce(&[f32]) -> T,
    ) -> T {
        thread_local! {
            static NORMED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
        }
        if let Self::Rows(x) = self {
            return f(&x[rows.start * cols..rows.end * cols]);
        }
        let mut normed = NORMED.take();
        let len = rows.len() * cols;
        if normed.len() < len {
            normed.resize(len, 0.0);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.norm(isa, rows, cols, &mut normed[..len]) };
        let result = f(&normed[..len]);
        NORMED.set(normed);
        result
    }

    /// # Safety
    /// No other call has the same rows at the same time.
    unsafe fn norm(&self, isa: Isa, rows: std::ops::Range<usize>, cols: usize, out: &mut [f32]) {
        let Self::Normed { residual, add, weight, eps } = self else { return };
        for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
            let values = row * cols..(row + 1) * cols;
            // SAFETY: the caller's rows are its own.
            let residual = unsafe { residual.part(values.clone()) };
            norm_row(isa, residual, add.map(|add| &add[values]), weight, *eps, out);
        }
    }
}
