//! The memory's embedder: the encoder that this server loads.

use engram_memory::{Embedder, MemoryError, Result, Side};
use engram_models::EncoderHandle;
use engram_models::embedding;

/// An [`EncoderHandle`] as the memory wants it. [`crate::backend::Encoders::wait`] gives the handle.
#[derive(Clone)]
pub struct EncoderEmbedder(EncoderHandle);

impl EncoderEmbedder {
    /// Over a loaded encoder, which other askers may share.
    pub fn new(handle: EncoderHandle) -> Self {
        Self(handle)
    }
}

impl Embedder for EncoderEmbedder {
    fn name(&self) -> &str {
        self.0.encoder().name()
    }

    fn dim(&self) -> usize {
        self.0.encoder().dim()
    }

    fn embed(&self, texts: &[&str], side: Side) -> Result<Vec<Vec<f32>>> {
        let side = match side {
            Side::Query => embedding::Side::Query,
            Side::Document => embedding::Side::Document,
        };
        self.0.embed(texts, side).map_err(|error| MemoryError::Embed { texts: texts.len(), source: Box::new(error) })
    }
}
