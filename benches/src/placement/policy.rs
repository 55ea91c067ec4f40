//! Who chooses the node: the interface, and what others do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

/// A request that wants a node.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Which it is, the same at each attempt.
    pub id: u64,
    /// Its body.
    pub body: &'a Map<String, Value>,
    /// What its conversation is called.
    pub conversation: u64,
    /// Nodes that failed it already.
    pub tried: &'a [usize],
    /// Random bits.
    pub draw: u64,
}

/// Chooses nodes, and hears how it went. Nodes are numbers.
pub trait Policy {
    /// The nodes there are from now on.
    fn set_nodes(&mut self, nodes: &[usize], now: Instant);
    /// The node for a request; none that was tried, while there is another.
    fn choose(&mut self, asked: &Asked<'_>, now: Instant) -> usize;
    /// The request's answer has begun, so long after it was sent to the node.
    fn first_token(&mut self, id: u64, took: Duration, now: Instant);
    /// The request failed at its node.
    fn failed(&mut self, id: u64, now: Instant);
    /// The request is no longer at its node, however it went.
    fn ended(&mut self, id: u64);
    /// What the health check of a node found.
    fn checked(&mut self, node: usize, healthy: bool, now: Instant);
}

/// What others do: they know which nodes answer health checks, and how many requests each has.
#[derive(Debug)]
pub struct Usual {
    rule: Rule,
    nodes: Vec<usize>,
    unhealthy: Vec<usize>,
    placed: HashMap<u64, usize>,
    loads: HashMap<usize, usize>,
    turn: usize,
}

/// By which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests; of equals the next one round.
    LeastLoaded,
    /// By the conversation's hash alone (rendezvous: highest random weight).
    ConsistentHash,
}

impl Rule {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::RoundRobin, "round robin"),
        (Self::LeastLoaded, "least loaded"),
        (Self::ConsistentHash, "consistent hash"),
    ];
}

impl Usual {
    /// No nodes yet.
    pub fn new(rule: Rule) -> Self {
        Self { rule, nodes: Vec::new(), unhealthy: Vec::new(), placed: HashMap::new(), loads: HashMap::new(), turn: 0 }
    }

    fn load(&self, node: usize) -> usize {
        self.loads.get(&node).copied().unwrap_or(0)
    }

    fn open(&self, tried: &[usize]) -> Vec<usize> {
        let well = |node: &usize| !self.unhealthy.contains(node);
        let open: Vec<usize> = self.nodes.iter().copied().filter(|node| well(node) && !tried.contains(node)).collect();
        if open.is_empty() { self.nodes.clone() } else { open }
    }
}

impl Policy for Usual {
    fn set_nodes(&mut self, nodes: &[usize], _: Instant) {
        self.nodes = nodes.to_vec();
    }

    fn choose(&mut self, asked: &Asked<'_>, _: Instant) -> usize {
        let mut open = self.open(asked.tried);
        self.turn += 1;
        let start = self.turn % open.len();
        open.rotate_left(start);
        let node = match self.rule {
            Rule::RoundRobin => open[0],
            Rule::LeastLoaded => open.iter().copied().min_by_key(|&node| self.load(node)).unwrap_or(open[0]),
            Rule::ConsistentHash => {
                open.iter().copied().max_by_key(|&node| mix(asked.conversation, node as u64)).unwrap_or(open[0])
            }
        };
        self.placed.insert(asked.id, node);
        *self.loads.entry(node).or_default() += 1;
        node
    }

    fn first_token(&mut self, _: u64, _: Duration, _: Instant) {}

    fn failed(&mut self, _: u64, _: Instant) {}

    fn ended(&mut self, id: u64) {
        if let Some(load) = self.placed.remove(&id).and_then(|node| self.loads.get_mut(&node)) {
            *load -= 1;
        }
    }

    fn checked(&mut self, node: usize, healthy: bool, _: Instant) {
        self.unhealthy.retain(|&other| other != node);
        if !healthy {
            self.unhealthy.push(node);
        }
    }
}

/// The finaliser of splitmix64 over two numbers.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ b.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(policy: &mut Usual, id: u64, conversation: u64, tried: &[usize]) -> usize {
        let body = Map::new();
        policy.choose(&Asked { id, body: &body, conversation, tried, draw: 0 }, Instant::now())
    }

    #[test]
    fn each_rule_does_what_it_says() {
        let now = Instant::now();
        for (rule, _) in Rule::ALL {
            let mut policy = Usual::new(rule);
            policy.set_nodes(&[0, 1, 2, 3], now);
            let first: Vec<usize> = (0..4).map(|id| choose(&mut policy, id, 9, &[])).collect();
            let mut sorted = first.clone();
            sorted.sort_unstable();
            match rule {
                Rule::ConsistentHash => assert!(first.iter().all(|node| *node == first[0])),
                Rule::RoundRobin | Rule::LeastLoaded => assert_eq!(sorted, [0, 1, 2, 3]),
            }
            policy.ended(2);
            if rule == Rule::LeastLoaded {
                assert_eq!(choose(&mut policy, 5, 9, &[]), first[2]);
            }
            policy.checked(1, false, now);
            policy.checked(2, false, now);
            assert!((10..30).all(|id| choose(&mut policy, id, id, &[0]) == 3));
            policy.checked(2, true, now);
            assert!((30..90).any(|id| choose(&mut policy, id, id, &[0]) == 2));
        }
    }
}
