//! Rotary positions.

use candle_core::{CpuStorage, D, InplaceOp1, Layout, Result, Tensor, bail};

use super::storage::row_stride;
use super::{Path, RopeLayout, RopeTable};
use crate::profile::{Kernel, running};

struct Rope<'a> {
    positions: &'a [u32],
    table: &'a RopeTable,
    layout: RopeLayout,
}

impl InplaceOp1 for Rope<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let _running = running(Kernel::Rope);
        let (tokens, heads, head_dim) = layout.shape().dims3()?;
        let (_, stride) = row_stride(layout, self.name())?;
        let CpuStorage::F32(values) = storage else { bail!("rope: takes f32") };
        if tokens != self.positions.len() {
            bail!("rope: {} positions for {tokens} tokens", self.positions.len())
        }
        let x = &mut values[layout.start_offset()..];
        crate::rope::rope(x, stride, (heads, head_dim), self.positions, self.table, self.layout)
            .map_err(candle_core::Error::wrap)
    }
}

/// Turns the heads of each token to its position: x `[tokens, heads, head_dim]`, positions `[tokens]`.
///
/// The first `table.rot_dim()` dimensions turn, the others stay. RoPE: <https://arxiv.org/abs/2104.09864>
/// x is used up: on [`Path::Kernels`] the result is x itself, turned in place, also where x is a view of wider rows; so nobody
/// else may go on with x's values.
pub fn rope(path: Path, x: Tensor, positions: &[u32], table: &RopeTable, layout: RopeLayout) -> Result<Tensor> {
    if path == Path::Kernels {
        x.inplace_op1(&Rope { positions, table, layout })?;
        return Ok(x);
    }
    let (tokens, heads, head_dim) = x.dims3()?;
    let (rot, half) = (table.rot_dim(), table.rot_dim() / 2);
    if positions.len() != tokens || rot > head_dim {
        bail!("rope of {rot} dimensions at {} positions, got {:?}", positions.len(), x.dims())
    }
    let (cos, sin) = table.select(positions, x.device())?;
    // [tokens, half] -> [tokens, 1, half, 1] or [tokens, 1, half]: one angle for all heads of a token
    let turning = x.narrow(D::Minus1, 0, rot)?.contiguous()?;
    let turned = match layout {
        RopeLayout::Neox => {
            let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
            let (a, b) = (turning.narrow(D::Minus1, 0, half)?, turning.narrow(D::Minus1, half, half)?);
            let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
            Tensor::cat(&[first, second], D::Minus1)?
        }
        RopeLayout::Interleaved => {
            let (cos, sin) = (cos.reshape((tokens, 1, half, 1))?, sin.reshape((tokens, 1, half, 1))?);
            let pairs = turning.reshape((tokens, heads, half, 2))?;
            let (a, b) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?);
            let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
            Tensor::cat(&[first, second], 3)?.reshape((tokens, heads, rot))?
        }
    };
    if rot == head_dim {
        return Ok(turned);
    }
    Tensor::cat(&[turned, x.narrow(D::Minus1, rot, head_dim - rot)?.contiguous()?], D::Minus1)
}
