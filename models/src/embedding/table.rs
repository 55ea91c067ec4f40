//! Static embeddings: a vector a token, the mean of them for a text. No layers, so a text costs little more than its tokenising.

use super::checkpoint::Checkpoint;
use crate::error::ModelError;

/// A token table `[vocab, dim]`.
pub(super) struct StaticTable {
    values: Vec<f32>,
    vocab: usize,
    dim: usize,
}

impl StaticTable {
    /// What the table is called: by model2vec, and by WordLlama.
    pub const NAMES: [&'static str; 2] = ["embeddings", "embedding.weight"];

    pub fn load(file: &Checkpoint) -> Result<Self, ModelError> {
        for part in ["weights", "mapping"] {
            if file.has(part) {
                let reason = format!("the table has `{part}` beside it, a form that is not read: take a model without");
                return Err(ModelError::config("model2vec", reason));
            }
        }
        let [first, second] = Self::NAMES;
        let name = if file.has(first) { first } else { second };
        let [vocab, dim] = file.shape2(name)?;
        if vocab == 0 || dim == 0 {
            return Err(ModelError::config(name, format!("is [{vocab}, {dim}], nothing can be looked up")));
        }
        Ok(Self { values: file.floats(name, &[vocab, dim])?, vocab, dim })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The mean of the tokens' rows; zeros for no token.
    pub fn mean(&self, ids: &[u32]) -> Vec<f32> {
        let mut sum = vec![0f32; self.dim];
        for &id in ids {
            let row = &self.values[id as usize * self.dim..][..self.dim];
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        let count = ids.len().max(1) as f32;
        sum.iter_mut().for_each(|value| *value /= count);
        sum
    }
}
