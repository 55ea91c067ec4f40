//! From named bytes of a file to the weight form in which a pass uses them.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Tensor};
use engram_kernels::ops::{LinearWeight, Path};
use engram_kernels::quant::{self, GgmlType};
use engram_kernels::{GatedMatrix, PackedMatrix};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layers::{GateUp, Linear, Norm};
use crate::weights::Weights;

/// In which form weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightForm {
    /// Packed for our own CPU kernels, at the file's own bit width.
    Packed,
    /// Dequantised to f32: the exact model, slow and large; what all else is measured against.
    Dense,
    /// Candle's quantised tensors, for devices where we have no kernel yet.
    Candle,
}

impl WeightForm {
    /// The implementation of the other ops that goes with this form.
    pub fn path(self) -> Path {
        match self {
            WeightForm::Packed => Path::Kernels,
            WeightForm::Dense | WeightForm::Candle => Path::Plain,
        }
    }
}

/// Reads weights by name, checks their shapes, and brings them to the device.
pub struct Loader<'a> {
    weights: &'a dyn Weights,
    /// The model's dimensions.
    pub config: &'a ModelConfig,
    /// Where tensors go.
    pub device: Device,
    /// Form of the matrices.
    pub form: WeightForm,
}

impl<'a> Loader<'a> {
    /// A loader over an open file.
    pub fn new(weights: &'a dyn Weights, config: &'a ModelConfig, device: &Device, form: WeightForm) -> Self {
        Self { weights, config, device: device.clone(), form }
    }

