//! A model's tensors by their GGUF names, whichever format the files have.
//!
//! The rest of the crate asks for `blk.0.attn_q.weight`; a GGUF file has it under that name, safetensors are
//! asked for `model.layers.0.self_attn.q_proj.weight` ([`HfWeights`]). Bytes come straight from the mapped
//! files, in ggml's block layout of the type that goes with them.

use engram_kernels::quant::{self, GgmlType};

use crate::error::ModelError;
use crate::gguf::{Gguf, TensorInfo};

mod hf;
mod hf_names;

pub use hf::HfWeights;

/// Element type and shape of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightInfo {
    /// Element type of the bytes.
    pub ty: GgmlType,
    /// Shape, outermost first: a matrix is `[out features, in features]`, a stack of experts
    /// `[experts, out features, in features]`.
    pub shape: Vec<usize>,
}

/// Named tensors of an open model.
pub trait Weights: Send + Sync {
    /// Type and shape of the tensor, `None` if the files do not have it.
    fn info(&self, name: &str) -> Option<WeightInfo>;

    /// The tensor's bytes; not aligned to more than the file is.
    ///
    /// Errors: [`ModelError::MissingTensor`]; [`ModelError::UnsupportedDtype`] for elements that are no weights.
    fn bytes(&self, name: &str) -> Result<&[u8], ModelError>;

    /// The bytes of one expert's matrix `[out features, in features]` out of a stack.
    ///
    /// Errors: as [`Weights::bytes`]; [`ModelError::NoSuchExpert`] past the last expert or where the tensor is
    /// no stack; [`ModelError::WrongShape`] where an expert is unlike the first.
    fn expert_bytes(&self, name: &str, expert: usize) -> Result<&[u8], ModelError>;

    /// The error for a tensor that is not there, with the name that the files would have for it.
    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingTensor { name: name.to_owned() }
    }

    /// Type and shape of a tensor that has to be there in the shape `expected`.
    ///
    /// Errors: [`ModelError::MissingTensor`], [`ModelError::WrongShape`].
    fn require(&self, name: &str, expected: &[usize]) -> Result<WeightInfo, ModelError> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        if info.shape != expected {
            let (expected, found) = (expected.to_vec(), info.shape);
            return Err(ModelError::WrongShape { name: name.to_owned(), expected, found });
        }
        Ok(info)
    }

    /// A short tensor (norm, bias, rope factors) of shape `[len]`, dequantised.
    ///
    /// Errors: as [`Weights::require`] and [`Weights::bytes`].
    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let info = self.require(name, &[len])?;
        let mut values = vec![0.0; len];
        quant::dequantize(info.ty, self.bytes(name)?, &mut values).map_err(|source| ModelError::Weight {
            name: name.to_owned(),
            source: Box::new(candle_core::Error::wrap(source)),
        })?;
        Ok(values)
    }
}

impl Weights for Gguf {
    fn info(&self, name: &str) -> Option<WeightInfo> {
        self.tensor(name).map(|TensorInfo { ty, shape, .. }| WeightInfo { ty: *ty, shape: shape.clone() })
    }

    fn bytes(&self, name: &str) -> Result<&[u8], ModelError> {
        self.tensor_data(name)
    }

    fn expert_bytes(&self, name: &str, expert: usize) -> Result<&[u8], ModelError> {
        let tensor = self.tensor(name).ok_or_else(|| self.missing(name))?;
        let experts = if tensor.shape.len() == 3 { tensor.shape[0] } else { 0 };
        if expert >= experts {
            return Err(ModelError::NoSuchExpert { name: name.to_owned(), expert, experts });
        }
        // The reader has checked that rows are whole blocks, so each expert has the same whole number of bytes.
        let len = tensor.bytes / experts;
        Ok(&self.tensor_data(name)?[expert * len..(expert + 1) * len])
    }
}

#[cfg(test)]
mod tests;
