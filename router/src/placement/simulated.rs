//! Our way of choosing nodes as a policy of the simulation in `benches`: the code that serves, under the simulation's clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_benches::placement::policy::{Asked, Policy};

use super::{Placed, Placement, PlacementSettings, PrefixKey};

/// A placement whose nodes are numbers.
#[derive(Debug)]
pub struct Simulated {
    placement: Arc<Placement>,
    placed: HashMap<u64, Placed>,
}

impl Simulated {
    /// No nodes yet.
    pub fn new(settings: PlacementSettings) -> Self {
        Self { placement: Placement::new(settings), placed: HashMap::new() }
    }
}

fn name(node: usize) -> String {
    format!("node-{node}")
}

fn number(name: &str) -> usize {
    // Names are made by `name` alone.
    name.trim_start_matches("node-").parse().unwrap_or_default()
}

impl Policy for Simulated {
    fn set_nodes(&mut self, nodes: &[usize], now: Instant) {
        let names: Vec<String> = nodes.iter().map(|&node| name(node)).collect();
        self.placement.set_nodes(names.iter().map(String::as_str), now);
    }

    fn choose(&mut self, asked: &Asked<'_>, now: Instant) -> usize {
        let key = PrefixKey::of_chat("simulated", "model", None, asked.body);
        let untried = |node: &str| !asked.tried.contains(&number(node));
        let placed = self.placement.choose(key, untried, asked.draw, now);
        let placed = placed.or_else(|| self.placement.choose(key, |_| true, asked.draw, now));
        let node = placed.as_ref().map_or(0, |placed| number(placed.node()));
        if let Some(placed) = placed {
            self.placed.insert(asked.id, placed);
        }
        node
    }

    fn first_token(&mut self, id: u64, took: Duration, now: Instant) {
        if let Some(placed) = self.placed.get(&id) {
            placed.answered(took, now);
        }
    }

    fn failed(&mut self, id: u64, now: Instant) {
        if let Some(placed) = self.placed.get(&id) {
            placed.failed(now);
        }
    }

    fn ended(&mut self, id: u64) {
        self.placed.remove(&id);
    }

    fn checked(&mut self, node: usize, healthy: bool, now: Instant) {
        self.placement.checked(&name(node), healthy, now);
    }
}
