//! Which of several nodes that serve a model takes a request.
//!
//! A node that computed a prompt keeps its KV, so a conversation is best answered where it was answered before, and one
//! that shares its instructions with others where those are. A key of the prompt's beginning ([`PrefixKey`]) finds the
//! nodes on a [`Ring`]; how many nodes share a beginning follows how much of the traffic it is ([`Heat`]); no node takes more than
//! its part of the load, whatever the keys say ([`Bound`]). Requests without such a beginning go to the less busy of two nodes.
//! A node that fails or lags is left alone for a while ([`outlier`]), and one that is new or back begins with a small part.
//!
//! Time and randomness come from the caller: the same calls give the same choices, in a simulation too.

mod choice;
mod heat;
pub mod outlier;
mod prefix;
mod ring;
pub mod simulated;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use choice::Bound;
use choice::{Seat, Seats};
pub use heat::Heat;
use outlier::Record;
pub use outlier::{OutlierSettings, Standing};
pub use prefix::PrefixKey;
pub use ring::Ring;

/// A head has this many times the nodes that its load needs: nodes have other heads too, and one that is full sends
/// conversations away. Simulated, 2 finds most in caches; 1 and 3 less.
const SPARE: f64 = 2.0;

/// How nodes are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementSettings {
    /// Points of a node on the ring.
    pub points: usize,
    /// How much a node may have when a conversation begins there.
    pub bound: Bound,
    /// The bound's factor for one that goes on: more, for going elsewhere means to compute all of it again. Beginnings keep
    /// the load even, so this is seldom used up (`benches/placement`).
    pub going_on_factor: f64,
    /// A head's share of the traffic counts half after this long.
    pub heat_half_life: Duration,
    /// When a node is left alone, and how it comes back.
    pub outlier: OutlierSettings,
}

impl Default for PlacementSettings {
    fn default() -> Self {
        Self {
            points: 128,
            bound: Bound { factor: 1.25, comfortable: 4 },
            going_on_factor: 2.0,
            heat_half_life: Duration::from_secs(60),
            outlier: OutlierSettings::default(),
        }
    }
}

/// The nodes, their loads and what is known of them.
#[derive(Debug)]
pub struct Placement {
    settings: PlacementSettings,
    // One lock: to choose and to count the request must be one step, or two requests take the last place of a node. Nothing
    // waits while it is held, and a request that ends does not take it.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    ring: Ring,
    heat: Heat,
    /// Requests in all, smoothed over about the last 256 choices.
    usual_load: f64,
    seats: Vec<Seat>,
    members: Vec<usize>,
}

#[derive(Debug)]
struct Node {
    name: Arc<str>,
    salt: u64,
    /// Shared with the requests that run there; also what tells this node from a later one of its name.
    in_flight: Arc<AtomicUsize>,
    /// Requests it said it had, those of other routers too.
    reported: usize,
    record: Record,
}

/// One node, for people and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// Its name.
    pub name: Arc<str>,
    /// Requests that this router has there.
    pub in_flight: usize,
    /// Requests that the node itself said it had.
    pub reported: usize,
    /// What it is given.
    pub standing: Standing,
    /// Typical seconds to the first token, once enough answers came.
    pub first_token_s: Option<f64>,
}

impl Placement {
    /// No nodes yet.
    pub fn new(settings: PlacementSettings) -> Arc<Self> {
        let state = State {
            nodes: Vec::new(),
            ring: Ring::default(),
            heat: Heat::new(settings.heat_half_life),
            usual_load: 0.0,
            seats: Vec::new(),
            members: Vec::new(),
        };
        Arc::new(Self { settings, state: Mutex::new(state) })
    }

    /// The nodes there are from now on. Who stays keeps what is known of it; who comes later than the first call begins cold.
    pub fn set_nodes<'a>(&self, names: impl IntoIterator<Item = &'a str>, now: Instant) {
        let mut state = self.lock();
        let mut old = std::mem::take(&mut state.nodes);
        let first = old.is_empty();
        for name in names {
            if state.nodes.iter().any(|node| &*node.name == name) {
                continue;
            }
            let node = match old.iter().position(|node| &*node.name == name) {
                Some(at) => old.swap_remove(at),
                None => Node::new(name, if first { Record::default() } else { Record::cold(now) }),
            };
            state.nodes.push(node);
        }
        let ring = Ring::new(state.nodes.iter().map(|node| &*node.name), self.settings.points);
        state.ring = ring;
    }

    /// Chooses a node of those that `may` have the request, and counts it there until the answer is dropped.
    ///
    /// Where none of them is well, all are asked: never nobody. `draw` is 64 random bits. `None`: there is no such node.
    pub fn choose(
        self: &Arc<Self>,
        key: Option<PrefixKey>,
        may: impl Fn(&str) -> bool,
        draw: u64,
        now: Instant,
    ) -> Option<Placed> {
        let mut state = self.lock();
        let node = state.choose(&self.settings, key, may, draw, now)?;
        let node = &state.nodes[node];
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Placed {
            placement: Arc::clone(self),
            name: Arc::clone(&node.name),
            in_flight: Arc::clone(&node.in_flight),
        })
    }

    /// What the health check of a node found; a node that was down comes back by slow start.
    pub fn checked(&self, name: &str, healthy: bool, now: Instant) {
        if let Some(node) = self.lock().nodes.iter_mut().find(|node| &*node.name == name) {
            node.record.checked(healthy, now);
        }
    }

    /// How many requests a node says it has, running and waiting, whoever sent them.
    pub fn reported(&self, name: &str, requests: usize) {
        if let Some(node) = self.lock().nodes.iter_mut().find(|node| &*node.name == name) {
            node.reported = requests;
        }
    }

    /// All nodes as they stand.
    pub fn nodes(&self, now: Instant) -> Vec<NodeState> {
        let outlier = &self.settings.outlier;
        let state = self.lock();
        let shown = state.nodes.iter().map(|node| NodeState {
            name: Arc::clone(&node.name),
            in_flight: node.in_flight.load(Ordering::Relaxed),
            reported: node.reported,
            standing: node.record.standing(outlier, now),
            first_token_s: node.record.latency(outlier),
        });
        shown.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    fn new(name: &str, record: Record) -> Self {
        let salt = ring::place_of(name);
        Self { name: name.into(), salt, in_flight: Arc::default(), reported: 0, record }
    }

    fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed).max(self.reported)
    }
}

