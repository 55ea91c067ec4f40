//! How rope frequencies stretch, so that a model holds contexts longer than those it was first trained on.

use super::RopeError;

/// A stretching of rope frequencies.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum RopeScaling {
    /// As trained.
    #[default]
    None,
    /// Every frequency divided by `factor`: position interpolation, <https://arxiv.org/abs/2306.15595>.
    Linear {
        /// New context over the original one.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth change between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high.
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
    /// Each frequency divided by its own factor: `rope_freqs.weight` of a GGUF file, `[rot_dim / 2]`.
    Factors(Vec<f32>),
    /// YaRN, <https://arxiv.org/abs/2309.00071>: low frequencies interpolated, high ones kept, by rotations within the original context.
    Yarn {
        /// New context over the original one.
        factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Dimensions that turn more often than this are kept (32 in the paper).
        beta_fast: f64,
        /// Dimensions that turn less often than this are interpolated (1 in the paper).
        beta_slow: f64,
        /// Factor of cos and sin; `None` is the paper's `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
    },
}

impl RopeScaling {
    /// YaRN with the paper's constants.
    pub fn yarn(factor: f64, original_context: usize) -> Self {
        Self::Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0, attention_factor: None }
    }

    /// Stretches `frequencies` (radians per token, `base^(-2i / rot_dim)`) in place; returns the factor of cos and sin.
    ///
    /// Errors: [`RopeError::Scaling`], [`RopeError::Factors`].
    pub(super) fn apply(&self, base: f64, frequencies: &mut [f64]) -> Result<f64, RopeError> {
        self.check(frequencies.len())?;
        match *self {
            Self::None => {}
            Self::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            Self::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context } => {
                for f in frequencies {
                    // Turns within the original context.
                    let turns = original_context as f64 * *f / std::f64::consts::TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *f *= (1.0 - kept) / factor + kept;
                }
            }
            Self::Factors(ref factors) => {
                let each = frequencies.iter_mut().zip(factors);
                each.for_each(|(f, &factor)| *f /= f64::from(factor));
            }
            Self::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
                let rot_dim = 2.0 * frequencies.len() as f64;
                // The dimension pair that turns `turns` times within the original context.
                let pair_of = |turns: f64| {
                    rot_dim * (original_context as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
                };
                let first = pair_of(beta_fast).floor().max(0.0);
                let last = pair_of(beta_slow).ceil().min(rot_dim - 1.0);
                let width = (last - first).max(0.001);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let interpolated = ((i as f64 - first) / width).clamp(0.0, 1.0);
                    *f *= interpolated / factor + (1.0 - interpolated);
                }
                return Ok(attention_factor.unwrap_or(if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }));
            }
        }
        Ok(1.0)
    }

    /// Refuses numbers that give no finite angle: they come from a model's metadata.
    fn check(&self, pairs: usize) -> Result<(), RopeError> {
        let positive = |name: &'static str, value: f64| {
            if value.is_finite() && value > 0.0 { Ok(()) } else { Err(RopeError::Scaling { name, value }) }
        };
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => positive("factor", *factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor)?;
                positive("original_context", *original_context as f64)
            }
            Self::Factors(factors) => {
                if factors.len() != pairs {
                    return Err(RopeError::Factors { expected: pairs, actual: factors.len() });
                }
                factors.iter().try_for_each(|&f| positive("frequency factor", f64::from(f)))
            }
            Self::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
                positive("factor", *factor)?;
                positive("original_context", *original_context as f64)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("attention_factor", attention_factor.unwrap_or(1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(base: f64, rot_dim: usize) -> Vec<f64> {
        (0..rot_dim / 2).map(|i| base.powf(-2.0 * i as f64 / rot_dim as f64)).collect()
    }

    #[test]
    fn llama3_keeps_the_high_and_divides_the_low() {
        let before = plain(500_000.0, 128);
        let mut after = before.clone();
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        assert_eq!(scaling.apply(500_000.0, &mut after).unwrap(), 1.0);
        for (i, (b, a)) in before.iter().zip(&after).enumerate() {
            let wavelength = std::f64::consts::TAU / b;
            let expected = if wavelength < 8192.0 / 4.0 {
                *b
            } else if wavelength > 8192.0 {
                b / 8.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                (1.0 - smooth) * b / 8.0 + smooth * b
            };
            assert!((a / expected - 1.0).abs() < 1e-12, "pair {i}: {a} {expected}");
        }
    }

    #[test]
    fn yarn_has_the_papers_ramp_and_temperature() {
        // Qwen2.5 with factor 4: rot_dim 128, base 1e6, 32768 tokens. The ramp's ends follow from the formula by hand:
        // pair_of(32) = 64 ln(32768 / (32 * 2 pi)) / ln(1e6) = 23.6, pair_of(1) = 39.6.
        let before = plain(1e6, 128);
        let mut after = before.clone();
        let temperature = RopeScaling::yarn(4.0, 32768).apply(1e6, &mut after).unwrap();
        assert!((temperature - 1.138_629_436).abs() < 1e-8);
        for i in 0..64 {
            let ratio = after[i] / before[i];
            let expected = match i {
                0..=23 => 1.0,
                40.. => 0.25,
                _ => 1.0 - 0.75 * (i as f64 - 23.0) / 17.0,
            };
            assert!((ratio - expected).abs() < 1e-12, "pair {i}: {ratio}");
        }
    }

    #[test]
    fn factors_and_linear_divide() {
        let mut f = plain(10_000.0, 8);
        let factors = RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0]);
        factors.apply(10_000.0, &mut f).unwrap();
        let before = plain(10_000.0, 8);
        assert_eq!((f[0], f[3]), (before[0], before[3] / 8.0));
        RopeScaling::Linear { factor: 2.0 }.apply(10_000.0, &mut f).unwrap();
        assert_eq!(f[0], before[0] / 2.0);
    }

    #[test]
    fn numbers_without_sense_are_refused_by_name() {
        let mut f = plain(10_000.0, 8);
        for (scaling, part) in [
            (RopeScaling::Linear { factor: 0.0 }, "`factor` is 0"),
            (RopeScaling::yarn(f64::NAN, 10), "`factor` is NaN"),
            (RopeScaling::yarn(2.0, 0), "`original_context` is 0"),
            (RopeScaling::Factors(vec![1.0; 3]), "3 frequency factors for 4"),
            (RopeScaling::Factors(vec![1.0, 0.0, 1.0, 1.0]), "`frequency factor` is 0"),
            (
                RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 4.0, high_freq_factor: 4.0, original_context: 10 },
                "high_freq_factor",
            ),
        ] {
            let message = scaling.apply(10_000.0, &mut f).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
