//! A ring of points: which node a key belongs to, stable as nodes come and go.

use sha2::{Digest, Sha256};

/// Each node has some points on a circle of 64-bit numbers; a key belongs to the node of the next point.
///
/// Points come from the node's name alone, so every router with the same nodes sends a key to the same one, and a node that
/// comes or goes moves only the keys next to its points: about one in so many as there are nodes.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    /// Place and node, in order of place.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// A ring of these nodes, numbered as they come. Shares of the circle differ by about one part in the root of `points_each`.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, points_each: usize) -> Self {
        let mut points = Vec::new();
        for (node, name) in (0u32..).zip(names) {
            points.extend(places(name).take(points_each.max(1)).map(|place| (place, node)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// The nodes from the key's place on, once round; a node comes as often as it has points.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.points.partition_point(|&(place, _)| place < key);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|&(_, node)| node as usize)
    }
}

/// The places of a node: a digest is four of them.
fn places(name: &str) -> impl Iterator<Item = u64> + '_ {
    (0u32..).flat_map(move |round| {
        let digest = Sha256::new().chain_update(round.to_le_bytes()).chain_update(name).finalize();
        let mut places = [0u64; 4];
        for (place, bytes) in places.iter_mut().zip(digest.chunks_exact(8)) {
            *place = bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        }
        places
    })
}

/// One number of a name.
pub(super) fn place_of(name: &str) -> u64 {
    places(name).next().unwrap_or_default()
}

/// Two numbers mixed into one whose bits all depend on all of theirs (the finaliser of splitmix64).
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: u64 = 20_000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|node| format!("node-{node}")).collect()
    }

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(String::as_str), 128)
    }

    fn owner(ring: &Ring, key: u64) -> usize {
        ring.walk(mix(key, 1)).next().expect("a ring with nodes")
    }

    #[test]
    fn every_node_has_about_its_share() {
        let ring = ring(&names(16));
        let mut owned = [0u64; 16];
        (0..KEYS).for_each(|key| owned[owner(&ring, key)] += 1);
        let mean = KEYS / 16;
        assert!(owned.iter().all(|&keys| keys > mean * 6 / 10 && keys < mean * 14 / 10), "{owned:?}");
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        assert_eq!(Ring::default().walk(7).next(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The walk meets every node, and starts at the same one whatever order the names came in.
        #[test]
        fn a_walk_goes_round(count in 1usize..40, key: u64, turn in 0usize..40) {
            let names = names(count);
            let mut turned = names.clone();
            turned.rotate_left(turn % count);
            let met: std::collections::HashSet<usize> = ring(&names).walk(key).collect();
            prop_assert_eq!(met.len(), count);
            let first = ring(&names).walk(key).next().expect("a node");
            let other = ring(&turned).walk(key).next().expect("a node");
            prop_assert_eq!(&names[first], &turned[other]);
        }

        /// A node that goes moves its own keys and no others; about one in `count`, at most twice that.
        #[test]
        fn only_the_keys_of_a_node_that_goes_move(count in 2usize..64, gone in 0usize..64) {
            let gone = gone % count;
            let before = names(count);
            let mut after = before.clone();
            after.remove(gone);
            let (full, less) = (ring(&before), ring(&after));
            let mut moved = 0;
            for key in 0..KEYS {
                let (was, is) = (owner(&full, key), owner(&less, key));
                if before[was] != after[is] {
                    prop_assert_eq!(was, gone, "the key of another node moved");
                    moved += 1;
                }
            }
            prop_assert!(moved as f64 <= 2.0 * KEYS as f64 / count as f64, "{moved} of {KEYS} keys, {count} nodes");
        }
    }
}
