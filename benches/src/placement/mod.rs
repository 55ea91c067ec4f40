//! Which way of choosing nodes serves a fleet best: a simulation, for 64 machines are not at hand.
//!
//! Conversations come at random, many with the same instructions; a node computes what it has not cached. All of it
//! follows from a seed, so two policies meet the same requests, and a run is repeated to the digit. What it leaves
//! out: decoding does not slow down for a prompt computed beside it, and nodes do not evict what runs.

pub mod fleet;
pub mod node;
pub mod policy;
pub mod trace;

use std::fmt::Write as _;

use serde_json::{Value, json};

use fleet::{Fleet, Incident, Outcome, Run};
use node::Speed;
use policy::{Policy, Rule, Usual};
use trace::Traffic;

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementBench {
    /// Nodes.
    pub nodes: usize,
    /// Requests a second, over all nodes.
    pub rate: f64,
    /// Seconds in which conversations begin; the first fifth fills the caches and is not counted.
    pub seconds: f64,
    /// Different instructions.
    pub instructions: usize,
    /// Where the numbers come from.
    pub seed: u64,
}

impl PlacementBench {
    /// Whether the numbers make sense; the error says which does not.
    pub fn check(&self) -> Result<(), String> {
        if !(4..=4096).contains(&self.nodes) {
            return Err(format!("--nodes is {}, must be 4 to 4096", self.nodes));
        }
        if !(self.rate > 0.0 && self.rate <= 1e5) {
            return Err(format!("--rate is {}, must be above 0 and at most 100000", self.rate));
        }
        if !(self.seconds >= 10.0 && self.seconds <= 1e5) {
            return Err(format!("--seconds is {}, must be 10 to 100000", self.seconds));
        }
        if !(1..=1_000_000).contains(&self.instructions) {
            return Err(format!("--instructions is {}, must be 1 to 1000000", self.instructions));
        }
        Ok(())
    }

    fn scenarios(&self) -> Vec<Scenario> {
        let half = self.seconds / 2.0;
        let plain = |name, hot, incident| Scenario { name, hot, incident };
        vec![
            plain("steady", 0.0, None),
            plain("hot instructions", 0.4, None),
            plain("a node dies", 0.0, Some(Incident::Dies { node: 3, at: half, back: half + 60.0 })),
            plain("a node slows 8x", 0.0, Some(Incident::Slows { node: 3, at: half, times: 8.0 })),
            plain("a node joins", 0.0, Some(Incident::Joins { node: self.nodes - 1, at: half })),
        ]
    }
}

/// One kind of day.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scenario {
    name: &'static str,
    hot: f64,
    incident: Option<Incident>,
}

/// What came of one policy on one day. Times are in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The kind of day.
    pub scenario: &'static str,
    /// The policy.
    pub policy: String,
    /// Requests counted.
    pub requests: usize,
    /// Requests that nobody answered, and those that were cut.
    pub lost: usize,
    /// Share of prompt tokens found in a cache.
    pub hit_rate: f64,
    /// Time to the first token: the middle, and of a hundred the slowest.
    pub first_token: [f64; 2],
    /// The same to the last token.
    pub whole: [f64; 2],
    /// Load of the fullest node over the mean, on average.
    pub unevenness: f64,
    /// First-token time, of a hundred the slowest, of the requests that the node of the incident answered in the minute after it.
    pub at_the_node: Option<f64>,
}

/// All rows and what they are of.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was simulated.
    pub bench: PlacementBench,
    /// How fast a node is.
    pub speed: Speed,
    /// The results.
    pub rows: Vec<Row>,
}

/// Simulates all days under all policies; `ours` makes the policy under test, afresh for each, and `told` hears of each day.
pub fn run(bench: &PlacementBench, mut ours: impl FnMut() -> Box<dyn Policy>, mut told: impl FnMut(&str)) -> Report {
    let speed = Speed::default();
    let mut rows = Vec::new();
    for scenario in bench.scenarios() {
        told(scenario.name);
        let traffic = Traffic {
            rate: bench.rate,
            seconds: bench.seconds,
            instructions: bench.instructions,
            hot: scenario.hot,
            seed: bench.seed,
        };
        let talks = traffic.conversations();
        let mut policies: Vec<(&str, Box<dyn Policy>)> =
            Rule::ALL.map(|(rule, name)| (name, Box::new(Usual::new(rule)) as Box<dyn Policy>)).into();
        policies.push(("engram", ours()));
        for (name, mut policy) in policies {
            let run = Fleet::new(bench.nodes, speed, &talks, policy.as_mut()).run(scenario.incident);
            rows.push(row(bench, &scenario, name, &run));
        }
    }
    Report { bench: bench.clone(), speed, rows }
}

