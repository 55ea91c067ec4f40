//! The ops of a pass on plain rows, for a pass that keeps its own buffers: no tensor is made and nothing is allocated.
//!
//! Each is bit for bit what the op of the same name on tensors gives with [`super::Path::Kernels`]. The KV cache stays a pair of
//! tensors, which belong to the engine.

use std::borrow::Borrow;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use super::kv::kv_shape;
use super::storage::{cache, cache_mut};
use super::{AttentionParams, RopeLayout, RopeTable, SequenceSpan};
use crate::activation;
use crate::attention::{self as kernel, PagedKv};
use crate::disjoint::{Disjoint, over_rows};
use crate::matmul::{self, GatedMatrix, Input, PackedMatrix};
use crate::norm;
use crate::profile::{Kernel, running, running_over};
use crate::rows::Rows;

/// Rows `ids` of a table `[rows, cols]` to out `[ids, cols]`.
pub fn embedding(ids: &[u32], table: &PackedMatrix, out: &mut [f32]) -> Result<()> {
    let _running = running(Kernel::Embedding);
    let cols = table.cols();
    if out.len() != ids.len() * cols {
        bail!("embedding: {} ids of {cols} features, room for {}", ids.len(), out.len())
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
        bail!("embedding: id {id} of a table of {}", table.rows())
    }
    let out = Disjoint::new(out);
    over_rows(ids.len(), 4 * cols, &|rows| {
        for row in rows {
            // SAFETY: each row is one task's.
            let to = unsafe { out.part(row * cols..(row + 1) * cols) };
            // Ids and lengths are checked above, so it cannot fail.
            let _ = table.dequantize_row(ids[row] as usize, to);
        }
    });
    Ok(())
}

/// `input W^T + bias`, input `[m, cols]`, out `[m, sum of rows]`. See [`matmul::product`].
pub fn linear<M: Borrow<PackedMatrix> + Sync>(
    input: Input<'_>,
    m: usize,
    weights: &[M],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let bytes = weights.iter().map(|w| w.borrow().bytes()).sum();
    let products = weights.iter().map(|w| w.borrow().rows() * w.borrow().cols()).sum::<usize>();
    let _running = running_over(Kernel::Linear, bytes, m * products);
    matmul::product(input, m, weights, bias, out).map_err(Error::wrap)
}

/// `silu(input gate^T) * (input up^T)`, input `[m, cols]`, out `[m, rows]`. See [`matmul::swiglu`].
pub fn swiglu(input: Input<'_>, m: usize, weight: &GatedMatrix, out: &mut [f32]) -> Result<()> {
    let _running = running_over(Kernel::Linear, weight.bytes(), 2 * m * weight.rows() * weight.cols());
    matmul::swiglu(input, m, weight, out).map_err(Error::wrap)
}

/// See [`activation::silu_mul`].
pub fn silu_mul(gate_up: &[f32], ffn: usize, out: &mut [f32]) -> Result<()> {
    let _running = running(Kernel::Activation);
    activation::silu_mul(gate_up, ffn, out).map_err(Error::wrap)
}

/// See [`activation::gelu_tanh`].
pub fn gelu_tanh(x: &[f32], out: &mut [f32]) -> Result<()> {
    let _running = running(Kernel::Activation);
    activation::gelu_tanh(x, out).map_err(Error::wrap)
}

/// `residual += add`.
pub fn add_to(residual: &mut [f32], add: &[f32]) -> Result<()> {
    let _running = running(Kernel::Norm);
    norm::add_to(residual, add).map_err(Error::wrap)
}

/// See [`norm::rms_norm`].
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    let _running = running(Kernel::Norm);
    norm::rms_norm(x, weight, eps, out).map_err(Error::wrap)
}

/// See [`norm::layer_norm`].
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    let _running = running(Kernel::Norm);
    norm::layer_norm(x, weight, bias, eps, out).map_err(Error::wrap)
}

/// Norms each head of some, in place: a row of `heads * weight.len()` values a token, the rows `stride` apart.
pub fn rms_norm_heads(x: &mut [f32], stride: usize, heads: usize, weight: &[f32], eps: f32) -> Result<()> {
    let _running = running(Kernel::Norm);
    norm::rms_norm_heads(x, stride, heads, weight, eps).map_err(Error::wrap)
}

/// Turns heads in place. See [`crate::rope::rope`].
pub fn rope(
    x: &mut [f32],
    stride: usize,
    shape: (usize, usize),
    positions: &[u32],
    table: &RopeTable,
    layout: RopeLayout,
) -> Result<()> {
    let _running = running(Kernel::Rope);
    crate::rope::rope(x, stride, shape, positions, table, layout).map_err(Error::wrap)
}

struct WriteKv<'a> {
    x: Rows<'a>,
    slots: &'a [u32],
}

impl InplaceOp1 for WriteKv<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let shape = kv_shape(layout, storage.dtype())?;
        let cache = cache_mut(storage, layout, self.name())?;
        kernel::write_kv(self.x, self.slots, shape, cache).map_err(Error::wrap)
    }
}

/// Writes K or V of a step into its cache, in place. See [`super::write_kv`].
pub fn write_kv(x: Rows<'_>, target: &Tensor, slots: &[u32]) -> Result<()> {
    let _running = running(Kernel::KvWrite);
    target.inplace_op1(&WriteKv { x, slots })
}

/// Attention over the caches `[k, v]` of a layer: q rows of `[heads, head_dim]`, out `[tokens, heads, head_dim]`.
/// See [`super::paged_attention`].
pub fn paged_attention(
    q: Rows<'_>,
    heads: usize,
    caches: [&Tensor; 2],
    spans: &[SequenceSpan],
    params: &AttentionParams,
    out: &mut [f32],
) -> Result<()> {
    let _running = running(Kernel::Attention);
    let [(k, k_layout), (v, v_layout)] = caches.map(Tensor::storage_and_layout);
    let (Storage::Cpu(k), Storage::Cpu(v)) = (&*k, &*v) else {
        bail!("paged-attention: the KV cache is not on the CPU")
    };
    let op = "paged-attention";
    if k_layout.shape() != v_layout.shape() {
        bail!("{op}: keys {:?} and values {:?}", k_layout.shape(), v_layout.shape())
    }
    let shape = kv_shape(k_layout, k.dtype())?;
    let kv = PagedKv { k: cache(k, k_layout, op)?, v: cache(v, v_layout, op)?, shape };
    kernel::paged_attention(q, heads, kv, spans, params, out).map_err(Error::wrap)
}
