//! What the engine may use and how it divides it; fixed once it runs.

use std::time::Duration;

use engram_kernels::ops::KvType;

use crate::error::EngineError;

/// Bounds and sizes of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Most tokens in one step, decodes and prefill chunks together: bounds the memory of a step, and the
    /// time that a newcomer waits for the running one to end.
    pub max_batch_tokens: usize,
    /// Longest gap that prefill puts between two tokens of a running stream, as far as step times can be
    /// foretold; `None`: prefill takes what `max_batch_tokens` leaves.
    pub max_itl: Option<Duration>,
    /// Most tokens of one prompt in one step.
    pub max_prefill_chunk: usize,
    /// Tokens a KV block holds.
    pub block_size: usize,
    /// Memory for the KV cache, in bytes.
    pub kv_bytes: usize,
    /// Number format of the KV cache.
    pub kv_dtype: KvType,
    /// Most requests that wait; the next one is refused.
    pub queue_limit: usize,
    /// Longest sequence, prompt and output together; `None`: what the model was made for.
    pub max_model_len: Option<usize>,
    /// Keep the KV of finished sequences for prompts that begin alike.
    pub prefix_cache: bool,
    /// A waiting request gains one level of priority each time this passes, so none starves.
    pub priority_aging: Duration,
    /// How old the last good forward pass may be before health asks for a new one.
    pub health_interval: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 64,
            max_batch_tokens: 512,
            max_itl: Some(Duration::from_millis(200)),
            max_prefill_chunk: 512,
            block_size: 16,
            kv_bytes: 1 << 30,
            kv_dtype: KvType::F16,
            queue_limit: 256,
            max_model_len: None,
            prefix_cache: true,
            priority_aging: Duration::from_secs(10),
            health_interval: Duration::from_secs(30),
        }
    }
}

impl EngineConfig {
    /// Checks that the numbers fit each other; the error names the setting and the cure.
    pub fn validate(&self) -> Result<(), EngineError> {
        let at_least_one = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_prefill_chunk", self.max_prefill_chunk),
            ("block_size", self.block_size),
            ("queue_limit", self.queue_limit),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(EngineError::Start(format!("`{name}` is 0, must be at least 1")));
            }
        }
        if self.max_batch_tokens < self.max_num_seqs {
            return Err(EngineError::Start(format!(
                "`max_batch_tokens` is {}, must be at least `max_num_seqs` ({}): each running sequence takes a token of a step",
                self.max_batch_tokens, self.max_num_seqs
            )));
        }
        if self.max_itl.is_some_and(|bound| bound.is_zero()) {
            return Err(EngineError::Start("`max_itl` is 0, must be longer, or none for no bound".into()));
        }
        if self.max_model_len.is_some_and(|len| len < 2) {
            return Err(EngineError::Start(
                "`max_model_len` must be at least 2: a prompt token and one to follow".into(),
            ));
        }
        if self.priority_aging.is_zero() {
            return Err(EngineError::Start("`priority_aging` is 0, must be longer (10 s is the default)".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let check = |config: EngineConfig, expected: &str| {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        EngineConfig::default().validate().unwrap();
        check(EngineConfig { block_size: 0, ..Default::default() }, "`block_size` is 0");
        check(EngineConfig { max_batch_tokens: 8, ..Default::default() }, "at least `max_num_seqs` (64)");
        check(EngineConfig { max_itl: Some(Duration::ZERO), ..Default::default() }, "`max_itl` is 0");
        check(EngineConfig { max_model_len: Some(1), ..Default::default() }, "`max_model_len`");
        check(EngineConfig { priority_aging: Duration::ZERO, ..Default::default() }, "`priority_aging`");
    }
}
