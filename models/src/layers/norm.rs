//! RMSNorm (<https://arxiv.org/abs/1910.07467>) and LayerNorm (<https://arxiv.org/abs/1607.06450>).

use candle_core::{Result, Tensor};
use engram_kernels::ops::{self, Path};

/// A norm over the last axis: LayerNorm where there is a bias, RMSNorm where there is none.
pub struct Norm {
    path: Path,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

impl Norm {
    /// From a gain `[features]` and perhaps a bias `[features]`.
    pub fn new(path: Path, weight: Tensor, bias: Option<Tensor>, eps: f32) -> Self {
        Self { path, weight, bias, eps }
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
}
