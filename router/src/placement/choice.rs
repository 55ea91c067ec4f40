//! Which of the nodes takes a request: by its prefix on the ring with bounded load, else the less busy of two.

use super::prefix::PrefixKey;
use super::ring::{Ring, mix};

/// What the choice knows of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seat {
    /// Requests it has.
    pub load: usize,
    /// The part of a full share it may have, 0 to 1; at 0 it gets nothing.
    pub weight: f64,
    /// What of the node's name the ranking goes by.
    pub salt: u64,
}

/// How much any node may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Times the mean load, 1 or more.
    pub factor: f64,
    /// So many requests are no burden, whatever the mean.
    pub comfortable: usize,
}

impl Bound {
    /// Most requests of a node of this weight when one more comes to `total`.
    ///
    /// Limits of all nodes add up to more than what there is, so there is always one with room.
    pub fn limit(self, weight: f64, total: usize, weights: f64) -> usize {
        if weight <= 0.0 {
            return 0;
        }
        let fair = self.factor.max(1.0) * (total + 1) as f64 * weight / weights;
        // Rounding up keeps the sum; a warming node's comfort is as small as its weight.
        (fair.ceil() as usize).max((self.comfortable as f64 * weight).ceil() as usize)
    }
}

/// All seats, with what they add up to.
#[derive(Debug)]
pub struct Seats<'a> {
    seats: &'a [Seat],
    bound: Bound,
    total: usize,
    weights: f64,
}

impl<'a> Seats<'a> {
    /// Seats with weight 0 do not count.
    pub fn new(seats: &'a [Seat], bound: Bound) -> Self {
        let taking = || seats.iter().filter(|seat| seat.weight > 0.0);
        Self {
            seats,
            bound,
            total: taking().map(|seat| seat.load).sum(),
            weights: taking().map(|seat| seat.weight).sum(),
        }
    }

    /// Whether the node may have one more.
    pub fn has_room(&self, node: usize) -> bool {
        self.seats.get(node).is_some_and(|seat| seat.load < self.bound.limit(seat.weight, self.total, self.weights))
    }

    /// The node for a prefix.
    ///
    /// A head belongs to the next `spread` nodes on the ring, and a conversation to one of these, by rendezvous: when the
    /// spread changes by one, one in so many conversations moves. A full node's requests go to the next in the
    /// conversation's own order, and then on round the ring. `members` is room to work in.
    pub fn by_prefix(&self, ring: &Ring, key: PrefixKey, spread: usize, members: &mut Vec<usize>) -> Option<usize> {
        members.clear();
        for node in ring.walk(key.head) {
            if members.len() >= spread.max(1) {
                break;
            }
            if self.seats.get(node).is_some_and(|seat| seat.weight > 0.0) && !members.contains(&node) {
                members.push(node);
            }
        }
        members.sort_unstable_by_key(|&node| std::cmp::Reverse(mix(self.seats[node].salt, key.conversation)));
        members.iter().copied().chain(ring.walk(key.head)).find(|&node| self.has_room(node))
    }