    /// Whether the file has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.weights.info(name).is_some()
    }

    /// A matrix `[rows, cols]` (out features, in features).
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<LinearWeight, ModelError> {
        let info = self.weights.require(name, &[rows, cols])?;
        self.matrix_from(name, info.ty, rows, cols, self.weights.bytes(name)?)
    }

    /// The matrix `[rows, cols]` of one expert out of a stack `[experts, rows, cols]`.
    pub fn expert_matrix(
        &self,
        name: &str,
        expert: usize,
        rows: usize,
        cols: usize,
    ) -> Result<LinearWeight, ModelError> {
        let experts = self.config.moe.as_ref().map_or(0, |moe| moe.experts);
        let info = self.weights.require(name, &[experts, rows, cols])?;
        self.matrix_from(name, info.ty, rows, cols, self.weights.expert_bytes(name, expert)?)
    }

    /// Gate and up `[ffn, hidden]` of a SwiGLU, by the names of their layers: packed as one where they are for our kernels, have one
    /// type and no bias.
    pub fn gate_up(&self, names: [&str; 2], ffn: usize, hidden: usize) -> Result<GateUp, ModelError> {
        let weights = names.map(|name| format!("{name}.weight"));
        let types = [
            self.weights.require(&weights[0], &[ffn, hidden])?.ty,
            self.weights.require(&weights[1], &[ffn, hidden])?.ty,
        ];
        let has_bias = names.iter().any(|name| self.has(&format!("{name}.bias")));
        if self.form == WeightForm::Packed && types[0] == types[1] && !has_bias {
            let bytes = [self.weights.bytes(&weights[0])?, self.weights.bytes(&weights[1])?];
            return paired(&weights[0], types[0], ffn, hidden, bytes);
        }
        let parts = names.map(|name| (name.to_owned(), ffn));
        Ok(GateUp::Apart(self.linear(&parts, hidden)?, self.form.path()))
    }

    /// The same of one expert out of stacks `[experts, ffn, hidden]`, by the names of the tensors.
    pub fn expert_gate_up(
        &self,
        names: [&str; 2],
        expert: usize,
        ffn: usize,
        hidden: usize,
    ) -> Result<GateUp, ModelError> {
        let experts = self.config.moe.as_ref().map_or(0, |moe| moe.experts);
        let shape = [experts, ffn, hidden];
        let types = [self.weights.require(names[0], &shape)?.ty, self.weights.require(names[1], &shape)?.ty];
        if self.form == WeightForm::Packed && types[0] == types[1] {
            let bytes = [self.weights.expert_bytes(names[0], expert)?, self.weights.expert_bytes(names[1], expert)?];
            return paired(names[0], types[0], ffn, hidden, bytes);
        }
        let both = names.iter().map(|name| self.expert_matrix(name, expert, ffn, hidden)).collect::<Result<_, _>>()?;
        Ok(GateUp::Apart(Linear::new(both, None)?, self.form.path()))
    }

    fn matrix_from(
        &self,
        name: &str,
        ty: GgmlType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<LinearWeight, ModelError> {
        let named = |source| ModelError::Weight { name: name.to_owned(), source: Box::new(source) };
        match self.form {
            WeightForm::Packed => {
                let packed =
                    PackedMatrix::pack(ty, rows, cols, bytes).map_err(|e| named(candle_core::Error::wrap(e)))?;
                Ok(LinearWeight::Packed(Arc::new(packed)))
            }
            WeightForm::Dense => Ok(LinearWeight::Dense(self.dense(name, ty, &[rows, cols], bytes)?)),
            WeightForm::Candle => match candle_type(ty) {
                Some(dtype) => {
                    let storage = QStorage::from_data(Cow::Borrowed(bytes), &self.device, dtype).map_err(named)?;
                    let tensor = QTensor::new(storage, (rows, cols)).map_err(named)?;
                    Ok(LinearWeight::Quantized(QMatMul::from_qtensor(tensor).map_err(named)?))
                }
                None => {
                    let dense = self.dense(name, ty, &[rows, cols], bytes)?;
                    let half = dense.to_dtype(candle_core::DType::F16).map_err(named)?;
                    Ok(LinearWeight::Quantized(QMatMul::TensorF16(half)))
                }
            },
        }
    }

    fn dense(&self, name: &str, ty: GgmlType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, ModelError> {
        let named = |source| ModelError::Weight { name: name.to_owned(), source: Box::new(source) };
        let mut values = vec![0f32; shape.iter().product()];
        quant::dequantize(ty, bytes, &mut values).map_err(|e| named(candle_core::Error::wrap(e)))?;
        Tensor::from_vec(values, shape, &self.device).map_err(named)
    }

    /// A token table `[vocab, hidden]`; rows are looked up, so it is never a candle quantised matrix.
    pub fn table(&self, name: &str, rows: usize, cols: usize) -> Result<LinearWeight, ModelError> {
        if self.form == WeightForm::Candle {
            let info = self.weights.require(name, &[rows, cols])?;
            return Ok(LinearWeight::Dense(self.dense(name, info.ty, &[rows, cols], self.weights.bytes(name)?)?));
        }
        self.matrix(name, rows, cols)
    }

    /// A vector `[len]` in f32.
    pub fn vector(&self, name: &str, len: usize) -> Result<Tensor, ModelError> {
        let info = self.weights.require(name, &[len])?;
        self.dense(name, info.ty, &[len], self.weights.bytes(name)?)
    }

    /// A vector that not every file has.
    pub fn vector_if_present(&self, name: &str, len: usize) -> Result<Option<Tensor>, ModelError> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    /// A linear layer over one or more matrices that share their input: `(name, out features)` each.
    ///
    /// The outputs stand side by side. Biases (`NAME.bias`) are taken where the file has them; where only
    /// some of the parts have one, the others get zeros.
    pub fn linear(&self, parts: &[(String, usize)], cols: usize) -> Result<Linear, ModelError> {
        let mut weights = Vec::with_capacity(parts.len());
        let mut biases = Vec::with_capacity(parts.len());
        for (name, rows) in parts {
            weights.push(self.matrix(&format!("{name}.weight"), *rows, cols)?);
            biases.push(self.vector_if_present(&format!("{name}.bias"), *rows)?);
        }
        if biases.iter().all(Option::is_none) {
            return Ok(Linear::new(weights, None)?);
        }
        let filled = biases
            .into_iter()
            .zip(parts)
            .map(|(bias, (_, rows))| match bias {
                Some(bias) => Ok(bias),
                None => Tensor::zeros(*rows, candle_core::DType::F32, &self.device),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Linear::new(weights, Some(Tensor::cat(&filled, 0)?))?)
    }

    /// A norm over `len` features: with a bias in the file it is LayerNorm, else RMSNorm.
    pub fn norm(&self, name: &str, len: usize) -> Result<Norm, ModelError> {
        let weight = self.vector(&format!("{name}.weight"), len)?;
        let bias = self.vector_if_present(&format!("{name}.bias"), len)?;
        Ok(Norm::new(self.form.path(), weight, bias, self.config.norm_eps)?)
    }
}

fn paired(name: &str, ty: GgmlType, ffn: usize, hidden: usize, bytes: [&[u8]; 2]) -> Result<GateUp, ModelError> {
    let packed = GatedMatrix::pack(ty, ffn, hidden, bytes[0], bytes[1])
        .map_err(|e| ModelError::Weight { name: name.to_owned(), source: Box::new(candle_core::Error::wrap(e)) })?;
    Ok(GateUp::Paired(packed))
}

fn candle_type(ty: GgmlType) -> Option<GgmlDType> {
    Some(match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => return None,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
    })
}
