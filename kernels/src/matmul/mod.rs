//! Matrix products with prepared weights.

use crate::error::KernelError;
use crate::quant::{self, GgmlType};

/// A weight matrix `[rows (output features), cols (input features)]`, prepared for [`matmul`].
pub struct PackedMatrix {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

impl PackedMatrix {
    /// Prepares `rows` rows of ggml blocks.
    pub fn pack(ty: GgmlType, rows: usize, cols: usize, data: &[u8]) -> Result<Self, KernelError> {
        if rows == 0 || cols == 0 {
            return Err(KernelError::EmptyMatrix { rows, cols });
        }
        let row_bytes = ty
            .row_bytes(cols)
            .ok_or(KernelError::ColumnsNotBlocks { ty, cols })?;
        let expected = row_bytes
            .checked_mul(rows)
            .ok_or(KernelError::TooLarge { rows, cols })?;
        if data.len() != expected {
            return Err(KernelError::DataLength {
                ty,
                rows,
                cols,
                expected,
                actual: data.len(),
            });
        }
        Ok(Self {
            ty,
            rows,
            cols,
            data: data.to_vec(),
        })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type the weights came in.
    pub fn ggml_type(&self) -> GgmlType {
        self.ty
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// One row in f32, exactly as [`quant::dequantize`] gives it.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if out.len() != self.cols {
            return Err(KernelError::Length {
                what: "row of weights",
                expected: self.cols,
                actual: out.len(),
            });
        }
        if row >= self.rows {
            return Err(KernelError::RowOutOfRange {
                row,
                rows: self.rows,
            });
        }
        let row_bytes = self.data.len() / self.rows;
        quant::dequantize(self.ty, &self.data[row * row_bytes..][..row_bytes], out)
    }
}

/// `out[m, sum of rows] = x[m, cols] * weights^T`, the weights' outputs side by side.
pub fn matmul(
    x: &[f32],
    m: usize,
    weights: &[&PackedMatrix],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let cols = weights.first().map_or(0, |w| w.cols);
    let total: usize = weights.iter().map(|w| w.rows).sum();
    if x.len() != m * cols {
        return Err(KernelError::Length {
            what: "activations",
            expected: m * cols,
            actual: x.len(),
        });
    }
    if out.len() != m * total {
        return Err(KernelError::Length {
            what: "output",
            expected: m * total,
            actual: out.len(),
        });
    }
    let mut row_values = vec![0f32; cols];
    let mut column = 0;
    for w in weights {
        for row in 0..w.rows {
            w.dequantize_row(row, &mut row_values)?;
            for i in 0..m {
                out[i * total + column] = x[i * cols..][..cols]
                    .iter()
                    .zip(&row_values)
                    .map(|(a, b)| a * b)
                    .sum();
            }
            column += 1;
        }
    }
    Ok(())
}
