//! Limits and consistency of a configuration, whichever file it is from.

use super::ModelConfig;
use crate::error::ModelError;

/// Largest accepted values: several times those of the largest published models.
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 11;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_FFN: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 22;
const MAX_CONTEXT: usize = 1 << 26;
const MAX_EXPERTS: usize = 1 << 12;

impl ModelConfig {
    /// Refuses values that cannot be right, named as in this struct.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let counts = [
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("hidden", self.hidden, MAX_HIDDEN),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_HEADS),
            ("kv_heads", self.kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("ffn", self.ffn, MAX_FFN),
            ("context_len", self.context_len, MAX_CONTEXT),
            ("rope.dim", self.rope.dim, self.head_dim),
            ("sliding_window", self.sliding_window.unwrap_or(1), MAX_CONTEXT),
        ];
        for (key, value, max) in counts {
            check_count(key, value, max)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!("is {}, which does not divide the {} query heads", self.kv_heads, self.heads);
            return Err(ModelError::config("kv_heads", reason));
        }
        if !self.rope.dim.is_multiple_of(2) {
            return Err(ModelError::config("rope.dim", format!("is {}, it has to be even", self.rope.dim)));
        }
        if let Some(moe) = &self.moe {
            check_count("moe.experts", moe.experts, MAX_EXPERTS)?;
            check_count("moe.experts_per_token", moe.experts_per_token, moe.experts)?;
            check_count("moe.expert_ffn", moe.expert_ffn, MAX_FFN)?;
        }
        self.check_numbers()
    }

    fn check_numbers(&self) -> Result<(), ModelError> {
        let numbers = [
            ("norm_eps", Some(self.norm_eps)),
            ("rope.theta", Some(self.rope.theta)),
            ("embedding_scale", self.embedding_scale),
            ("residual_scale", self.residual_scale),
            ("attention_scale", self.attention_scale),
            ("logit_scale", self.logit_scale),
        ];
        for (key, value) in numbers {
            if let Some(value) = value {
                check_positive(key, value)?;
            }
        }
        self.rope.scaling.check()
    }
}

fn check_count(key: &str, value: usize, max: usize) -> Result<(), ModelError> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(ModelError::config(key, format!("is {value}, it has to be from 1 to {max}")))
}

/// Refuses zero, negative and infinite numbers and NaN.
pub(super) fn check_positive(key: &str, value: f32) -> Result<(), ModelError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(ModelError::config(key, format!("is {value}, it has to be a number above 0")))
}
