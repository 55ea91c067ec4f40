//! Weights of an encoder by the names their files give them, in the form of our CPU kernels.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use engram_kernels::PackedMatrix;
use engram_kernels::ops::{LinearWeight, Path};
use engram_kernels::quant::{self, GgmlType};
use half::f16;
use safetensors::Dtype;

use crate::error::ModelError;
use crate::layers::{Linear, Norm};
use crate::safetensors::{Shards, TensorView};

/// In which form the matrices are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// As the file has them: what the model is.
    Exact,
    /// The feed-forward matrices of a BERT in eight bits with a scale per 32 columns, and their inputs likewise, but for the last
    /// third of its layers; all else exact, and other families altogether.
    ///
    /// Of all-MiniLM-L6-v2, over 1,086 texts, single letters among them, the greatest cosine distance to the exact vector is 5.9e-4,
    /// the median 1.3e-4. Attention in eight bits too would make it 1.9e-3, the last layers' feed-forward parts 1.2e-3.
    #[default]
    Mixed,
}

/// An open checkpoint.
pub(super) struct Checkpoint {
    shards: Shards,
    prefix: &'static str,
}

impl Checkpoint {
    /// Opens the files; one of the tensors `probes` tells which of the `prefixes` all names have.
    pub fn open(files: &[PathBuf], probes: &[&str], prefixes: &[&'static str]) -> Result<Self, ModelError> {
        let shards = Shards::open_files(files)?;
        let has = |prefix: &&&str| probes.iter().any(|probe| shards.contains(&format!("{prefix}{probe}")));
        let prefix = prefixes.iter().find(has).copied();
        let prefix = prefix.ok_or_else(|| ModelError::MissingTensor { name: probes.join(" or ") })?;
        Ok(Self { shards, prefix })
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.shards.contains(&format!("{}{name}", self.prefix))
    }

    /// Shape of a tensor of two axes.
    pub fn shape2(&self, name: &str) -> Result<[usize; 2], ModelError> {
        let view = self.view(name)?;
        view.shape.try_into().map_err(|_| ModelError::WrongShape {
            name: name.to_owned(),
            expected: vec![0, 0],
            found: view.shape.to_vec(),
        })
    }

    /// A tensor in f32, row-major.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (ty, bytes) = self.bytes(name, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        quant::dequantize(ty, bytes, &mut values).map_err(|error| weight(name, candle_core::Error::wrap(error)))?;
        Ok(values)
    }

    /// LayerNorm `NAME.weight`, `NAME.bias`, over `len` features.
    pub fn norm(&self, name: &str, len: usize, eps: f32) -> Result<Norm, ModelError> {
        let vector = |part: &str| self.vector(&format!("{name}.{part}"), len);
        Ok(Norm::new(Path::Kernels, vector("weight")?, Some(vector("bias")?), eps)?)
    }

    /// A layer over one or more matrices `[rows, cols]` that share their input; a bias is taken where the first has one.
    /// `rounded` asks for eight bits, which matrices have whose columns are a multiple of 32.
    pub fn linear(&self, names: &[&str], rows: usize, cols: usize, rounded: bool) -> Result<Linear, ModelError> {
        let weights = names.iter().map(|name| self.matrix(&format!("{name}.weight"), rows, cols, rounded));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let bias_of = |name: &str| format!("{name}.bias");
        if !names.first().is_some_and(|first| self.has(&bias_of(first))) {
            return Ok(Linear::new(weights, None)?);
        }
        let biases = names.iter().map(|name| self.vector(&bias_of(name), rows)).collect::<Result<Vec<_>, _>>()?;
        Ok(Linear::new(weights, Some(Tensor::cat(&biases, 0)?))?)
    }

