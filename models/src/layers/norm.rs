//! RMSNorm (<https://arxiv.org/abs/1910.07467>) and LayerNorm (<https://arxiv.org/abs/1607.06450>).

use candle_core::{Result, Tensor, bail};
use engram_kernels::matmul::{Input, Normed};
use engram_kernels::ops::{self, Path};

use crate::workspace::Stream;

/// A norm over the last axis: LayerNorm where there is a bias, RMSNorm where there is none.
pub struct Norm {
    path: Path,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
    /// Gains and bias as plain values, where our kernels use them.
    values: Option<(Vec<f32>, Option<Vec<f32>>)>,
}

impl Norm {
    /// From a gain `[features]` and perhaps a bias `[features]`.
    pub fn new(path: Path, weight: Tensor, bias: Option<Tensor>, eps: f32) -> Result<Self> {
        let values = match path {
            Path::Kernels => Some((weight.to_vec1()?, bias.as_ref().map(Tensor::to_vec1).transpose()?)),
            Path::Plain => None,
        };
        Ok(Self { path, weight, bias, eps, values })
    }

    /// `[rows, features] -> [rows, features]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.bias {
            None => ops::rms_norm(self.path, x, &self.weight, self.eps),
            Some(bias) => ops::layer_norm(self.path, x, &self.weight, bias, self.eps),
        }
    }

    /// Adds `x` to the residual stream and norms the sum: `(residual + x, norm(residual + x))`.
    pub fn add_forward(&self, residual: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
        match &self.bias {
            None => ops::add_rms_norm(self.path, residual, x, &self.weight, self.eps),
            Some(bias) => {
                let sum = (residual + x)?;
                let normed = ops::layer_norm(self.path, &sum, &self.weight, bias, self.eps)?;
                Ok((sum, normed))
            }
        }
    }

    /// The residual stream, with what is to be added to it, on its way through this norm into a product: an RMSNorm becomes part of
    /// that product.
    pub(crate) fn of<'a>(&'a self, stream: Stream<'a>) -> Result<Input<'a>> {
        let Stream { hidden, add, normed } = stream;
        let add = Some(add.values()).filter(|add| !add.is_empty());
        match self.gains()? {
            (weight, None) => Ok(Input::Normed(Normed { residual: hidden.values_mut(), add, weight, eps: self.eps })),
            (weight, Some(bias)) => {
                if let Some(add) = add {
                    ops::pass::add_to(hidden.values_mut(), add)?;
                }
                let normed = normed.sized(hidden.values().len());
                ops::pass::layer_norm(hidden.values(), weight, bias, self.eps, normed)?;
                Ok(Input::Rows(normed))
            }
        }
    }

    /// The same, written down.
    pub(crate) fn written<'a>(&self, stream: Stream<'a>) -> Result<&'a [f32]> {
        let Stream { hidden, add, normed } = stream;
        if !add.values().is_empty() {
            ops::pass::add_to(hidden.values_mut(), add.values())?;
        }
        let normed = normed.sized(hidden.values().len());
        match self.gains()? {
            (weight, None) => ops::pass::rms_norm(hidden.values(), weight, self.eps, normed)?,
            (weight, Some(bias)) => ops::pass::layer_norm(hidden.values(), weight, bias, self.eps, normed)?,
        }
        Ok(normed)
    }

    /// Norms heads in place; see [`ops::pass::rms_norm_heads`].
    pub(crate) fn heads(&self, x: &mut [f32], stride: usize, heads: usize) -> Result<()> {
        match self.gains()? {
            (weight, None) => ops::pass::rms_norm_heads(x, stride, heads, weight, self.eps),
            (_, Some(_)) => bail!("norm: heads are normed without a bias"),
        }
    }

    fn gains(&self) -> Result<(&[f32], Option<&[f32]>)> {
        match &self.values {
            Some((weight, bias)) => Ok((weight, bias.as_deref())),
            None => bail!("norm: its weights are not for the CPU's kernels"),
        }
    }
}
