//! The vectors themselves, `[n, dim]` f32, in shared blocks: a new version of a graph shares those of the old.

use std::sync::Arc;

/// Rows of a block: a megabyte at 256 values.
const BLOCK: usize = 1024;

/// Rows of f32, appended only. A clone shares all blocks; one that is then appended to copies its last block.
#[derive(Debug, Clone, Default)]
pub(super) struct Vectors {
    blocks: Vec<Arc<Vec<f32>>>,
    dim: usize,
    len: usize,
}

impl Vectors {
    pub(super) fn new(dim: usize) -> Self {
        Self { blocks: Vec::new(), dim, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends a row of `dim` values.
    pub(super) fn push(&mut self, row: &[f32]) {
        debug_assert_eq!(row.len(), self.dim);
        if self.len.is_multiple_of(BLOCK) {
            self.blocks.push(Arc::new(Vec::with_capacity(BLOCK * self.dim)));
        }
        if let Some(last) = self.blocks.last_mut() {
            Arc::make_mut(last).extend_from_slice(row);
            self.len += 1;
        }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: u32) -> &[f32] {
        let row = row as usize;
        &self.blocks[row / BLOCK][row % BLOCK * self.dim..][..self.dim]
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.capacity() * 4).sum()
    }
}
