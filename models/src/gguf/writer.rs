//! Writes GGUF files: for tests, benches and requantising.

use std::io::Write;
use std::path::Path;

use engram_kernels::quant::GgmlType;

use super::{Array, Value};
use crate::error::ModelError;

/// Alignment of tensor data; the format's default.
const ALIGNMENT: usize = 32;

/// Collects metadata and tensors and writes them as a GGUF version 3 file.
///
/// Metadata and tensors are written in the order in which they were added. What is added is not checked: a
/// duplicate name makes a file that the reader refuses.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<WriterTensor>,
}

#[derive(Debug)]
struct WriterTensor {
    name: String,
    ty: GgmlType,
    /// Outermost first.
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata key.
    pub fn metadata(&mut self, key: impl Into<String>, value: Value) -> &mut Self {
        self.metadata.push((key.into(), value));
        self
    }

    /// Adds a tensor: `shape` outermost first, `data` in ggml's block layout of `ty`.
    ///
    /// Errors: [`ModelError::WrongShape`] if `data` is not as long as the shape says (shapes in bytes).
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        ty: GgmlType,
        shape: &[usize],
        data: Vec<u8>,
    ) -> Result<&mut Self, ModelError> {
        let name = name.into();
        let rows: usize = shape.iter().rev().skip(1).product();
        let expected = shape.last().and_then(|&cols| ty.row_bytes(cols)).map_or(0, |bytes| bytes * rows);
        if expected != data.len() || expected == 0 {
            return Err(ModelError::WrongShape { name, expected: vec![expected], found: vec![data.len()] });
        }
        self.tensors.push(WriterTensor { name, ty, shape: shape.to_vec(), data });
        Ok(self)
    }

    /// Adds a tensor of f32 values.
    pub fn tensor_f32(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        values: &[f32],
    ) -> Result<&mut Self, ModelError> {
        self.tensor(name, GgmlType::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _ = self.write_to(&mut bytes);
        bytes
    }

    /// Writes the file at `path`, which is replaced if it is there.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        let path = path.as_ref();
        let write = || {
            let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
            self.write_to(&mut file)?;
            file.flush()
        };
        write().map_err(|source| ModelError::Io { path: path.to_owned(), source })
    }

    fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        let header = self.header();
        out.write_all(&header)?;
        pad(out, header.len())?;
        for tensor in &self.tensors {
            out.write_all(&tensor.data)?;
            pad(out, tensor.data.len())?;
        }
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_str(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_str(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                out.extend((dim as u64).to_le_bytes());
            }
            out.extend(tensor.ty.ggml_id().to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(ALIGNMENT);
        }
        out
    }
}

fn pad(out: &mut impl Write, written: usize) -> std::io::Result<()> {
    let zeros = [0; ALIGNMENT];
    out.write_all(&zeros[..written.next_multiple_of(ALIGNMENT) - written])
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value's type number and bytes.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |ty: u32, bytes: &[u8]| {
        out.extend(ty.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
        Value::String(text) => {
            put(8, &[]);
            put_str(out, text);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
    }
}

/// An array's element type number, length and elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    let mut put = |ty: u32, bytes: Vec<u8>| {
        out.extend(ty.to_le_bytes());
        out.extend((array.len() as u64).to_le_bytes());
        out.extend(bytes);
    };
    match array {
        Array::U8(v) => put(0, v.clone()),
        Array::I8(v) => put(1, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::U16(v) => put(2, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::I16(v) => put(3, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::U32(v) => put(4, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::I32(v) => put(5, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::F32(v) => put(6, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::Bool(v) => put(7, v.iter().map(|&v| u8::from(v)).collect()),
        Array::U64(v) => put(10, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::I64(v) => put(11, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::F64(v) => put(12, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Array::String(v) => {
            put(8, Vec::new());
            v.iter().for_each(|text| put_str(out, text));
        }
    }
}
