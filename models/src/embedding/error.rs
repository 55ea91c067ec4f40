//! What can go wrong between a text and its vector.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::ModelError;
use crate::tokenizer::TokenizerError;

/// An encoder that cannot be loaded, or a text that cannot be encoded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EncoderError {
    /// Its files are not what an encoder's files are, or a pass failed.
    #[error("encoder")]
    Model(#[source] Arc<ModelError>),
    /// Its vocabulary cannot be read.
    #[error("{}: not a usable tokenizer", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<TokenizerError>,
    },
    /// The files lack one that an encoder needs.
    #[error("encoder `{name}` has no {file}: pull it again, or name a folder that has one")]
    MissingFile {
        /// The encoder.
        name: String,
        /// The file.
        file: &'static str,
    },
    /// A sequence that is longer than the encoder reads.
    #[error("sequence {index} has {tokens} tokens, `{name}` reads at most {limit}")]
    TooLong {
        /// The encoder.
        name: String,
        /// Which sequence, from 0.
        index: usize,
        /// Its tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// An id that is not in the vocabulary.
    #[error("sequence {index} holds token {id}, `{name}` has a vocabulary of {vocab}")]
    UnknownToken {
        /// The encoder.
        name: String,
        /// Which sequence, from 0.
        index: usize,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Vectors of a length that the model's cannot be cut to.
    #[error("`{name}` gives vectors of {dim} values, {asked} cannot be had: {cure}")]
    Dimensions {
        /// The encoder.
        name: String,
        /// Length asked for.
        asked: usize,
        /// Length it gives.
        dim: usize,
        /// What can be had.
        cure: String,
    },
    /// More waits than will be taken.
    #[error("the encoder's queue is full: {waiting} tokens wait, limit {limit}")]
    Overloaded {
        /// Tokens that wait.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
    /// A pass gave numbers that are none; a vector of them would be near to nothing and to everything.
    #[error("`{name}` gave values that are not finite for sequence {index}")]
    NotFinite {
        /// The encoder.
        name: String,
        /// Which sequence of the pass, from 0.
        index: usize,
    },
    /// A pass panicked.
    #[error("the encoder's pass panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The encoder has been shut down.
    #[error("the encoder has stopped")]
    Stopped,
}

impl From<ModelError> for EncoderError {
    fn from(error: ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}

impl From<candle_core::Error> for EncoderError {
    fn from(error: candle_core::Error) -> Self {
        Self::from(ModelError::Tensor(error))
    }
}
