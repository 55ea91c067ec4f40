//! A Hugging Face checkpoint seen under GGUF names.

use engram_kernels::quant::GgmlType;

use super::{WeightInfo, Weights, hf_names};
use crate::config::{Architecture, ModelConfig};
use crate::error::ModelError;
use crate::safetensors::{Dtype, Shards, TensorView};

/// Safetensors shards, asked by GGUF names.
#[derive(Debug)]
pub struct HfWeights {
    shards: Shards,
    architecture: Architecture,
    prefix: &'static str,
    /// Experts a layer; 0 for dense models.
    experts: usize,
    /// Whether the head is the token table: a head that the files have nevertheless is not shown.
    tied: bool,
}

impl HfWeights {
    /// The view that goes with the checkpoint's configuration.
    pub fn new(shards: Shards, config: &ModelConfig) -> Self {
        let prefix = if shards.contains("embed_tokens.weight") { "" } else { "model." };
        let experts = config.moe.as_ref().map_or(0, |moe| moe.experts);
        Self { shards, architecture: config.architecture, prefix, experts, tied: config.tie_embeddings }
    }

    /// The files underneath.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// The name that the files have for a tensor; for a stack of experts that of its first.
    fn file_name(&self, name: &str) -> Option<String> {
        if self.tied && name.starts_with("output.") {
            return None;
        }
        hf_names::name(self.architecture, self.prefix, name).or_else(|| self.expert_name(name, 0))
    }

    fn expert_name(&self, name: &str, expert: usize) -> Option<String> {
        (expert < self.experts).then(|| hf_names::expert_name(self.prefix, name, expert))?
    }

    fn is_stack(&self, name: &str) -> bool {
        self.expert_name(name, 0).is_some()
    }
}

impl Weights for HfWeights {
    fn info(&self, name: &str) -> Option<WeightInfo> {
        let tensor = self.shards.tensor(&self.file_name(name)?)?;
        let mut shape = tensor.shape.to_vec();
        if self.is_stack(name) {
            shape.insert(0, self.experts);
        }
        Some(WeightInfo { ty: weight_type(tensor.dtype)?, shape })
    }

    fn bytes(&self, name: &str) -> Result<&[u8], ModelError> {
        if self.is_stack(name) {
            let reason = "is one tensor an expert in this checkpoint, it has no bytes as a whole";
            return Err(ModelError::config(name, reason));
        }
        let file_name = self.file_name(name).ok_or_else(|| self.missing(name))?;
        let tensor = self.shards.tensor(&file_name).ok_or_else(|| self.missing(name))?;
        checked(&file_name, tensor)
    }

    fn expert_bytes(&self, name: &str, expert: usize) -> Result<&[u8], ModelError> {
        let experts = if self.is_stack(name) { self.experts } else { 0 };
        let no_such = || ModelError::NoSuchExpert { name: name.to_owned(), expert, experts };
        let first_name = self.expert_name(name, 0).ok_or_else(no_such)?;
        let file_name = self.expert_name(name, expert).ok_or_else(no_such)?;
        let find = |file_name: &str| {
            let missing = || ModelError::MissingTensor { name: file_name.to_owned() };
            self.shards.tensor(file_name).ok_or_else(missing)
        };
        let (first, tensor) = (find(&first_name)?, find(&file_name)?);
        if tensor.shape != first.shape {
            let (expected, found) = (first.shape.to_vec(), tensor.shape.to_vec());
            return Err(ModelError::WrongShape { name: file_name, expected, found });
        }
        if tensor.dtype != first.dtype {
            let dtype = format!("{:?} (unlike the first expert)", tensor.dtype);
            return Err(ModelError::UnsupportedDtype { name: file_name, dtype });
        }
        checked(&file_name, tensor)
    }

    fn missing(&self, name: &str) -> ModelError {
        if let Some(tensor) = self.file_name(name).and_then(|file_name| self.shards.tensor(&file_name)) {
            return ModelError::UnsupportedDtype { name: name.to_owned(), dtype: format!("{:?}", tensor.dtype) };
        }
        let name = match self.file_name(name) {
            Some(file_name) => format!("{name} ({file_name})"),
            None => name.to_owned(),
        };
        ModelError::MissingTensor { name }
    }
}

/// The bytes of a tensor whose elements are weights.
fn checked<'a>(file_name: &str, tensor: TensorView<'a>) -> Result<&'a [u8], ModelError> {
    match weight_type(tensor.dtype) {
        Some(_) => Ok(tensor.bytes),
        None => {
            let (name, dtype) = (file_name.to_owned(), format!("{:?}", tensor.dtype));
            Err(ModelError::UnsupportedDtype { name, dtype })
        }
    }
}

/// The element types that weights come in.
fn weight_type(dtype: Dtype) -> Option<GgmlType> {
    match dtype {
        Dtype::F32 => Some(GgmlType::F32),
        Dtype::F16 => Some(GgmlType::F16),
        Dtype::BF16 => Some(GgmlType::BF16),
        _ => None,
    }
}
