//! GGUF, the single-file model format of ggml: reader and writer.
//!
//! A file is a header (metadata and a table of tensors) and a section of tensor data. The header is parsed and
//! checked in full when the file is opened, in O(header); tensor data is mapped and only touched when used. All
//! bytes are untrusted: each count is checked against the file's size and an absolute limit before anything is
//! allocated, and what breaks the format is refused with a [`GgufError`] that names it.
//!
//! Read are versions 2 and 3, little-endian, whole or split (`..-00001-of-00003.gguf`).
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use engram_kernels::quant::GgmlType;

use crate::error::ModelError;
use crate::mmap::FileBytes;

mod cursor;
mod error;
mod limits;
mod metadata;
mod parse;
mod split;
mod types;
mod writer;

pub use error::GgufError;
pub use metadata::{Array, Metadata, MetadataError, Value};
pub use writer::GgufWriter;

/// An open GGUF model.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    parts: Vec<Part>,
}

/// One file of the model.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    bytes: FileBytes,
}

/// What a file says of one of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Shape, outermost first: a matrix is `[out features, in features]`.
    pub shape: Vec<usize>,
    /// Length of the data in bytes.
    pub bytes: usize,
    part: usize,
    range: Range<usize>,
}

impl Gguf {
    /// Opens the model at `path`; of a split model any part may be named, the others stand beside it.
    ///
    /// Errors: [`ModelError::Io`], and [`ModelError::Gguf`] for what is wrong in the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let first = Self::from_part(path, FileBytes::map(path)?)?;
        match split::Split::of(&first.metadata).map_err(|source| gguf_error(path, source))? {
            None => Ok(first),
            Some(split) => split.gather(path, first),
        }
    }

    /// Reads a model from bytes in memory; of a split model only the part at hand.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(Path::new("(memory)"), FileBytes::owned(bytes))
    }

    fn from_part(path: &Path, bytes: FileBytes) -> Result<Self, ModelError> {
        Self::parse(path, bytes).map_err(|source| gguf_error(path, source))
    }

    fn parse(path: &Path, bytes: FileBytes) -> Result<Self, GgufError> {
        let header = parse::parse(&bytes)?;
        let tensors: Vec<TensorInfo> = header
            .tensors
            .into_iter()
            .map(|entry| TensorInfo {
                name: entry.name,
                ty: entry.ty,
                shape: entry.shape,
                bytes: entry.range.len(),
                part: 0,
                range: entry.range,
            })
            .collect();
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        let parts = vec![Part { path: path.to_owned(), bytes }];
        Ok(Self { version: header.version, metadata: header.metadata, tensors, by_name, parts })
    }

    /// Takes in the tensors of another part of the same split model.
    fn absorb(&mut self, other: Gguf) -> Result<(), GgufError> {
        let part = self.parts.len();
        self.parts.extend(other.parts);
        for tensor in other.tensors {
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                return Err(GgufError::DuplicateTensor { name: tensor.name });
            }
            self.tensors.push(TensorInfo { part, ..tensor });
        }
        Ok(())
    }

    /// The file's metadata; of a split model that of its first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The files of the model, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The bytes of a tensor, in ggml's block layout of its type; not aligned to more than the file is.
    pub fn tensor_data(&self, name: &str) -> Result<&[u8], ModelError> {
        let tensor = self.tensor(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })?;
        Ok(&self.parts[tensor.part].bytes[tensor.range.clone()])
    }
}

fn gguf_error(path: &Path, source: GgufError) -> ModelError {
    ModelError::Gguf { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
