//! What can go wrong between a model's files and its logits.

use std::path::PathBuf;

use crate::gguf::{GgufError, MetadataError};
use crate::safetensors::SafetensorsError;

/// A model that cannot be read, or a pass that failed. Each variant names the file, key or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused a file.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A GGUF file breaks its format, or uses a part of it that is not supported.
    #[error("{}: not a usable GGUF file", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: GgufError,
    },
    /// A safetensors file, or the index of a sharded one, breaks its format.
    #[error("{}: not a usable safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: SafetensorsError,
    },
    /// A GGUF metadata key is missing or has another type.
    #[error("model metadata")]
    Metadata(#[from] MetadataError),
    /// A value of the model's configuration is missing, impossible or not supported.
    #[error("model configuration: `{key}` {reason}")]
    Config {
        /// Metadata key (GGUF) or field of `config.json`.
        key: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// `config.json` is not JSON, or not an object.
    #[error("config.json is not a JSON object: {reason}")]
    ConfigJson {
        /// What the JSON parser met.
        reason: String,
    },
    /// The model is of a family that Engram does not run.
    #[error("architecture `{found}` is not supported, known: {known}")]
    UnknownArchitecture {
        /// As the file names it.
        found: String,
        /// The supported ones, comma-separated.
        known: String,
    },
    /// The architecture needs this tensor and no file has it.
    #[error("tensor `{name}` is missing from the model's files")]
    MissingTensor {
        /// GGUF name, followed for safetensors by the name looked for.
        name: String,
    },
    /// A tensor is there in another shape than the configuration implies.
    #[error("tensor `{name}` has shape {found:?}, the model's configuration asks for {expected:?}")]
    WrongShape {
        /// GGUF name.
        name: String,
        /// Shape that follows from the configuration, outermost first.
        expected: Vec<usize>,
        /// Shape in the file, outermost first.
        found: Vec<usize>,
    },
    /// A safetensors tensor holds elements that are no weights.
    #[error("tensor `{name}` has dtype {dtype}, weights are read from F32, F16 and BF16")]
    UnsupportedDtype {
        /// Name in the file.
        name: String,
        /// Dtype in the file.
        dtype: String,
    },
    /// An expert past the last.
    #[error("tensor `{name}` holds {experts} experts, number {expert} was asked for")]
    NoSuchExpert {
        /// GGUF name.
        name: String,
        /// Zero-based number asked for.
        expert: usize,
        /// Experts there are.
        experts: usize,
    },
    /// A weight was read but could not be brought into the form that the kernels use.
    #[error("tensor `{name}`")]
    Weight {
        /// GGUF name.
        name: String,
        /// What the tensor library or a kernel refused.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// A tensor operation failed: sizes that do not fit, or the device.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// A configuration error: `key` followed by `reason`.
    pub fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }
}
