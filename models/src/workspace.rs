//! The memory of a pass, kept from one to the next, and what it gives: logits.

use engram_kernels::prefer_huge_pages;

/// Buffers of a pass. They grow to the largest batch seen and are not given back, so a pass that is no larger than one
/// before it allocates nothing.
#[derive(Default)]
pub struct Workspace {
    /// The residual stream, `[tokens, hidden]`.
    pub(crate) hidden: Buffer,
    /// The stream normed, where a norm cannot be part of a product.
    pub(crate) normed: Buffer,
    /// Queries, keys and values side by side.
    pub(crate) qkv: Buffer,
    /// What attention gathered.
    pub(crate) attended: Buffer,
    /// Between the two products of a feed-forward part.
    pub(crate) inner: Buffer,
    /// Gate and up, where they are not one op.
    pub(crate) gate_up: Buffer,
    /// What a part of a layer adds to the stream.
    pub(crate) out: Buffer,
    logits: Buffer,
    rows: usize,
}

impl Workspace {
    /// Rows of logits that the last pass gave.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Logits of the last pass, `[rows, vocab]`.
    pub fn logits(&self) -> &[f32] {
        self.logits.values()
    }

    /// Room for the logits of a pass, `rows` of `vocab`, each to be written.
    pub fn logits_mut(&mut self, rows: usize, vocab: usize) -> &mut [f32] {
        self.rows = rows;
        self.logits.sized(rows * vocab)
    }

    /// The last product of a pass: from the residual stream and room for the logits at once.
    pub(crate) fn head(&mut self, rows: usize, vocab: usize) -> (Stream<'_>, &mut [f32]) {
        self.rows = rows;
        let stream = Stream { hidden: &mut self.hidden, add: &self.out, normed: &mut self.normed };
        (stream, self.logits.sized(rows * vocab))
    }
}

/// The residual stream on its way into a norm.
pub(crate) struct Stream<'a> {
    /// The stream.
    pub hidden: &'a mut Buffer,
    /// What the part before it adds; empty before the first.
    pub add: &'a Buffer,
    /// Room for the normed stream.
    pub normed: &'a mut Buffer,
}

/// Values in memory that is kept: as many as asked for last.
#[derive(Default)]
pub(crate) struct Buffer {
    memory: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `len` values, each to be overwritten; those written before are kept while the buffer need not grow.
    pub fn sized(&mut self, len: usize) -> &mut [f32] {
        if self.memory.len() < len {
            // Zero pages of the system, on huge ones where it has them, that the threads which write them first bring in:
            // cleared here, the buffers of a first prefill of 512 tokens took 2 to 4 % of it.
            self.memory = vec![0f32; len];
            prefer_huge_pages(&self.memory);
        }
        self.len = len;
        &mut self.memory[..len]
    }

    /// What was written.
    pub fn values(&self) -> &[f32] {
        &self.memory[..self.len]
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }

    /// Keeps the rows of `cols` values that are named, in that order. Panics for a row that is not there.
    pub fn select_rows(&mut self, rows: &[u32], cols: usize) {
        if rows.is_sorted_by(|a, b| a < b) {
            // Then no row is overwritten before it was copied.
            for (to, &from) in rows.iter().enumerate() {
                let from = from as usize * cols;
                self.memory.copy_within(from..from + cols, to * cols);
            }
        } else {
            let picked = rows.iter().flat_map(|&row| &self.memory[row as usize * cols..][..cols]);
            let picked: Vec<f32> = picked.copied().collect();
            self.sized(picked.len()).copy_from_slice(&picked);
        }
        self.len = rows.len() * cols;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_in_order() {
        let mut buffer = Buffer::default();
        buffer.sized(8).copy_from_slice(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        buffer.select_rows(&[1, 3], 2);
        assert_eq!(buffer.values(), [2.0, 3.0, 6.0, 7.0]);
        buffer.select_rows(&[1, 0, 1], 2);
        assert_eq!(buffer.values(), [6.0, 7.0, 2.0, 3.0, 6.0, 7.0]);
        buffer.select_rows(&[], 2);
        assert!(buffer.values().is_empty());
        assert_eq!(buffer.sized(3).len(), 3);
    }
}