    /// The less busy of two drawn at random, for its weight. Of the draw's 64 bits each node takes a half.
    pub fn by_two_choices(&self, draw: u64) -> Option<usize> {
        let open: Vec<usize> = (0..self.seats.len()).filter(|&node| self.has_room(node)).collect();
        let count = open.len() as u64;
        if count == 0 {
            return None;
        }
        let first = (draw >> 32) % count;
        // The second is another one, where there is another.
        let second = if count > 1 { (first + 1 + (draw & 0xFFFF_FFFF) % (count - 1)) % count } else { first };
        let (a, b) = (open[first as usize], open[second as usize]);
        let burden = |node: usize| (self.seats[node].load + 1) as f64 / self.seats[node].weight;
        Some(if burden(b) < burden(a) { b } else { a })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats(loads: &[(usize, f64)]) -> Vec<Seat> {
        (0..).zip(loads).map(|(salt, &(load, weight))| Seat { load, weight, salt: mix(salt, 9) }).collect()
    }

    fn ring(count: usize) -> Ring {
        let names: Vec<String> = (0..count).map(|node| format!("node-{node}")).collect();
        Ring::new(names.iter().map(String::as_str), 64)
    }

    fn key(head: u64, conversation: u64) -> PrefixKey {
        PrefixKey { head: mix(head, 3), conversation: mix(conversation, 4), going_on: false }
    }

    const BOUND: Bound = Bound { factor: 1.25, comfortable: 0 };

    #[test]
    fn of_two_the_less_busy_is_taken() {
        let seats = seats(&[(9, 1.0), (1, 1.0)]);
        for draw in [0, 1 << 32, u64::MAX] {
            assert_eq!(Seats::new(&seats, Bound { factor: 4.0, comfortable: 0 }).by_two_choices(draw), Some(1));
        }
    }

    #[test]
    fn two_choices_keep_the_longest_queue_short() {
        let mut seats = seats(&[(0, 1.0); 64]);
        let bound = Bound { factor: 100.0, comfortable: 0 };
        for step in 0..6400u64 {
            let node = Seats::new(&seats, bound).by_two_choices(mix(step, 5)).expect("a node");
            seats[node].load += 1;
        }
        // One choice would leave about 100 + 25 on the fullest.
        assert!(seats.iter().all(|seat| seat.load <= 104), "{seats:?}");
    }

    #[test]
    fn a_wider_head_moves_few_conversations() {
        let ring = ring(64);
        let seats = seats(&[(0, 1.0); 64]);
        let seats = Seats::new(&seats, Bound { factor: 1e9, comfortable: 0 });
        let mut members = Vec::new();
        let mut at = |spread, talk| seats.by_prefix(&ring, key(1, talk), spread, &mut members).expect("a node");
        let moved = (0..4000).filter(|&talk| at(7, talk) != at(8, talk)).count();
        assert!((400..600).contains(&moved), "{moved} of 4000 moved from 7 nodes to 8");
        let met: std::collections::HashSet<usize> = (0..4000).map(|talk| at(8, talk)).collect();
        assert_eq!(met.len(), 8);
    }

    proptest! {
        /// However loads and weights lie: somebody has room, gets the request, and is within the bound.
        #[test]
        fn the_bound_is_never_exceeded(
            loads in prop::collection::vec((0usize..200, prop_oneof![Just(0.0), Just(1.0), 0.05f64..1.0]), 1..40),
            head: u64, talk: u64, draw: u64, spread in 1usize..50, comfortable in 0usize..8,
        ) {
            let seats = seats(&loads);
            prop_assume!(seats.iter().any(|seat| seat.weight > 0.0));
            let bound = Bound { factor: 1.25, comfortable };
            let summed = Seats::new(&seats, bound);
            let mut members = Vec::new();
            let chosen = [
                summed.by_prefix(&ring(seats.len()), key(head, talk), spread, &mut members),
                summed.by_two_choices(draw),
            ];
            for node in chosen {
                let node = node.expect("a node with room");
                let seat = seats[node];
                prop_assert!(seat.weight > 0.0, "a node that takes nothing was chosen");
                prop_assert!(seat.load < bound.limit(seat.weight, summed.total, summed.weights));
            }
        }

        /// From empty nodes on, the fullest has at most the factor times the mean, rounded up.
        #[test]
        fn loads_stay_near_the_mean(count in 1usize..32, heads in 1u64..4, requests in 1usize..300, leave: u64) {
            let ring = ring(count);
            let mut seats = seats(&vec![(0, 1.0); count]);
            let mut placed = Vec::new();
            let mut members = Vec::new();
            for step in 0..requests as u64 {
                if mix(step, leave).is_multiple_of(3) && !placed.is_empty() {
                    let node: usize = placed.swap_remove(mix(leave, step) as usize % placed.len());
                    seats[node].load -= 1;
                }
                let key = key(step % heads, step % 7);
                let node = Seats::new(&seats, BOUND).by_prefix(&ring, key, 1, &mut members).expect("a node");
                seats[node].load += 1;
                placed.push(node);
                let most = (1.25 * placed.len() as f64 / count as f64).ceil() as usize;
                prop_assert!(seats[node].load <= most, "{} of at most {most}", seats[node].load);
            }
        }
    }
}
