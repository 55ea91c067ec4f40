//! Texts to vectors, by whoever can; this crate knows no model.

use crate::error::Result;

/// Which side of a search a text is on; some encoders mark the two differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// What is looked for.
    Query,
    /// What is found.
    Document,
}

/// Makes vectors of texts. Shared by all threads; callers may hand it large batches.
pub trait Embedder: Send + Sync {
    /// Its name, kept with everything it embedded (`all-minilm-l6-v2`).
    fn name(&self) -> &str;

    /// Length of its vectors.
    fn dim(&self) -> usize;

    /// One vector a text, each of [`Embedder::dim`] values and length 1 (inner product is the cosine).
    /// A text longer than the encoder reads is cut.
    ///
    /// # Errors
    /// [`crate::MemoryError::Embed`] if the model fails.
    fn embed(&self, texts: &[&str], side: Side) -> Result<Vec<Vec<f32>>>;
}
