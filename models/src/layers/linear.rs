//! Linear layers: one input, one or more weight matrices whose outputs stand side by side.

use candle_core::{Result, Tensor};
use engram_kernels::ops::{self, LinearWeight};

/// `y = x W^T + b` over matrices that share their input (q, k and v; gate and up).
pub struct Linear {
    weights: Vec<LinearWeight>,
    bias: Option<Tensor>,
}

impl Linear {
    /// From matrices `[out_i, in]` and a bias over all outputs `[sum of out_i]`.
    pub fn new(weights: Vec<LinearWeight>, bias: Option<Tensor>) -> Self {
        Self { weights, bias }
    }

    /// `[tokens, in] -> [tokens, sum of out_i]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weights, self.bias.as_ref())
    }
}
