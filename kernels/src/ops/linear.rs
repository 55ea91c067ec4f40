//! Products with weight matrices, and rows out of tables.

use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Module, Result, Shape, Tensor, bail};

use super::storage::{floats, unwritten};
use crate::matmul::{GatedMatrix, Input, PackedMatrix, linear as multiply, swiglu as multiply_gated};
use crate::profile::{Kernel, running_over};

/// A weight matrix `[out, in]`, in the form of its device.
#[derive(Clone)]
pub enum LinearWeight {
    /// Packed for our CPU kernels.
    Packed(Arc<PackedMatrix>),
    /// A plain f32 tensor.
    Dense(Tensor),
    /// Candle's quantised matrix.
    Quantized(QMatMul),
}

struct PackedLinear<'a> {
    weights: &'a [&'a PackedMatrix],
    bias: Option<&'a [f32]>,
}

impl CustomOp1 for PackedLinear<'_> {
    fn name(&self) -> &'static str {
        "packed-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, cols) = layout.shape().dims2()?;
        if let Some(wrong) = self.weights.iter().find(|w| w.cols() != cols) {
            bail!("packed-linear: input has {cols} features, a weight takes {}", wrong.cols())
        }
        let x = floats(storage, layout, self.name())?;
        let outs: usize = self.weights.iter().map(|w| w.rows()).sum();
        let bytes = self.weights.iter().map(|w| w.bytes()).sum();
        let _running = running_over(Kernel::Linear, bytes, tokens * cols * outs);
        let mut out = unwritten(tokens * outs);
        multiply(x, tokens, self.weights, self.bias, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), (tokens, outs).into()))
    }
}

/// `x W^T + b` for matrices that share their input; their outputs stand side by side.
///
/// x `[tokens, in]` f32, weights `[out_i, in]`, bias `[sum of out_i]`; gives `[tokens, sum of out_i]`.
/// Packed weights are multiplied in one call, the input quantised once.
pub fn linear(x: &Tensor, weights: &[LinearWeight], bias: Option<&Tensor>) -> Result<Tensor> {
    let packed: Vec<&PackedMatrix> = weights
        .iter()
        .map_while(|w| match w {
            LinearWeight::Packed(matrix) => Some(matrix.as_ref()),
            _ => None,
        })
        .collect();
    if packed.len() == weights.len() {
        return packed_linear(x, &packed, bias);
    }
    let parts = weights.iter().map(|w| product(x, w)).collect::<Result<Vec<_>>>()?;
    let joined = if let [one] = parts.as_slice() { one.clone() } else { Tensor::cat(&parts, 1)? };
    match bias {
        Some(bias) => joined.broadcast_add(bias),
        None => Ok(joined),
    }
}

fn packed_linear(x: &Tensor, weights: &[&PackedMatrix], bias: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let Some(bias) = bias else { return x.apply_op1_no_bwd(&PackedLinear { weights, bias: None }) };
    let outs: usize = weights.iter().map(|w| w.rows()).sum();
    if bias.elem_count() != outs {
        bail!("packed-linear: bias has {} values, the weights give {outs}", bias.elem_count())
    }
    let (storage, layout) = bias.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("packed-linear: the bias is not on the CPU") };
    let bias = Some(floats(storage, layout, "packed-linear")?);
    x.apply_op1_no_bwd(&PackedLinear { weights, bias })
}

fn product(x: &Tensor, weight: &LinearWeight) -> Result<Tensor> {
    match weight {
        LinearWeight::Packed(matrix) => packed_linear(x, &[matrix], None),
        LinearWeight::Dense(matrix) => x.matmul(&matrix.t()?),
        LinearWeight::Quantized(matrix) => matrix.forward(x),
    }
}

struct SwiGlu<'a>(&'a GatedMatrix);

impl CustomOp1 for SwiGlu<'_> {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, cols) = layout.shape().dims2()?;
        let (weight, outs) = (self.0, self.0.rows());
        if weight.cols() != cols {
            bail!("swiglu: input has {cols} features, the weights take {}", weight.cols())
        }
        let x = floats(storage, layout, self.name())?;
        let _running = running_over(Kernel::Linear, weight.bytes(), 2 * tokens * cols * outs);
        let mut out = unwritten(tokens * outs);
        multiply_gated(Input::Rows(x), tokens, weight, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), (tokens, outs).into()))
    }
}

/// `silu(x gate^T) * (x up^T)` in one op: x `[tokens, in]` f32 on the CPU gives `[tokens, out]`.
///
/// Bit for bit what [`linear`] over both and [`super::silu_mul`] give. SwiGLU: <https://arxiv.org/abs/2002.05202>
pub fn swiglu(x: &Tensor, weight: &GatedMatrix) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&SwiGlu(weight))
}

/// Rows of a table `[rows, features]`: ids `[tokens]` give `[tokens, features]` f32 on `device`.
///
/// Errors: an id past the table's end; a table in candle's quantised form, whose rows cannot be read.
pub fn embedding(ids: &[u32], table: &LinearWeight, device: &Device) -> Result<Tensor> {
    match table {
        LinearWeight::Packed(matrix) => {
            let cols = matrix.cols();
            let mut rows = unwritten(ids.len() * cols);
            super::pass::embedding(ids, matrix, &mut rows)?;
            Tensor::from_vec(rows, (ids.len(), cols), device)
        }
        LinearWeight::Dense(table) => table.index_select(&Tensor::new(ids, device)?, 0),
        LinearWeight::Quantized(_) => bail!("embedding: a table in candle's quantised form has no rows to look up"),
    }
}

/// The rows of x `[tokens, features]` in the given order: `[rows, features]`.
pub fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let all = rows.len() == x.dim(0)? && rows.iter().enumerate().all(|(i, &row)| row as usize == i);
    if all { Ok(x.clone()) } else { x.contiguous()?.index_select(&Tensor::new(rows, x.device())?, 0) }
}
