//! Money as an integer: sums never drift, whatever their order and number.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use serde::{Serialize, Serializer};

/// Nano-dollars in a dollar.
const NANOS: u64 = 1_000_000_000;

/// US dollars, counted in billionths of one; at most 18.4 billion dollars, where sums stay.
///
/// A nano-dollar is 1/2500 of one input token at 2.50 USD a million. `Display` is exact, with at least four
/// decimals (`0.0500 USD`); JSON has it as a number of dollars.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Usd(u64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than anything costs.
    pub const MAX: Self = Self(u64::MAX);

    /// So many billionths of a dollar.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Billionths of a dollar.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// An amount from a file or a request, to the nearest nano-dollar; `None` if it is negative, not a number, or
    /// more than [`Usd::MAX`].
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * NANOS as f64).round();
        // `u64::MAX as f64` is 2^64, one more than fits.
        (dollars >= 0.0 && nanos < u64::MAX as f64).then_some(Self(nanos as u64))
    }

    /// The nearest number of dollars, for JSON, headers and metrics; sums are made of [`Usd`].
    pub fn as_dollars(self) -> f64 {
        // Of two parts: the whole would lose digits above 2^53 nano-dollars, 9 million dollars.
        (self.0 / NANOS) as f64 + (self.0 % NANOS) as f64 / NANOS as f64
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// Stays at [`Usd::MAX`].
impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Stays at zero.
impl Sub for Usd {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl SubAssign for Usd {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:09}", self.0 % NANOS);
        let shown = decimals.trim_end_matches('0').len().max(4);
        write!(f, "{}.{} USD", self.0 / NANOS, &decimals[..shown])
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_dollars())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_is_shown_exactly() {
        let table = [
            (0, "0.0000 USD", "0.0"),
            (50_000_000, "0.0500 USD", "0.05"),
            (73_100_000, "0.0731 USD", "0.0731"),
            (50_000_001, "0.050000001 USD", "0.050000001"),
            (1, "0.000000001 USD", "1e-9"),
            (12_345_000_000_000, "12345.0000 USD", "12345.0"),
            (10_010_000_000, "10.0100 USD", "10.01"),
            (123_456_500, "0.1234565 USD", "0.1234565"),
            (u64::MAX, "18446744073.709551615 USD", "18446744073.709553"),
        ];
        for (nanos, shown, json) in table {
            assert_eq!(Usd(nanos).to_string(), shown);
            assert_eq!(serde_json::to_string(&Usd(nanos)).expect("a number"), json);
        }
    }

    #[test]
    fn only_an_amount_becomes_money() {
        let table = [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (0.05, Some(50_000_000)),
            (2.5, Some(2_500_000_000)),
            (0.1 + 0.2, Some(300_000_000)),
            (1e-10, Some(0)),
            (6e-10, Some(1)),
            (-1e-10, None),
            (-0.01, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::NEG_INFINITY, None),
            (1.8446744e10, Some(18_446_744_000_000_000_000)),
            (1.85e10, None),
        ];
        for (dollars, nanos) in table {
            assert_eq!(Usd::from_dollars(dollars).map(Usd::nanos), nanos, "{dollars}");
        }
    }

    #[test]
    fn ends_are_walls() {
        assert_eq!(Usd::MAX + Usd(1), Usd::MAX);
        assert_eq!(Usd(1) - Usd(2), Usd::ZERO);
        assert_eq!([Usd::MAX, Usd(1)].into_iter().sum::<Usd>(), Usd::MAX);
    }

    proptest! {
        #[test]
        fn sums_have_no_order(mut amounts in prop::collection::vec(0u64..1_000_000_000_000, 0..200)) {
            let forward: Usd = amounts.iter().copied().map(Usd).sum();
            amounts.reverse();
            let mut back = Usd::ZERO;
            for amount in &amounts {
                back += Usd(*amount);
            }
            prop_assert_eq!(forward, back);
            for amount in &amounts {
                back -= Usd(*amount);
            }
            prop_assert_eq!(back, Usd::ZERO);
        }

        #[test]
        fn a_millionth_of_a_dollar_goes_to_a_double_and_back(micros in 0u64..1_000_000_000_000) {
            let amount = Usd(micros * 1000);
            prop_assert_eq!(Usd::from_dollars(amount.as_dollars()), Some(amount));
        }
    }
}
