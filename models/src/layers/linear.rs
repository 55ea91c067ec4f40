//! Linear layers: one input, one or more weight matrices whose outputs stand side by side.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use engram_kernels::PackedMatrix;
use engram_kernels::matmul::Input;
use engram_kernels::ops::{self, LinearWeight};

use crate::workspace::Buffer;

/// `y = x W^T + b` over matrices that share their input (q, k and v; gate and up).
pub struct Linear {
    weights: Vec<LinearWeight>,
    bias: Option<Tensor>,
    /// The same as plain rows, where all are packed for the CPU.
    packed: Option<Packed>,
}

struct Packed {
    weights: Vec<Arc<PackedMatrix>>,
    bias: Option<Vec<f32>>,
    outs: usize,
}

impl Linear {
    /// From matrices `[out_i, in]` and a bias over all outputs `[sum of out_i]`.
    pub fn new(weights: Vec<LinearWeight>, bias: Option<Tensor>) -> Result<Self> {
        let packed: Vec<Arc<PackedMatrix>> = weights
            .iter()
            .filter_map(
                |weight| if let LinearWeight::Packed(matrix) = weight { Some(Arc::clone(matrix)) } else { None },
            )
            .collect();
        let packed = if packed.len() == weights.len() {
            let bias = bias.as_ref().map(Tensor::to_vec1).transpose()?;
            let outs = packed.iter().map(|matrix| matrix.rows()).sum();
            Some(Packed { weights: packed, bias, outs })
        } else {
            None
        };
        Ok(Self { weights, bias, packed })
    }

    /// `[tokens, in] -> [tokens, sum of out_i]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weights, self.bias.as_ref())
    }

    /// Outputs of a row: the sum of `out_i`. 0 where the weights are not packed.
    pub(crate) fn outs(&self) -> usize {
        self.packed.as_ref().map_or(0, |packed| packed.outs)
    }

    /// The same on plain rows: input `[m, in]`, out `[m, sum of out_i]`. Fails where the weights are not packed.
    pub(crate) fn run(&self, input: Input<'_>, m: usize, out: &mut Buffer) -> Result<()> {
        self.run_into(input, m, out.sized(m * self.outs()))
    }

    /// [`Self::run`] into a slice of that size.
    pub(crate) fn run_into(&self, input: Input<'_>, m: usize, out: &mut [f32]) -> Result<()> {
        let Some(packed) = &self.packed else { bail!("linear: its weights are not packed for the CPU") };
        ops::pass::linear(input, m, &packed.weights, packed.bias.as_deref(), out)
    }
}
