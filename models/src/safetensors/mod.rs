//! Safetensors, the tensor files of the Hugging Face hub: one file, or shards with an index.
//!
//! A file is a JSON header (name, dtype, shape, byte range of each tensor) and a block of data. Headers are read
//! and checked when the files are opened; data is mapped and only touched when used. All bytes are untrusted:
//! the header's length is capped, and tensors that overlap, leave holes or do not match their shape are refused
//! with a [`SafetensorsError`] that names them.
//!
//! Specification: <https://github.com/huggingface/safetensors#format>

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use safetensors::Dtype;

use crate::error::ModelError;
use crate::mmap::FileBytes;

mod error;
mod header;
mod index;

pub use error::SafetensorsError;

/// One or more open safetensors files, seen as one set of tensors.
#[derive(Debug)]
pub struct Shards {
    files: Vec<Shard>,
    tensors: HashMap<String, Entry>,
}

/// One file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: FileBytes,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A tensor in a file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost first: a matrix is `[out features, in features]`.
    pub shape: &'a [usize],
    /// Row-major little-endian elements; not aligned.
    pub bytes: &'a [u8],
}

impl Shards {
    /// Opens a model directory, an index (`model.safetensors.index.json`) or a single file.
    ///
    /// In a directory the index decides which files belong to the model; without one it is
    /// `model.safetensors`, else every `*.safetensors`.
    /// Errors: [`ModelError::Io`], and [`ModelError::Safetensors`] for what is wrong in a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::open_directory(path);
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_index(path);
        }
        Self::open_files(&[path])
    }

    /// Opens exactly these files as one model; an index among them is checked against the others.
    pub fn open_files<P: AsRef<Path>>(paths: &[P]) -> Result<Self, ModelError> {
        let is_index = |path: &&Path| path.extension().is_some_and(|extension| extension == "json");
        let (indexes, files): (Vec<&Path>, Vec<&Path>) = paths.iter().map(AsRef::as_ref).partition(is_index);
        if let Some(missing) = index::missing_by_number(&files) {
            return Err(error(files[0], SafetensorsError::MissingShards { shards: missing }));
        }
        let mut shards = Self { files: Vec::new(), tensors: HashMap::new() };
        for path in files {
            shards.add_file(path, FileBytes::map(path)?).map_err(|source| match source {
                AddError::Format(source) => error(path, source),
                AddError::Twice { name, other } => {
                    let other = shards.files[other].path.display().to_string();
                    error(path, SafetensorsError::TwoShards { name, other })
                }
            })?;
        }
        for path in indexes {
            shards.check_index(path, &index::read(path)?)?;
        }
        Ok(shards)
    }

    /// Reads one file's bytes from memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SafetensorsError> {
        let mut shards = Self { files: Vec::new(), tensors: HashMap::new() };
        match shards.add_file(Path::new("(memory)"), FileBytes::owned(bytes)) {
            Ok(()) => Ok(shards),
            Err(AddError::Format(error)) => Err(error),
            Err(AddError::Twice { name, .. }) => Err(SafetensorsError::DuplicateTensor { name }),
        }
    }

    fn open_directory(directory: &Path) -> Result<Self, ModelError> {
        let index = directory.join("model.safetensors.index.json");
        if index.is_file() {
            return Self::open_index(&index);
        }
        let single = directory.join("model.safetensors");
        if single.is_file() {
            return Self::open_files(&[single]);
        }
        let io = |source| ModelError::Io { path: directory.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(error(directory, SafetensorsError::NoFiles));
        }
        files.sort();
        Self::open_files(&files)
    }

    fn open_index(path: &Path) -> Result<Self, ModelError> {
        let index = index::read(path)?;
        let shards = Self::open_files(&index.shard_paths(path)?)?;
        shards.check_index(path, &index)?;
        Ok(shards)
    }

    /// Every tensor of the index has to be there, in the shard that the index names.
    fn check_index(&self, path: &Path, index: &index::Index) -> Result<(), ModelError> {
        for (name, file) in index.weight_map() {
            let found = self.tensors.get(name).is_some_and(|entry| self.files[entry.shard].path.ends_with(file));
            if !found {
                let (name, file) = (name.to_owned(), file.to_owned());
                return Err(error(path, SafetensorsError::NotInShard { name, file }));
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, bytes: FileBytes) -> Result<(), AddError> {
        let shard = self.files.len();
        for tensor in header::parse(&bytes).map_err(AddError::Format)? {
            let entry = Entry { shard, dtype: tensor.dtype, shape: tensor.shape, range: tensor.range };
            if let Some(other) = self.tensors.get(&tensor.name) {
                return Err(AddError::Twice { name: tensor.name, other: other.shard });
            }
            self.tensors.insert(tensor.name, entry);
        }
        self.files.push(Shard { path: path.to_owned(), bytes });
        Ok(())
    }

    /// The tensor of this name, as the file spells it.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let entry = self.tensors.get(name)?;
        let bytes = &self.files[entry.shard].bytes[entry.range.clone()];
        Some(TensorView { dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The files, in the order in which they were opened.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }
}

/// Why a file could not be taken in.
enum AddError {
    Format(SafetensorsError),
    /// Another shard has the tensor already.
    Twice {
        name: String,
        other: usize,
    },
}

fn error(path: &Path, source: SafetensorsError) -> ModelError {
    ModelError::Safetensors { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
