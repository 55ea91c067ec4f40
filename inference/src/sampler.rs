//! Which token follows: one row of logits and the parameters of its request in, one token id out.
//!
//! Order: logit bias, penalties, `min_tokens` mask, temperature, top-k, top-p, min-p, draw. The
//! vocabulary is never sorted: candidates are found by a rising floor or a bound on probability, and
//! only they are ordered. Equal logits are ordered by id, lower first.
//!
//! The draw at output position `i` is a number of ChaCha8 keyed by the request's seed, stream `i`: it
//! depends on nothing else, so the same seed gives the same text alone and in any batch.
//!
//! Log-probabilities are those of the model's own logits, before bias, penalties and temperature
//! (vLLM's `raw_logprobs`): they say what the model thinks, not what the request made of it.

use std::collections::{HashMap, HashSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::exp::exp_nonpositive;
use crate::greatest::{Greatest, greatest};
use crate::request::{GenerateRequest, Logprobs, SamplingParams};

/// What the sampler remembers of one request between its tokens.
#[derive(Debug, Clone)]
pub struct SamplerState {
    params: SamplingParams,
    seed: u64,
    stop_ids: Vec<u32>,
    /// Tokens that a repetition penalty applies to; kept only if there is one.
    seen: HashSet<u32>,
    /// How often each token occurs in the output; kept only if a penalty asks.
    counts: HashMap<u32, u32>,
}

impl SamplerState {
    /// Before the first token. `fresh_seed` serves where the request names none.
    pub fn new(request: &GenerateRequest, fresh_seed: u64) -> Self {
        let params = request.sampling.clone();
        let repetition = params.repetition_penalty != 1.0;
        Self {
            seed: params.seed.unwrap_or(fresh_seed),
            stop_ids: request.stop_ids.clone(),
            seen: if repetition { request.prompt.iter().copied().collect() } else { HashSet::new() },
            counts: HashMap::new(),
            params,
        }
    }

    /// Counts a token of the output.
    pub fn push(&mut self, token: u32) {
        if self.params.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        if self.params.presence_penalty != 0.0 || self.params.frequency_penalty != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
    }

    /// True if `token` ends the generation.
    pub fn stops_at(&self, token: u32) -> bool {
        self.stop_ids.contains(&token)
    }

    fn masks_stops(&self, position: usize) -> bool {
        position < self.params.min_tokens && !self.stop_ids.is_empty()
    }

    fn changes_logits(&self, position: usize) -> bool {
        !self.params.logit_bias.is_empty()
            || !self.seen.is_empty()
            || !self.counts.is_empty()
            || self.masks_stops(position)
    }

    /// Applies bias, penalties and mask. Ids past the row are passed over.
    fn change(&self, row: &mut [f32], position: usize) {
        let mut at = |id: &u32, change: &dyn Fn(f32) -> f32| {
            if let Some(logit) = row.get_mut(*id as usize) {
                *logit = change(*logit);
            }
        };
        let params = &self.params;
        for (id, bias) in &params.logit_bias {
            at(id, &|logit| logit + bias);
        }
        let penalty = params.repetition_penalty;
        for id in &self.seen {
            at(id, &|logit| {
                if logit > 0.0 { logit / penalty } else { logit * penalty }
            });
        }
        for (id, count) in &self.counts {
            at(id, &|logit| logit - params.presence_penalty - params.frequency_penalty * *count as f32);
        }
        if self.masks_stops(position) {
            for id in &self.stop_ids {
                at(id, &|_| f32::NEG_INFINITY);
            }
        }
    }
}

/// A row held NaN or an infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Present if the request asks for them.
    pub logprobs: Option<Logprobs>,
}

/// Buffers that samplings share; no allocation once they have grown to the vocabulary.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    weights: Vec<f32>,
    keys: Vec<u64>,
    masses: Vec<f64>,
}