fn row(bench: &PlacementBench, scenario: &Scenario, policy: &str, run: &Run) -> Row {
    let counted = |seconds: f64| (bench.seconds / 5.0..bench.seconds).contains(&seconds);
    let outcomes: Vec<&Outcome> = run.outcomes.iter().filter(|outcome| counted(outcome.came)).collect();
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|outcome| of(outcome)).sum::<u64>() as f64;
    let of =
        |time: fn(&Outcome) -> Option<f64>| outcomes.iter().filter_map(|outcome| time(outcome)).collect::<Vec<_>>();
    let (first, whole) = (of(|outcome| outcome.first_token), of(|outcome| outcome.whole));
    let loads: Vec<f64> = run.unevenness.iter().filter(|(at, _)| counted(*at)).map(|&(_, value)| value).collect();
    let at_the_node = scenario.incident.map(|incident| {
        let from = match incident {
            Incident::Dies { back, .. } => back,
            Incident::Slows { at, .. } | Incident::Joins { at, .. } => at,
        };
        let there = outcomes.iter().filter(|outcome| outcome.node == incident.node());
        let then = there.filter(|outcome| (from..from + 60.0).contains(&outcome.came));
        percentile(&then.filter_map(|outcome| outcome.first_token).collect::<Vec<_>>(), 0.99)
    });
    Row {
        scenario: scenario.name,
        policy: policy.to_owned(),
        requests: outcomes.len(),
        lost: outcomes.len() - whole.len(),
        hit_rate: sum(|outcome| outcome.cached) / sum(|outcome| outcome.tokens).max(1.0),
        first_token: [percentile(&first, 0.5), percentile(&first, 0.99)],
        whole: [percentile(&whole, 0.5), percentile(&whole, 0.99)],
        unevenness: loads.iter().sum::<f64>() / loads.len().max(1) as f64,
        at_the_node,
    }
}

/// The smallest value that so many of all do not exceed; 0 of none.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or(0.0)
}

impl Report {
    /// The row of a day and a policy.
    pub fn row(&self, scenario: &str, policy: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.scenario == scenario && row.policy == policy)
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "scenario": row.scenario,
                    "policy": row.policy,
                    "requests": row.requests,
                    "lost": row.lost,
                    "hit_rate": round(row.hit_rate),
                    "first_token_s": {"p50": round(row.first_token[0]), "p99": round(row.first_token[1])},
                    "whole_s": {"p50": round(row.whole[0]), "p99": round(row.whole[1])},
                    "max_over_mean_load": round(row.unevenness),
                    "first_token_p99_s_at_the_node": row.at_the_node.map(round),
                })
            })
            .collect();
        json!({
            "bench": {
                "nodes": self.bench.nodes,
                "rate": self.bench.rate,
                "seconds": self.bench.seconds,
                "instructions": self.bench.instructions,
                "seed": self.bench.seed,
            },
            "node": {
                "prefill_tokens_per_second": self.speed.prefill,
                "seconds_a_token": self.speed.token,
                "seconds_a_token_for_each_beside": self.speed.beside,
                "slots": self.speed.slots,
                "cache_tokens": self.speed.cache_tokens,
            },
            "engram": env!("CARGO_PKG_VERSION"),
            "rows": rows,
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let PlacementBench { nodes, rate, seconds, instructions, seed } = &self.bench;
        let mut text = format!(
            "{nodes} nodes, {rate} requests/s for {seconds} s, {instructions} instructions, seed {seed}; simulated\n\n\
             {:<17} {:<16} {:>8} {:>5} {:>7}   {:>8} {:>8}   {:>7} {:>7}   {:>8} {:>8}\n",
            "day",
            "policy",
            "requests",
            "lost",
            "hits",
            "ttft p50",
            "p99 ms",
            "all p50",
            "p99 s",
            "max/mean",
            "node p99"
        );
        for row in &self.rows {
            let node = row.at_the_node.map_or(String::new(), |seconds| format!("{:.0}", seconds * 1e3));
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<17} {:<16} {:>8} {:>5} {:>5.1} %   {:>8.0} {:>8.0}   {:>7.2} {:>7.2}   {:>8.2} {:>8}",
                row.scenario,
                row.policy,
                row.requests,
                row.lost,
                100.0 * row.hit_rate,
                1e3 * row.first_token[0],
                1e3 * row.first_token[1],
                row.whole[0],
                row.whole[1],
                row.unevenness,
                node
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_list() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (100.0, 198.0));
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn every_request_is_accounted_for_and_a_run_repeats() {
        let bench = PlacementBench { nodes: 8, rate: 20.0, seconds: 60.0, instructions: 50, seed: 3 };
        let traffic = Traffic { rate: 20.0, seconds: 60.0, instructions: 50, hot: 0.0, seed: 3 };
        let talks = traffic.conversations();
        let asked: usize = talks.iter().map(|talk| talk.turns.len()).sum();
        let run = || {
            let mut policy = Usual::new(Rule::LeastLoaded);
            Fleet::new(8, Speed::default(), &talks, &mut policy).run(None)
        };
        let (one, two) = (run(), run());
        assert_eq!(one, two);
        assert_eq!(one.outcomes.len(), asked);
        assert!(one.outcomes.iter().all(|outcome| outcome.first_token <= outcome.whole && outcome.whole.is_some()));
        let died = {
            let mut policy = Usual::new(Rule::RoundRobin);
            let incident = Incident::Dies { node: 3, at: 30.0, back: 50.0 };
            Fleet::new(8, Speed::default(), &talks, &mut policy).run(Some(incident))
        };
        let cut = died.outcomes.iter().filter(|outcome| outcome.whole.is_none()).count();
        assert!(cut > 0 && cut < 40, "{cut} were cut as the node died");
        let there = |from, to| {
            died.outcomes.iter().filter(move |it| it.node == 3 && (from..to).contains(&it.came) && it.whole.is_some())
        };
        assert_eq!(there(30.0, 50.0).count(), 0);
        assert!(there(56.0, 70.0).count() > 0);
        assert!(bench.check().is_ok() && PlacementBench { nodes: 1, ..bench }.check().is_err());
    }
}
