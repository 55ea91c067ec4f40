//! Norms and activations.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail};

use super::Path;
use super::storage::{floats, unwritten};
use crate::profile::{Kernel, running};
use crate::{activation, norm};

/// A norm's weight is as long as the last axis.
fn same_features(x: &Layout, weight: &Layout, op: &str) -> Result<()> {
    if x.dims().last() != weight.dims().last() {
        bail!("{op}: input {:?}, weight {:?}", x.dims(), weight.dims())
    }
    Ok(())
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let _running = running(Kernel::Norm);
        let (x, weight) = (floats(x, xl, self.name())?, floats(w, wl, self.name())?);
        same_features(xl, wl, self.name())?;
        let mut out = unwritten(x.len());
        norm::rms_norm(x, weight, self.eps, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

/// RMSNorm over the last axis: x `[rows, features]`, weight `[features]`. <https://arxiv.org/abs/1910.07467>
pub fn rms_norm(path: Path, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    match path {
        Path::Kernels => x.contiguous()?.apply_op2_no_bwd(weight, &RmsNorm { eps }),
        Path::Plain => {
            let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
            x.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?.broadcast_mul(weight)
        }
    }
}

/// Adds x to the residual and norms the sum: `(residual + x, rms_norm(residual + x))`, both `[rows, features]`.
///
/// Two results, so on the CPU it reads the storages itself instead of being a custom op, which has one.
pub fn add_rms_norm(path: Path, residual: &Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    if path == Path::Plain {
        let sum = (residual + x)?;
        let normed = rms_norm(path, &sum, weight, eps)?;
        return Ok((sum, normed));
    }
    if residual.shape() != x.shape() {
        bail!("add-rms-norm: residual is {:?}, what is added {:?}", residual.shape(), x.shape())
    }
    same_features(x.layout(), weight.layout(), "add-rms-norm")?;
    let (residual, x) = (residual.contiguous()?, x.contiguous()?);
    let running = running(Kernel::Norm);
    let mut sum = unwritten(x.elem_count());
    let mut normed = unwritten(x.elem_count());
    with_floats(&residual, |residual| {
        with_floats(&x, |x| {
            with_floats(weight, |weight| {
                norm::add_rms_norm(residual, x, weight, eps, &mut sum, &mut normed).map_err(candle_core::Error::wrap)
            })
        })
    })?;
    drop(running);
    Ok((Tensor::from_vec(sum, x.shape(), x.device())?, Tensor::from_vec(normed, x.shape(), x.device())?))
}

fn with_floats<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(floats(storage, layout, "add-rms-norm")?),
        _ => bail!("add-rms-norm: our kernel runs on the CPU, the tensor is elsewhere"),
    }
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let _running = running(Kernel::Norm);
        let (x, weight, bias) = (floats(x, xl, self.name())?, floats(w, wl, self.name())?, floats(b, bl, self.name())?);
        same_features(xl, wl, self.name())?;
        let mut out = unwritten(x.len());
        norm::layer_norm(x, weight, bias, self.eps, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

/// LayerNorm over the last axis: x `[rows, features]`, weight and bias `[features]`. <https://arxiv.org/abs/1607.06450>
pub fn layer_norm(path: Path, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    match path {
        Path::Kernels => x.contiguous()?.apply_op3_no_bwd(weight, bias, &LayerNorm { eps }),
        Path::Plain => {
            let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
            centered.broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
        }
    }
}

struct SiluMul;

impl CustomOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let _running = running(Kernel::Activation);
        let (tokens, both) = layout.shape().dims2()?;
        let mut out = unwritten(tokens * (both / 2));
        activation::silu_mul(floats(x, layout, self.name())?, both / 2, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), (tokens, both / 2).into()))
    }
}

/// SwiGLU's product: gate and up side by side `[tokens, 2 * ffn]` give `silu(gate) * up`, `[tokens, ffn]`.
pub fn silu_mul(path: Path, gate_up: &Tensor) -> Result<Tensor> {
    match path {
        Path::Kernels => gate_up.contiguous()?.apply_op1_no_bwd(&SiluMul),
        Path::Plain => {
            let ffn = gate_up.dim(1)? / 2;
            gate_up.narrow(1, 0, ffn)?.contiguous()?.silu()? * gate_up.narrow(1, ffn, ffn)?.contiguous()?
        }
    }
}

struct Gelu(GeluForm);

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let _running = running(Kernel::Activation);
        let x = floats(x, layout, self.name())?;
        let mut out = unwritten(x.len());
        let kernel = match self.0 {
            GeluForm::Tanh => activation::gelu_tanh,
            GeluForm::Erf => activation::gelu_erf,
        };
        kernel(x, &mut out).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Which formula a model calls GELU. <https://arxiv.org/abs/1606.08415>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluForm {
    /// The approximation by tanh.
    Tanh,
    /// The exact one, by the error function.
    Erf,
}

/// GELU, any shape.
pub fn gelu(path: Path, x: &Tensor, form: GeluForm) -> Result<Tensor> {
    match (path, form) {
        (Path::Kernels, form) => x.contiguous()?.apply_op1_no_bwd(&Gelu(form)),
        (Path::Plain, GeluForm::Tanh) => x.gelu(),
        (Path::Plain, GeluForm::Erf) => x.gelu_erf(),
    }
}

/// GELU in its tanh form, any shape.
pub fn gelu_tanh(path: Path, x: &Tensor) -> Result<Tensor> {
    gelu(path, x, GeluForm::Tanh)
}
