//! Feed-forward layers of dense models.

use candle_core::{Result, Tensor};
use engram_kernels::ops::{self, Path};

use crate::error::ModelError;
use crate::layers::{Linear, Loader};

/// SwiGLU (<https://arxiv.org/abs/2002.05202>): `down(silu(gate(x)) * up(x))`.
pub struct GatedMlp {
    path: Path,
    gate_up: Linear,
    down: Linear,
}

impl GatedMlp {
    /// Loads `blk.{layer}.ffn_{gate,up,down}`.
    pub fn load(loader: &Loader<'_>, layer: usize) -> std::result::Result<Self, ModelError> {
        let (hidden, ffn) = (loader.config.hidden, loader.config.ffn);
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        Ok(Self::new(
            loader.form.path(),
            loader.linear(&[(name("gate"), ffn), (name("up"), ffn)], hidden)?,
            loader.linear(&[(name("down"), hidden)], ffn)?,
        ))
    }

    /// From its two linear layers, `gate_up` giving `[tokens, 2 * ffn]`.
    pub fn new(path: Path, gate_up: Linear, down: Linear) -> Self {
        Self { path, gate_up, down }
    }

    /// `[tokens, hidden] -> [tokens, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&ops::silu_mul(self.path, &self.gate_up.forward(x)?)?)
    }
}

/// `down(gelu(up(x)))` with the tanh form of GELU (<https://arxiv.org/abs/1606.08415>), as StarCoder2 has it.
pub struct PlainMlp {
    path: Path,
    up: Linear,
    down: Linear,
}

impl PlainMlp {
    /// Loads `blk.{layer}.ffn_{up,down}`.
    pub fn load(loader: &Loader<'_>, layer: usize) -> std::result::Result<Self, ModelError> {
        let (hidden, ffn) = (loader.config.hidden, loader.config.ffn);
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        Ok(Self {
            path: loader.form.path(),
            up: loader.linear(&[(name("up"), ffn)], hidden)?,
            down: loader.linear(&[(name("down"), hidden)], ffn)?,
        })
    }

    /// `[tokens, hidden] -> [tokens, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&ops::gelu_tanh(self.path, &self.up.forward(x)?)?)
    }
}
