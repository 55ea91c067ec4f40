//! The exponential of numbers up to zero, in a form that compilers turn into vectors.

/// `e^x` for `x <= 0`, within 3 units in the last place; 0 below -87, where the result is no normal f32.
///
/// Cephes `expf`: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, a polynomial in r, the exponent put back by bits.
/// The library's `expf` is a call per element; a vocabulary of 150,000 is worth avoiding that.
#[inline]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 355.0 / 512.0; // few bits, so that n times it is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding and subtracting it rounds to whole numbers
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let fraction = p * r * r + r + 1.0;
    // The whole number stands in the low bits of the sum; a cast of n would cost a range check.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent << 23);
    if x > -87.0 { fraction * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_exponential() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-100.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        let mut x = 0.0f32;
        while x > -87.0 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "e^{x} is off by {error:e}");
            x -= 0.0137;
        }
    }
}