impl Sampler {
    /// Chooses the token at output position `position` from `row`, the model's logits `[vocab]`.
    pub fn sample(&mut self, row: &[f32], state: &SamplerState, position: usize) -> Result<Sampled, NotFinite> {
        let best = greatest(row);
        if row.is_empty() || !best.is_finite {
            return Err(NotFinite);
        }
        let id = if state.changes_logits(position) {
            let mut logits = std::mem::take(&mut self.logits);
            logits.clear();
            logits.extend_from_slice(row);
            state.change(&mut logits, position);
            let id = self.choose(&logits, greatest(&logits), state, position);
            self.logits = logits;
            id
        } else {
            self.choose(row, best, state, position)
        };
        let logprobs = state.params.logprobs.map(|alternatives| self.logprobs(row, id, alternatives));
        Ok(Sampled { id, logprobs })
    }

    /// Log-probability of `id` under the logits `row`, and the `alternatives` most likely tokens.
    pub fn logprobs(&mut self, row: &[f32], id: u32, alternatives: usize) -> Logprobs {
        let max = greatest(row).max;
        self.weights.clear();
        self.weights.extend(row.iter().map(|logit| exp_nonpositive(logit - max)));
        let total = sum(&self.weights);
        let log_total = f64::from(max) + total.ln();
        let logprob = |logit: f32| (f64::from(logit) - log_total) as f32;
        largest(row, alternatives, &mut self.keys);
        let top = self.keys.iter().map(|&key| (key_id(key), logprob(row[key_id(key) as usize]))).collect();
        Logprobs { logprob: row.get(id as usize).map_or(f32::NEG_INFINITY, |logit| logprob(*logit)), top }
    }

    /// Chooses from `logits`, whose greatest value is known.
    fn choose(&mut self, logits: &[f32], greatest: Greatest, state: &SamplerState, position: usize) -> u32 {
        let params = &state.params;
        let best = greatest.max;
        if best == f32::NEG_INFINITY {
            return 0; // every token is a stop id and masked: nothing can be chosen rightly
        }
        // A temperature so low that logits overflow when divided by it is greedy in all but name.
        let inverse = 1.0 / params.temperature;
        if params.temperature == 0.0 || params.top_k == Some(1) || !inverse.is_finite() {
            return greatest.index as u32;
        }
        let uniform = uniform(state.seed, position as u64);
        match params.top_k.filter(|k| *k < logits.len()) {
            Some(k) => {
                largest(logits, k, &mut self.keys);
                self.weigh_keys(logits, best, inverse);
                let total = sum(&self.weights);
                self.cut_and_draw(f64::from(params.top_p) * total, params.min_p, uniform)
            }
            None => {
                self.weights.clear();
                self.weights.extend(logits.iter().map(|logit| exp_nonpositive((logit - best) * inverse)));
                if params.top_p < 1.0 {
                    self.keep_nucleus(logits, params.top_p);
                }
                if params.min_p > 0.0 {
                    drop_below(&mut self.weights, params.min_p);
                }
                draw(&self.weights, uniform)
            }
        }
    }

    /// Zeroes the weights outside the smallest set of tokens that holds `top_p` of the mass.
    ///
    /// A histogram (eight buckets an octave: exponent and three bits of mantissa) says in which bucket
    /// the set ends; only that bucket's tokens are put in order.
    fn keep_nucleus(&mut self, logits: &[f32], top_p: f32) {
        let bucket = |weight: f32| (weight.to_bits() >> 20) as usize;
        self.masses.clear();
        self.masses.resize(bucket(1.0) + 1, 0.0);
        for &weight in &self.weights {
            self.masses[bucket(weight)] += f64::from(weight);
        }
        let needed = f64::from(top_p) * self.masses.iter().sum::<f64>();
        let (mut mass, mut border) = (0.0, self.masses.len() - 1);
        while border > 0 && mass + self.masses[border] < needed {
            mass += self.masses[border];
            border -= 1;
        }
        drop_below(&mut self.weights, f32::from_bits((border as u32) << 20));
        self.keys.clear();
        let in_border = self.weights.iter().enumerate().filter(|(_, weight)| bucket(**weight) == border);
        self.keys.extend(in_border.map(|(id, _)| key(logits[id], id)));
        self.keys.sort_unstable_by_key(|key| std::cmp::Reverse(*key));
        for &key in &self.keys {
            let weight = &mut self.weights[key_id(key) as usize];
            if mass >= needed {
                *weight = 0.0;
            } else {
                mass += f64::from(*weight);
            }
        }
    }