impl State {
    fn choose(
        &mut self,
        settings: &PlacementSettings,
        key: Option<PrefixKey>,
        may: impl Fn(&str) -> bool,
        draw: u64,
        now: Instant,
    ) -> Option<usize> {
        self.seats.clear();
        self.seats.extend(self.nodes.iter().map(|node| {
            let weight = if may(&node.name) { node.record.standing(&settings.outlier, now).weight() } else { 0.0 };
            Seat { load: node.load(), weight, salt: node.salt }
        }));
        if self.seats.iter().all(|seat| seat.weight <= 0.0) {
            for (seat, node) in self.seats.iter_mut().zip(&self.nodes) {
                seat.weight = if may(&node.name) { 1.0 } else { 0.0 };
            }
        }
        let factor = match key {
            Some(key) if key.going_on => settings.bound.factor.max(settings.going_on_factor),
            _ => settings.bound.factor,
        };
        let bound = Bound { factor, ..settings.bound };
        let seats = Seats::new(&self.seats, bound);
        let load: usize = self.seats.iter().map(|seat| seat.load).sum();
        self.usual_load += (load as f64 - self.usual_load) / 256.0;
        let Some(key) = key else {
            return seats.by_two_choices(draw);
        };
        self.heat.add(key.head, now);
        // So many nodes as carry the head's part of the load at the mean, or at what is no burden.
        let nodes = self.seats.iter().filter(|seat| seat.weight > 0.0).count();
        let each = (self.usual_load / nodes.max(1) as f64).max(settings.bound.comfortable.max(1) as f64);
        let share = self.heat.share(key.head, 4.0 * nodes as f32);
        let spread = (SPARE * share * self.usual_load / each).ceil() as usize;
        seats.by_prefix(&self.ring, key, spread.clamp(1, nodes.max(1)), &mut self.members)
    }

    /// Ejects a node if it is an outlier and others are left.
    fn judge(&mut self, settings: &OutlierSettings, at: usize, now: Instant) {
        let peers = median(self.nodes.iter().enumerate().filter(|&(node, _)| node != at).filter_map(|(_, node)| {
            let warm = node.record.standing(settings, now) == Standing::Warm;
            node.record.latency(settings).filter(|_| warm)
        }));
        if !self.nodes[at].record.is_outlier(settings, peers) {
            return;
        }
        let ejected =
            self.nodes.iter().filter(|node| matches!(node.record.standing(settings, now), Standing::Ejected(_)));
        let most = ((self.nodes.len() as f64 * settings.most_ejected) as usize).max(1);
        if ejected.count() < most {
            self.nodes[at].record.eject(settings, now);
        }
    }
}

/// The middle value, of three or more: of fewer none is usual.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    if values.len() < 3 {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(values[values.len() / 2])
}

/// A request at a node. Dropping it says that it has ended; it counts for or against the node only by what is told of it.
#[derive(Debug)]
pub struct Placed {
    placement: Arc<Placement>,
    name: Arc<str>,
    in_flight: Arc<AtomicUsize>,
}

impl Placed {
    /// The node's name.
    pub fn node(&self) -> &str {
        &self.name
    }

    /// The answer began after `first_token`.
    pub fn answered(&self, first_token: Duration, now: Instant) {
        self.tell(now, |record, standing| record.answered(first_token, standing));
    }

    /// The request failed by the node's fault.
    pub fn failed(&self, now: Instant) {
        self.tell(now, |record, _| record.failed());
    }

    fn tell(&self, now: Instant, told: impl FnOnce(&mut Record, Standing)) {
        let settings = &self.placement.settings.outlier;
        let mut state = self.placement.lock();
        // A node that left since, or came again under its name, is another one.
        let Some(at) = state.nodes.iter().position(|node| Arc::ptr_eq(&node.in_flight, &self.in_flight)) else {
            return;
        };
        let standing = state.nodes[at].record.standing(settings, now);
        if matches!(standing, Standing::Ejected(_) | Standing::Down) {
            // What was sent before it was left alone says nothing of how it will be.
            return;
        }
        told(&mut state.nodes[at].record, standing);
        state.judge(settings, at, now);
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
