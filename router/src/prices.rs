//! What a model's tokens cost: before the call as an estimate, after it as the bill.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use crate::money::Usd;

/// Prices are for so many tokens.
const TOKENS: u128 = 1_000_000;

/// The price of one model; each part is for a million tokens.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub struct Price {
    /// Of the prompt.
    pub input: Usd,
    /// Of the part of the prompt that was in the provider's cache.
    pub cached: Usd,
    /// Of the completion.
    pub output: Usd,
}

/// Tokens of one or more answers.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub struct TokenCount {
    /// Of the prompt, cached ones among them.
    pub prompt: u64,
    /// How many of the prompt's came from a cache.
    pub cached: u64,
    /// Of the completion.
    pub completion: u64,
}

impl TokenCount {
    /// Prompt and completion.
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl Add for TokenCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.saturating_add(other.prompt),
            cached: self.cached.saturating_add(other.cached),
            completion: self.completion.saturating_add(other.completion),
        }
    }
}

impl AddAssign for TokenCount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for TokenCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

impl Price {
    /// Of what runs here.
    pub const FREE: Self = Self { input: Usd::ZERO, cached: Usd::ZERO, output: Usd::ZERO };

    /// Whether nothing costs anything.
    pub fn is_free(&self) -> bool {
        *self == Self::FREE
    }

    /// What these tokens cost: exact, rounded up once to a whole nano-dollar, so that a bill is never short of
    /// the price. A count that says that more was cached than there was counts the prompt as cached.
    pub fn cost(&self, tokens: &TokenCount) -> Usd {
        let cached = tokens.cached.min(tokens.prompt);
        let part = |count: u64, price: Usd| u128::from(count) * u128::from(price.nanos());
        // Two products can be 2^129 together: the sum is made so that it stops at the end.
        let total = part(tokens.prompt - cached, self.input)
            .saturating_add(part(cached, self.cached))
            .saturating_add(part(tokens.completion, self.output));
        Usd::from_nanos(u64::try_from(total.div_ceil(TOKENS)).unwrap_or(u64::MAX))
    }

    /// The most that an answer can cost if it is not longer than `max_tokens`: nothing of the prompt is taken to
    /// be cached, unless a provider asks more for that.
    pub fn estimate(&self, prompt_tokens: u64, max_tokens: u64) -> Usd {
        let dearest = Self { input: self.input.max(self.cached), ..*self };
        dearest.cost(&TokenCount { prompt: prompt_tokens, cached: 0, completion: max_tokens })
    }
}

/// A request that would cost more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("estimated {estimated}, limit {limit}")]
pub struct OverMaxCost {
    /// What it may come to.
    pub estimated: Usd,
    /// The request's `max_cost`, or the configured one.
    pub limit: Usd,
}

/// Holds an estimate against `max_cost`; `None` is no limit.
///
/// # Errors
/// [`OverMaxCost`] if it is more.
pub fn check_cost(estimated: Usd, max_cost: Option<Usd>) -> Result<(), OverMaxCost> {
    match max_cost {
        Some(limit) if estimated > limit => Err(OverMaxCost { estimated, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(input: f64, cached: f64, output: f64) -> Price {
        let usd = |dollars| Usd::from_dollars(dollars).expect("a price");
        Price { input: usd(input), cached: usd(cached), output: usd(output) }
    }

    #[test]
    fn a_bill_is_the_sum_of_its_parts() {
        let gpt = price(2.5, 1.25, 10.0);
        let table = [
            (gpt, 1_000_000, 0, 0, "2.5000 USD"),
            (gpt, 1_000_000, 1_000_000, 0, "1.2500 USD"),
            (gpt, 0, 0, 1_000_000, "10.0000 USD"),
            (gpt, 1000, 400, 500, "0.0070 USD"),
            (gpt, 1, 0, 0, "0.0000025 USD"),
            (gpt, 10, 99, 0, "0.0000125 USD"),
            // 0.0375 USD a million is 37.5 nano-dollars a token: up, and only once a bill.
            (price(0.0375, 0.0, 0.0), 1, 0, 0, "0.000000038 USD"),
            (price(0.0375, 0.0, 0.0), 3, 0, 0, "0.000000113 USD"),
            (Price::FREE, 1_000_000, 0, 1_000_000, "0.0000 USD"),
            (gpt, u64::MAX, 0, u64::MAX, "18446744073.709551615 USD"),
        ];
        for (price, prompt, cached, completion, shown) in table {
            assert_eq!(price.cost(&TokenCount { prompt, cached, completion }).to_string(), shown);
        }
        let endless = Price { input: Usd::MAX, cached: Usd::MAX, output: Usd::MAX };
        assert_eq!(endless.cost(&TokenCount { prompt: u64::MAX, cached: 1, completion: u64::MAX }), Usd::MAX);
    }

    #[test]
    fn more_than_the_request_may_cost_is_said_with_figures() {
        let estimated = price(2.5, 1.25, 10.0).estimate(13_240, 4_000);
        let error = check_cost(estimated, Usd::from_dollars(0.05)).expect_err("over");
        assert_eq!(error.to_string(), "estimated 0.0731 USD, limit 0.0500 USD");
        assert_eq!(check_cost(estimated, Some(estimated)), Ok(()));
        assert_eq!(check_cost(Usd::MAX, None), Ok(()));
        assert!(check_cost(Usd::from_nanos(1), Some(Usd::ZERO)).is_err());
        assert_eq!(check_cost(Usd::ZERO, Some(Usd::ZERO)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_answer_costs_more_than_its_estimate(
            input in 0u64..100_000_000_000, cached in 0u64..100_000_000_000, output in 0u64..100_000_000_000,
            prompt in 0u64..1_000_000, hit in 0u64..1_000_000, said in 0u64..100_000, more in 0u64..100_000,
        ) {
            let price = Price {
                input: Usd::from_nanos(input), cached: Usd::from_nanos(cached), output: Usd::from_nanos(output),
            };
            let tokens = TokenCount { prompt, cached: hit, completion: said };
            prop_assert!(price.cost(&tokens) <= price.estimate(prompt, said + more));
        }

        #[test]
        fn a_thousand_bills_are_off_by_less_than_a_thousand_nano_dollars(
            nanos in 0u64..100_000_000_000, prompts in prop::collection::vec(0u64..10_000, 1..1000),
        ) {
            let price = Price { input: Usd::from_nanos(nanos), ..Price::FREE };
            let each = |prompt| TokenCount { prompt, ..TokenCount::default() };
            let one_by_one: Usd = prompts.iter().map(|prompt| price.cost(&each(*prompt))).sum();
            let together = price.cost(&prompts.iter().map(|prompt| each(*prompt)).sum());
            prop_assert!(one_by_one >= together);
            prop_assert!((one_by_one - together).nanos() < prompts.len() as u64);
        }
    }
}
