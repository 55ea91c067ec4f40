//! What becomes of a job's sums: written as they are, with a bias, or gated.

use crate::activation::silu_mul_lanes;
use crate::disjoint::Disjoint;
use crate::lanes::{LANES, Lanes, lanes_entry};

/// What is done to sums as they are written.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// Nothing.
    Store,
    /// A bias `[all outputs]` is added.
    Bias(&'a [f32]),
    /// The first half of the sums is a gate, the second what it lets through: `silu(gate) * up` is written.
    SwiGlu,
}

/// A job's sums: row `i` from `i * stride` on, and its gated half `up` values behind that.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub stride: usize,
    pub up: usize,
}

/// Where they go: `width` values of each row, from `column` on, of an output `stride` wide.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub out: &'a Disjoint<'a, f32>,
    pub first_row: usize,
    pub column: usize,
    pub width: usize,
    pub stride: usize,
}

lanes_entry! {
    /// Writes sums to their place.
    pub(super) fn write / write_avx2 / write_avx512(sums: Sums<'_>, epilogue: Epilogue<'_>, place: Place<'_>) = write_lanes
}

#[inline(always)]
fn write_lanes<L: Lanes>(sums: Sums<'_>, epilogue: Epilogue<'_>, place: Place<'_>) {
    let Place { out, first_row, column, width, stride } = place;
    for row in 0..sums.rows {
        let (at, from) = ((first_row + row) * stride + column, row * sums.stride);
        let values = &sums.values[from..from + width];
        // SAFETY: rows and columns of a job are its own: no other task of the call writes them.
        let out = unsafe { out.part(at..at + width) };
        match epilogue {
            Epilogue::Store => copy::<L>(values, out),
            Epilogue::Bias(bias) => add::<L>(values, &bias[column..column + width], out),
            Epilogue::SwiGlu => silu_mul_lanes::<L>(values, &sums.values[from + sums.up..][..width], out),
        }
    }
}

#[inline(always)]
fn copy<L: Lanes>(sums: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        L::load_at(sums, at).store_at(out, at);
    }
}

#[inline(always)]
fn add<L: Lanes>(sums: &[f32], bias: &[f32], out: &mut [f32]) {
    for at in (0..out.len()).step_by(LANES) {
        L::load_at(sums, at).add(L::load_at(bias, at)).store_at(out, at);
    }
}
