//! How long a step takes, learned from the steps that were, and so how much prefill fits beside decodes.
//!
//! A step's time is taken for a sum: something fixed (the weights are read once), so much a decode, so
//! much a prompt token, so much a pair of a token and one that it attends to; and all of that times the
//! machine's load. The four rates are least squares over the last steps, each counted by its relative
//! error and less the older it is; the load follows the last few steps, so a neighbour that takes half of
//! the machine is felt at once. A prompt that grows deep is in part taken for load: the first step of a
//! fresh one after it may be off by a quarter.
//!
//! Rates stay positive. A step counts as at most twice what was predicted, so a machine that stood still
//! for seconds is soon forgotten. O(1) in time and memory, no clock: it is handed what was measured.

use std::time::Duration;

/// Of the bound, what a step is planned to take: steps vary.
const AIM: f64 = 0.9;
/// Prefill may always take this much of the time that the step takes without it: where decodes alone
/// take all of the bound, prompts go on, and a bound too tight costs little throughput.
const LEAST_SHARE: f64 = 0.25;
/// Prompt tokens that a step may always read, and what their number is rounded to: rows of a matrix
/// product come in such groups.
const GROUP: usize = 16;
/// How far one step corrects the load.
const GAIN: f64 = 0.4;
/// What a step's weight in the rates falls by with each later step: some hundred are remembered.
const MEMORY: f64 = 0.99;
/// A step counts as at most this many times what was predicted: longer ones are stalls, of which nothing
/// is to be learned. There is no such bound below: no step is faster than the machine.
const MOST_OFF: f64 = 2.0;
/// Weight of the present rates against what the remembered steps say: decides where these are silent.
const INERTIA: f64 = 0.02;
/// Rounds of coordinate descent a step. It goes on from the last rates, so few are enough.
const ROUNDS: usize = 8;
/// The first guess of the rates relative to each other: fixed, a decode, a prompt token, a pair. From the
/// one decode that the engine starts with it puts a prompt token at that whole step, more than it can take;
/// the first steps with prefill bring it down at once.
const FIRST_GUESS: [f64; 4] = [1.0, 1.0, 2.0, 1.0 / 4096.0];

/// What a step has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepWork {
    /// Sequences that take one token.
    pub decodes: usize,
    /// Tokens of prompts.
    pub prefill: usize,
    /// Sum over all tokens of how many each attends to, itself included.
    pub pairs: u64,
}

impl StepWork {
    /// Adds a decode that attends to `context` tokens.
    pub fn add_decode(&mut self, context: usize) {
        self.decodes += 1;
        self.pairs += context as u64;
    }

    /// Adds the tokens `start..start + len` of a prompt.
    pub fn add_prefill(&mut self, start: usize, len: usize) {
        let (start, len) = (start as u64, len as u64);
        self.prefill += len as usize;
        self.pairs += len * start + len * (len + 1) / 2;
    }

    fn terms(&self) -> [f64; 4] {
        [1.0, self.decodes as f64, self.prefill as f64, self.pairs as f64]
    }
}

/// What a step costs, in seconds: the sum of its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepCost {
    /// Of any step.
    pub fixed: f64,
    /// Of each decode.
    pub decode: f64,
    /// Of each prompt token.
    pub prefill: f64,
    /// Of each pair of a token and one that it attends to.
    pub pair: f64,
}

/// The measured cost of steps, and the bound they are to keep.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Longest gap between two tokens of a stream; `None`: prefill need not care.
    max_itl: Option<Duration>,
    /// Seconds: fixed, a decode, a prompt token, a pair. `None` before the first step.
    rates: Option<[f64; 4]>,
    /// How much slower the machine is just now than the rates say.
    load: f64,
    /// The remembered steps: sums of products of their terms, over their time squared, ..
    squares: [[f64; 4]; 4],
    /// .. and of their terms, over their time.
    sums: [f64; 4],
}

impl Pace {
    /// Nothing measured yet.
    pub fn new(max_itl: Option<Duration>) -> Self {
        Self { max_itl, rates: None, load: 1.0, squares: [[0.0; 4]; 4], sums: [0.0; 4] }
    }

    /// Learns that a step of `work` took `elapsed`.
    pub fn observe(&mut self, work: &StepWork, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64().max(1e-9);
        let terms = work.terms();
        let rates = self.rates.unwrap_or_else(|| {
            let unit = elapsed / dot(&FIRST_GUESS, &terms);
            FIRST_GUESS.map(|guess| guess * unit)
        });
        let alone = dot(&rates, &terms);
        let elapsed = elapsed.min(MOST_OFF * self.load * alone);
        self.load = (self.load + GAIN * (elapsed / alone - self.load)).clamp(0.1, 10.0);
        // What the rates are to say: the step without the load.
        let time = elapsed / self.load;
        let relative = terms.map(|term| term / time);
        for ((row, sum), a) in self.squares.iter_mut().zip(&mut self.sums).zip(relative) {
            for (square, b) in row.iter_mut().zip(relative) {
                *square = *square * MEMORY + a * b;
            }
            *sum = *sum * MEMORY + a;
        }
        self.rates = Some(self.refine(rates));
    }

