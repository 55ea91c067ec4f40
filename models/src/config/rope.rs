//! Rotary position embeddings (<https://arxiv.org/abs/2104.09864>): their constants, as files give them.

pub use engram_kernels::rope::RopeLayout;

use super::check::check_positive;
use crate::error::ModelError;

/// The GGUF tensor `[rope.dim / 2]` of [`RopeScaling::Factors`].
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How q and k are rotated.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// Features of a head that are rotated, from its start; even.
    pub dim: usize,
    /// Which features make a pair. GGUF files of the llama family have the rows of q and k permuted for
    /// `Interleaved`; all other files are `Neox`.
    pub layout: RopeLayout,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How the frequencies of a model are stretched beyond the context it was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor` (<https://arxiv.org/abs/2306.15595>).
    Linear {
        /// Stretch.
        factor: f32,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are stretched in full.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context before the stretch, in tokens.
        original_context: usize,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// Stretch.
        factor: f32,
        /// Context before the stretch, in tokens.
        original_context: usize,
        /// Rotations within `original_context` from which a frequency is kept.
        beta_fast: f32,
        /// Rotations up to which a frequency is stretched in full.
        beta_slow: f32,
        /// Multiplies cos and sin; `0.1 ln(factor) + 1` where the files do not say.
        attention_factor: f32,
    },
    /// Each frequency divided by its own factor, from the tensor [`ROPE_FACTORS`] (GGUF of Llama 3.1 and later).
    Factors,
}

/// YaRN's defaults.
pub(super) const BETA_FAST: f32 = 32.0;
pub(super) const BETA_SLOW: f32 = 1.0;

/// YaRN's recommended factor on cos and sin.
pub(super) fn yarn_attention_factor(factor: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

impl RopeScaling {
    /// Refuses numbers that no frequency can be divided by.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let context = |value: usize| {
            let reason = "is 0, it has to be the context before the stretch";
            if value == 0 { Err(ModelError::config("rope.scaling.original_context", reason)) } else { Ok(()) }
        };
        match *self {
            RopeScaling::None | RopeScaling::Factors => Ok(()),
            RopeScaling::Linear { factor } => check_positive("rope.scaling.factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                check_positive("rope.scaling.factor", factor)?;
                check_positive("rope.scaling.low_freq_factor", low_freq_factor)?;
                check_positive("rope.scaling.high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let reason = format!("is {high_freq_factor}, it has to be above low_freq_factor {low_freq_factor}");
                    return Err(ModelError::config("rope.scaling.high_freq_factor", reason));
                }
                context(original_context)
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
                check_positive("rope.scaling.factor", factor)?;
                check_positive("rope.scaling.beta_slow", beta_slow)?;
                check_positive("rope.scaling.attention_factor", attention_factor)?;
                if !beta_fast.is_finite() || beta_fast <= beta_slow {
                    let reason = format!("is {beta_fast}, it has to be above beta_slow {beta_slow}");
                    return Err(ModelError::config("rope.scaling.beta_fast", reason));
                }
                context(original_context)
            }
        }
    }
}
