//! The token table.

use candle_core::{Device, Result, Tensor};
use engram_kernels::ops::{self, LinearWeight};

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

    /// The table itself, for models whose output head is tied to it.
    pub fn table(&self) -> &LinearWeight {
        &self.table
    }
}
