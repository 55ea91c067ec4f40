//! Points that wait for the graph: looked at one by one.

use engram_kernels::distance;

use super::segment::Wanted;
use crate::exact::TopK;

/// Rows in the order they came, slots `first ..`.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Slot of the first row.
    pub(super) first: u32,
    pub(super) ids: Vec<u128>,
    /// `[ids, dim]`, length 1 each.
    values: Vec<f32>,
    dim: usize,
}

impl Batch {
    pub(super) fn new(first: u32, dim: usize) -> Self {
        Self { first, dim, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn push(&mut self, id: u128, row: &[f32]) {
        self.ids.push(id);
        self.values.extend_from_slice(row);
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = (u128, &[f32])> {
        self.ids.iter().copied().zip(self.values.chunks_exact(self.dim))
    }

    pub(super) fn row(&self, slot: u32) -> Option<&[f32]> {
        let row = slot.checked_sub(self.first)? as usize;
        self.values.chunks_exact(self.dim).nth(row)
    }

    pub(super) fn search(&self, wanted: &Wanted<'_>, best: &mut TopK<(u32, u128)>) {
        for (slot, (id, row)) in (self.first..).zip(self.rows()) {
            if wanted.takes(slot, id) {
                best.offer((slot, id), distance::dot(wanted.vector, row));
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.ids.capacity() * 16 + self.values.capacity() * 4
    }
}
