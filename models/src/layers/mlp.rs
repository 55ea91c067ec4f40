//! Feed-forward layers of dense models.

use candle_core::{Result, Tensor};
use engram_kernels::GatedMatrix;
use engram_kernels::matmul::Input;
use engram_kernels::ops::{self, Path};

use crate::error::ModelError;
use crate::layers::{Linear, Loader, Norm};
use crate::workspace::{Stream, Workspace};

/// Gate and up of a SwiGLU.
pub enum GateUp {
    /// Packed together for the CPU: their product and the gating are one op.
    Paired(GatedMatrix),
    /// A linear layer of both side by side, `[tokens, 2 * ffn]`, and how it is gated.
    Apart(Linear, Path),
}

/// SwiGLU (<https://arxiv.org/abs/2002.05202>): `down(silu(gate(x)) * up(x))`.
pub struct GatedMlp {
    gate_up: GateUp,
    down: Linear,
}

impl GatedMlp {
    /// Loads `blk.{layer}.ffn_{gate,up,down}`.
    pub fn load(loader: &Loader<'_>, layer: usize) -> std::result::Result<Self, ModelError> {
        let (hidden, ffn) = (loader.config.hidden, loader.config.ffn);
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        Ok(Self::new(
            loader.gate_up([&name("gate"), &name("up")], ffn, hidden)?,
            loader.linear(&[(name("down"), hidden)], ffn)?,
        ))
    }

    /// From its two layers.
    pub fn new(gate_up: GateUp, down: Linear) -> Self {
        Self { gate_up, down }
    }

    /// `[tokens, hidden] -> [tokens, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = match &self.gate_up {
            GateUp::Paired(both) => ops::swiglu(x, both)?,
            GateUp::Apart(both, path) => ops::silu_mul(*path, &both.forward(x)?)?,
        };
        self.down.forward(&gated)
    }

    /// The stream through `norm` and this, to `workspace.out`: what is to be added to the stream next.
    pub(crate) fn run(&self, norm: &Norm, rows: usize, workspace: &mut Workspace) -> Result<()> {
        let Workspace { hidden, normed, inner, gate_up, out, .. } = workspace;
        let input = norm.of(Stream { hidden, add: out, normed })?;
        match &self.gate_up {
            GateUp::Paired(both) => ops::pass::swiglu(input, rows, both, inner.sized(rows * both.rows()))?,
            GateUp::Apart(both, _) => {
                both.run(input, rows, gate_up)?;
                let ffn = both.outs() / 2;
                ops::pass::silu_mul(gate_up.values(), ffn, inner.sized(rows * ffn))?;
            }
        }
        self.down.run(Input::Rows(inner.values()), rows, out)
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

    /// The stream through `norm` and this, to `workspace.out`: what is to be added to the stream next.
    pub(crate) fn run(&self, norm: &Norm, rows: usize, workspace: &mut Workspace) -> Result<()> {
        let Workspace { hidden, normed, inner, gate_up, out, .. } = workspace;
        self.up.run(norm.of(Stream { hidden, add: out, normed })?, rows, gate_up)?;
        ops::pass::gelu_tanh(gate_up.values(), inner.sized(rows * self.up.outs()))?;
        self.down.run(Input::Rows(inner.values()), rows, out)
    }
}
