//! Rows of activations cut into the blocks that a kernel multiplies at once.

use std::ops::Range;

/// `rows` rows in as few blocks of at most `most` as will do, as even as can be.
///
/// Seven rows in blocks of up to six are four and three, not six and a lone one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RowBlocks {
    rows: usize,
    count: usize,
}

impl RowBlocks {
    pub(super) fn new(rows: usize, most: usize) -> Self {
        Self { rows, count: rows.div_ceil(most) }
    }

    /// All rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// How many blocks there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// First row of a block; `rows` for the one past the last.
    #[inline(always)]
    pub(super) fn start(&self, block: usize) -> usize {
        let (each, longer) = (self.rows / self.count.max(1), self.rows % self.count.max(1));
        block * each + block.min(longer)
    }

    /// Rows of some blocks.
    #[inline(always)]
    pub(super) fn rows_of(&self, blocks: Range<usize>) -> Range<usize> {
        self.start(blocks.start)..self.start(blocks.end)
    }

    /// The block a row is in.
    #[cfg(test)]
    pub(super) fn block_of(&self, row: usize) -> usize {
        (0..self.count).find(|&block| self.rows_of(block..block + 1).contains(&row)).expect("a row of these")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_even_and_cover_every_row() {
        for most in [1, 3, 4, 6] {
            for rows in 0..200 {
                let blocks = RowBlocks::new(rows, most);
                let lens: Vec<usize> = (0..blocks.count()).map(|b| blocks.rows_of(b..b + 1).len()).collect();
                assert_eq!(lens.iter().sum::<usize>(), rows);
                assert!(lens.iter().all(|&len| len >= 1 && len <= most), "{rows} by {most}: {lens:?}");
                assert!(lens.iter().max().unwrap_or(&0) - lens.iter().min().unwrap_or(&0) <= 1, "{lens:?}");
                assert_eq!(blocks.rows_of(0..blocks.count()), 0..rows);
            }
        }
        assert_eq!(RowBlocks::new(7, 6).rows_of(1..2), 4..7);
    }
}
