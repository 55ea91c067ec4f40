//! The token table.

use candle_core::{Device, Result, Tensor, bail};
use engram_kernels::ops::{self, LinearWeight};

use crate::workspace::Buffer;

/// Rows of a `[vocab, hidden]` table, times a constant that most models leave at 1 (Granite does not).
pub struct Embedding {
    table: LinearWeight,
    scale: f32,
}

impl Embedding {
    /// From a table `[vocab, hidden]`.
    pub fn new(table: LinearWeight, scale: f32) -> Self {
        Self { table, scale }
    }

    /// `[tokens]` ids `-> [tokens, hidden]`.
    pub fn forward(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        let rows = ops::embedding(ids, &self.table, device)?;
        if self.scale == 1.0 { Ok(rows) } else { rows.affine(f64::from(self.scale), 0.0) }
    }

    /// The same into a buffer, where the table is packed for the CPU.
    pub(crate) fn run(&self, ids: &[u32], hidden: &mut Buffer) -> Result<()> {
        let LinearWeight::Packed(table) = &self.table else { bail!("embedding: its table is not packed for the CPU") };
        let hidden = hidden.sized(ids.len() * table.cols());
        ops::pass::embedding(ids, table, hidden)?;
        if self.scale != 1.0 {
            hidden.iter_mut().for_each(|value| *value *= self.scale);
        }
        Ok(())
    }

    /// The table itself, for models whose output head is tied to it.
    pub fn table(&self) -> &LinearWeight {
        &self.table
    }
}