    /// Moves the rates towards the least relative error over the remembered steps, by coordinate descent on
    /// factors of the present rates: dimensionless, and never negative.
    fn refine(&self, rates: [f64; 4]) -> [f64; 4] {
        let mut factors = [1.0; 4];
        for _ in 0..ROUNDS {
            for (i, (row, sum)) in self.squares.iter().zip(&self.sums).enumerate() {
                let said: f64 = row.iter().zip(rates).zip(factors).map(|((square, rate), f)| square * rate * f).sum();
                let pull = rates[i] * (sum - said) + INERTIA * (1.0 - factors[i]);
                let weight = rates[i] * rates[i] * row[i] + INERTIA;
                factors[i] = (factors[i] + pull / weight).clamp(0.5, 2.0);
            }
        }
        // A floor, so that a rate that long had no part can still grow when it has one.
        std::array::from_fn(|i| (rates[i] * factors[i]).max(1e-15))
    }

    /// As they are under the present load.
    fn rates(&self) -> Option<[f64; 4]> {
        self.rates.map(|rates| rates.map(|rate| rate * self.load))
    }

    /// What steps cost now, for those who plan ahead; `None` before the first was measured.
    pub fn cost(&self) -> Option<StepCost> {
        let [fixed, decode, prefill, pair] = self.rates()?;
        Some(StepCost { fixed, decode, prefill, pair })
    }

    /// How long a step of `work` is expected to take; `None` before the first was measured.
    pub fn estimate(&self, work: &StepWork) -> Option<Duration> {
        self.rates().map(|rates| Duration::from_secs_f64(dot(&rates, &work.terms()).min(1e6)))
    }

    /// Without a bound on its time: a step that gives nobody a token may take as long as it needs.
    pub fn unbounded(&self) -> Allowance {
        Allowance { rates: self.rates().unwrap_or_default(), seconds: f64::INFINITY, tokens: 0 }
    }

    /// What prefill may take of a step that does `work` besides, so that the step keeps the bound.
    pub fn beside(&self, work: &StepWork) -> Allowance {
        let Some(max_itl) = self.max_itl else {
            return self.unbounded();
        };
        // Nothing measured yet: no time, which leaves the least number of tokens.
        let Some(rates) = self.rates() else {
            return Allowance { rates: [0.0; 4], seconds: 0.0, tokens: 0 };
        };
        let taken = dot(&rates, &work.terms());
        let left = AIM * max_itl.as_secs_f64() - taken;
        Allowance { rates, seconds: left.max(LEAST_SHARE * taken), tokens: 0 }
    }

    /// [`Self::beside`] nobody's decode, but for a prompt that ends in this step: it is read whole however
    /// long that takes, and leaves others what it leaves of the bound. A third more is for who shares.
    pub fn to_finish(&self, start: usize, remaining: usize) -> Allowance {
        if self.rates.is_none() {
            return self.unbounded();
        }
        let mut allowance = self.beside(&StepWork::default());
        allowance.seconds = allowance.seconds.max(allowance.cost(start, remaining) * 4.0 / 3.0);
        allowance
    }
}

/// Time for the prefill of one step, spent chunk by chunk.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    rates: [f64; 4],
    /// Left.
    seconds: f64,
    /// Granted so far.
    tokens: usize,
}

impl Allowance {
    /// Prompt tokens from position `start` on that fit into what is left. With those granted before they
    /// make a multiple of the group, and at least one group.
    pub fn fits(&self, start: usize) -> usize {
        if self.seconds == f64::INFINITY {
            return usize::MAX;
        }
        let [_, _, token, pair] = self.rates;
        // token * n + pair * (start * n + n * n / 2) = seconds, in the form that does not cancel.
        let (linear, seconds) = (token + pair * start as f64, self.seconds.max(0.0));
        let root = (linear * linear + 2.0 * pair * seconds).sqrt();
        let fitting = if linear + root > 0.0 { 2.0 * seconds / (linear + root) } else { 0.0 };
        let total = (self.tokens.saturating_add(fitting as usize) / GROUP * GROUP).max(GROUP);
        total.saturating_sub(self.tokens)
    }

    /// Takes `len` tokens from position `start` on out of what is left.
    pub fn spend(&mut self, start: usize, len: usize) {
        self.seconds -= self.cost(start, len);
        self.tokens += len;
    }

    fn cost(&self, start: usize, len: usize) -> f64 {
        let mut work = StepWork::default();
        work.add_prefill(start, len);
        let [_, _, token, pair] = self.rates;
        token * len as f64 + pair * work.pairs as f64
    }
}

fn dot(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