    /// A matrix `[rows, cols]`, or a table whose rows are looked up.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize, rounded: bool) -> Result<LinearWeight, ModelError> {
        let packed = if rounded && cols.is_multiple_of(Q8_BLOCK) {
            PackedMatrix::pack(GgmlType::Q8_0, rows, cols, &self.rounded(name, rows, cols)?)
        } else {
            let (ty, bytes) = self.bytes(name, &[rows, cols])?;
            PackedMatrix::pack(ty, rows, cols, bytes)
        };
        let packed = packed.map_err(|error| weight(name, candle_core::Error::wrap(error)))?;
        Ok(LinearWeight::Packed(Arc::new(packed)))
    }

    /// A matrix in Q8_0, rounded some rows at a time: all of it in f32 would be the most that loading holds.
    fn rounded(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<u8>, ModelError> {
        let (ty, bytes) = self.bytes(name, &[rows, cols])?;
        let mut out = Vec::with_capacity(rows * cols / Q8_BLOCK * (Q8_BLOCK + 2));
        let mut values = vec![0f32; ROUNDED_ROWS * cols];
        for bytes in bytes.chunks(bytes.len() / rows.max(1) * ROUNDED_ROWS) {
            let values = &mut values[..bytes.len() / (bytes_of(ty))];
            quant::dequantize(ty, bytes, values).map_err(|error| weight(name, candle_core::Error::wrap(error)))?;
            q8_0(values, &mut out);
        }
        Ok(out)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_vec(self.floats(name, &[len])?, len, &Device::Cpu)?)
    }

    fn view(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let name = format!("{}{name}", self.prefix);
        self.shards.tensor(&name).ok_or(ModelError::MissingTensor { name })
    }

    fn bytes(&self, name: &str, shape: &[usize]) -> Result<(GgmlType, &[u8]), ModelError> {
        let view = self.view(name)?;
        if view.shape != shape {
            let (expected, found) = (shape.to_vec(), view.shape.to_vec());
            return Err(ModelError::WrongShape { name: name.to_owned(), expected, found });
        }
        let ty = match view.dtype {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            other => {
                let (name, dtype) = (name.to_owned(), format!("{other:?}"));
                return Err(ModelError::UnsupportedDtype { name, dtype });
            }
        };
        Ok((ty, view.bytes))
    }
}

fn weight(name: &str, source: candle_core::Error) -> ModelError {
    ModelError::Weight { name: name.to_owned(), source: Box::new(source) }
}

/// Values of a block of ggml's Q8_0: a scale in f16, then as many codes.
const Q8_BLOCK: usize = 32;

/// Rows that are rounded at a time.
const ROUNDED_ROWS: usize = 256;

/// Bytes of an element of the types that weights come in here.
fn bytes_of(ty: GgmlType) -> usize {
    if ty == GgmlType::F32 { 4 } else { 2 }
}

/// Rounds to Q8_0; the length is a multiple of [`Q8_BLOCK`].
fn q8_0(values: &[f32], out: &mut Vec<u8>) {
    for block in values.chunks_exact(Q8_BLOCK) {
        let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let scale = f16::from_f32(largest / 127.0);
        out.extend(scale.to_le_bytes());
        // Codes are rounded by the scale that is kept, not by the one that was meant.
        let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        out.extend(block.iter().map(|value| (value * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_loses_half_a_step_at_most() {
        let values: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * [1.0, 1e-3, 0.0][i / 32]).collect();
        let (mut blocks, mut back) = (Vec::new(), vec![0f32; 96]);
        q8_0(&values, &mut blocks);
        quant::dequantize(GgmlType::Q8_0, &blocks, &mut back).expect("whole blocks");
        for (block, (values, back)) in values.chunks(32).zip(back.chunks(32)).enumerate() {
            let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            for (value, back) in values.iter().zip(back) {
                // Half a step, and the rounding of the scale itself (2^-11).
                assert!(
                    (value - back).abs() <= largest * (0.5 / 127.0 + 1.0 / 2048.0),
                    "block {block}: {value} {back}"
                );
            }
        }
    }
}
