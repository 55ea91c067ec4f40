//! A generation request: checked once, valid from then on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::error::EngineError;

/// How the next token is chosen from the logits.
///
/// The order of application is: logit bias, penalties, temperature, top-k, top-p, min-p, draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise logits are divided by it. At most 100.
    pub temperature: f32,
    /// Keep the k most likely tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens whose probability reaches this (nucleus sampling), in (0, 1].
    pub top_p: f32,
    /// Drop tokens less likely than this fraction of the most likely one, in [0, 1].
    pub min_p: f32,
    /// Divides (positive) or multiplies (negative) logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from tokens that occurred in the output, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, each in [-100, 100].
    pub logit_bias: HashMap<u32, f32>,
    /// The draw at output position i depends on (seed, i) only, so the same seed gives the same text
    /// whatever else is in the batch. `None`: a fresh one.
    pub seed: Option<u64>,
    /// End-of-generation ids are not sampled before this many tokens.
    pub min_tokens: usize,
    /// Generate through the model's end-of-generation ids.
    pub ignore_eos: bool,
    /// Report the chosen token's log-probability and this many alternatives (at most 20).
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: HashMap::new(),
            seed: None,
            min_tokens: 0,
            ignore_eos: false,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Greedy decoding.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every range; the error names the parameter, its value and the range.
    pub fn validate(&self, vocab_size: usize) -> Result<(), EngineError> {
        let range = |name: &'static str, value: f32, low: f32, high: f32| {
            if value.is_finite() && (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(EngineError::InvalidParameter {
                    name,
                    reason: format!("is {value}, must be between {low} and {high}"),
                })
            }
        };
        range("temperature", self.temperature, 0.0, 100.0)?;
        range("top_p", self.top_p, 1e-6, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        for (&id, &bias) in &self.logit_bias {
            range("logit_bias", bias, -100.0, 100.0)?;
            if id as usize >= vocab_size {
                return Err(EngineError::InvalidParameter {
                    name: "logit_bias",
                    reason: format!("names token {id}, the vocabulary has {vocab_size}"),
                });
            }
        }
        if self.top_k == Some(0) {
            return Err(EngineError::InvalidParameter {
                name: "top_k",
                reason: "is 0, must be at least 1 (leave it out, or -1 over HTTP, to keep all)".into(),
            });
        }
        if self.logprobs.is_some_and(|n| n > 20) {
            return Err(EngineError::InvalidParameter {
                name: "top_logprobs",
                reason: format!("is {}, must be at most 20", self.logprobs.unwrap_or(0)),
            });
        }
        Ok(())
    }
}

/// What a caller asks of the engine. Token ids only: past this line nothing is JSON.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// Prompt token ids, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate; with the prompt it may not pass the model's context. 0 only with `prompt_logprobs`.
    pub max_tokens: usize,
    /// Ids that end generation (the model's end-of-generation ids unless `ignore_eos`, and the caller's).
    /// The stop id itself is not delivered.
    pub stop_ids: Vec<u32>,
    /// Report log-probabilities of the prompt tokens too, with this many alternatives.
    pub prompt_logprobs: Option<usize>,
    /// Larger runs first; equal: in order of arrival.
    pub priority: i32,
    /// When this passes while the request waits, it is dropped; while it runs, it ends with
    /// [`FinishReason::Deadline`].
    pub deadline: Option<Instant>,
    /// Salt of the prefix cache: sequences of different tenants never share blocks.
    pub tenant: u64,
}

impl GenerateRequest {
    /// A request with everything else at its default.
    pub fn new(prompt: Vec<u32>, sampling: SamplingParams, max_tokens: usize) -> Self {
        Self {
            prompt,
            sampling,
            max_tokens,
            stop_ids: Vec::new(),
            prompt_logprobs: None,
            priority: 0,
            deadline: None,
            tenant: 0,
        }
    }
}

/// Log-probabilities of one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural log of the probability of the token that stands there.
    pub logprob: f32,
    /// The most likely tokens and theirs, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id was sampled.
    Stop,
    /// `max_tokens`, or the model's context, was reached.
    Length,
    /// The deadline passed while it ran.
    Deadline,
}

/// Token counts of a finished request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, how many came from the prefix cache (at the first admission).
    pub cached_tokens: usize,
    /// Tokens generated, a stop id not counted.
    pub completion_tokens: usize,
}

/// Times of a finished request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// From submit to first admission.
    pub queued: Duration,
    /// From submit to the first token.
    pub first_token: Option<Duration>,
    /// From submit to the end.
    pub total: Duration,
}

/// What comes back on a [`crate::TokenStream`], in this order: perhaps `Prompt`, any number of
/// `Token`, then exactly one of `Finished` or `Failed`. A stream that ends without either means
/// that the engine is gone: an error, never a clean finish.
#[derive(Debug, Clone)]
pub enum TokenEvent {
    /// Log-probabilities of the prompt; entry 0 is `None`, for nothing precedes it.
    Prompt(Vec<Option<Logprobs>>),
    /// One generated token.
    Token {
        /// Its id.
        id: u32,
        /// Present if asked for.
        logprobs: Option<Logprobs>,
    },
    /// The sequence ended as it should.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Token counts.
        usage: Usage,
        /// Times.
        timing: Timing,
    },
    /// The sequence could not go on.
    Failed(EngineError),
}