    fn weigh_keys(&mut self, logits: &[f32], best: f32, inverse: f32) {
        self.weights.clear();
        let weigh = |key: &u64| exp_nonpositive((logits[key_id(*key) as usize] - best) * inverse);
        self.weights.extend(self.keys.iter().map(weigh));
    }

    /// `keys` and `weights` hold candidates, most likely first: keeps the shortest start that weighs
    /// `needed`, of it what weighs `min_p` of the first, and draws.
    fn cut_and_draw(&self, needed: f64, min_p: f32, uniform: f64) -> u32 {
        let mut mass = 0.0;
        let mut kept = 0;
        for weight in &self.weights {
            if kept > 0 && (mass >= needed || *weight < min_p) {
                break;
            }
            mass += f64::from(*weight);
            kept += 1;
        }
        let at = draw(&self.weights[..kept], uniform);
        key_id(self.keys[at as usize])
    }
}

/// Zeroes what is less than `floor`.
fn drop_below(weights: &mut [f32], floor: f32) {
    for weight in weights {
        *weight = if *weight < floor { 0.0 } else { *weight };
    }
}

/// Draws an index with probability proportional to its weight.
fn draw(weights: &[f32], uniform: f64) -> u32 {
    const PAGE: usize = 1024;
    let mut target = uniform * sum(weights);
    // Page by page, then within the page: the pages are summed in vectors.
    let pages = weights.len().div_ceil(PAGE);
    for (number, page) in weights.chunks(PAGE).enumerate() {
        let mass = sum(page);
        if target >= mass && number + 1 < pages {
            target -= mass;
            continue;
        }
        for (index, weight) in page.iter().enumerate() {
            target -= f64::from(*weight);
            if target < 0.0 {
                return (number * PAGE + index) as u32;
            }
        }
    }
    // Rounding carried the target past the end: the last that can be drawn.
    weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0) as u32
}

/// The number in [0, 1) that decides output position `position` under `seed`.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(position);
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Leaves in `keys` the `k` largest of `row`, largest first.
///
/// One pass over the row with a floor that rises: the buffer is cut back to `k` each time it is full,
/// and what is below its smallest is passed by.
fn largest(row: &[f32], k: usize, keys: &mut Vec<u64>) {
    keys.clear();
    if k == 0 {
        return;
    }
    let k = k.min(row.len());
    let capacity = 2 * k + 256;
    let descending = |key: &u64| std::cmp::Reverse(*key);
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in row.iter().enumerate() {
        if logit < floor {
            continue;
        }
        keys.push(key(logit, id));
        if keys.len() == capacity {
            keys.select_nth_unstable_by_key(k - 1, descending);
            keys.truncate(k);
            floor = row[key_id(keys[k - 1]) as usize];
        }
    }
    if keys.len() > k {
        keys.select_nth_unstable_by_key(k - 1, descending);
        keys.truncate(k);
    }
    keys.sort_unstable_by_key(descending);
}

/// Orders like (logit, lower id first): the logit's bits made monotonic above, the inverted id below.
fn key(logit: f32, id: usize) -> u64 {
    let bits = (logit + 0.0).to_bits(); // + 0.0 makes -0.0 equal to 0.0
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!(id as u32))
}

fn key_id(key: u64) -> u32 {
    !(key as u32)
}

fn sum(weights: &[f32]) -> f64 {
    let mut acc = [0.0f64; 8];
    let chunks = weights.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (acc, weight) in acc.iter_mut().zip(chunk) {
            *acc += f64::from(*weight);
        }
    }
    acc.iter().sum::<f64>() + rest.iter().map(|weight| f64::from(*weight)).sum::<f64>()
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
