//! What can go wrong between submit and the last token.

use std::sync::Arc;
use std::time::Duration;

use engram_models::ModelError;

/// Errors of the engine; each carries its numbers. Cheap to clone: one failed step may end many streams.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// A sampling parameter out of its range.
    #[error("`{name}` {reason}")]
    InvalidParameter {
        /// Parameter.
        name: &'static str,
        /// Its value and the allowed range.
        reason: String,
    },
    /// No prompt tokens.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// A token id past the vocabulary.
    #[error("prompt token {id} is not in the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Vocabulary size.
        vocab_size: usize,
    },
    /// Prompt and output do not fit the model's context.
    #[error("prompt has {prompt_len} tokens and max_tokens is {max_tokens}, the model holds {max_len}")]
    ContextExceeded {
        /// Tokens in the prompt.
        prompt_len: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// The limit.
        max_len: usize,
    },
    /// The request alone needs more KV blocks than there are.
    #[error("the request needs {needed} KV blocks, the cache has {total}: raise the KV budget or shorten it")]
    KvExhausted {
        /// Blocks needed.
        needed: usize,
        /// Blocks there are.
        total: usize,
    },
    /// The waiting queue is full.
    #[error("queue is full: {waiting} waiting, limit {limit}")]
    Overloaded {
        /// Requests waiting.
        waiting: usize,
        /// Bound of the queue.
        limit: usize,
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The deadline passed before the request ran.
    #[error("the deadline passed after {waited:?} in the queue")]
    DeadlineInQueue {
        /// Time waited.
        waited: Duration,
    },
    /// The forward pass failed.
    #[error("forward pass, step {step}: {source}")]
    Model {
        /// Number of the step.
        step: u64,
        /// The cause.
        #[source]
        source: Arc<ModelError>,
    },
    /// The forward pass panicked.
    #[error("forward pass, step {step}, panicked: {message}")]
    Panicked {
        /// Number of the step.
        step: u64,
        /// What it said.
        message: String,
    },
    /// A step gave NaN or infinite logits for this sequence.
    #[error("step {step} gave logits that are not finite")]
    NotFinite {
        /// Number of the step.
        step: u64,
    },
    /// No forward pass ended in time.
    #[error("no forward pass ended within {timeout:?}")]
    ProbeTimeout {
        /// Time waited.
        timeout: Duration,
    },
    /// The engine drains: no new requests.
    #[error("the engine is shutting down and takes no new requests")]
    ShuttingDown,
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// The engine could not be built.
    #[error("the engine cannot start: {0}")]
    Start(String),
}
