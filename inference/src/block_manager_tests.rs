use proptest::prelude::*;

use super::*;

fn chain(tenant: u64, tokens: &[u32]) -> HashChain {
    let mut chain = HashChain::new(tenant, 4);
    chain.extend(tokens);
    chain
}

/// Computes `tokens` as one sequence would: prefix from the cache, the rest published.
fn compute(manager: &mut BlockManager, chain: &HashChain, tokens: usize) -> Option<(BlockTable, usize)> {
    let mut table = BlockTable::default();
    let taken = manager.take_prefix(&mut table, chain.hashes());
    if !manager.grow(&mut table, tokens) {
        manager.release(&mut table);
        return None;
    }
    for (position, hash) in chain.hashes().iter().enumerate().skip(taken) {
        manager.publish(&mut table, position, *hash);
    }
    Some((table, taken))
}

#[test]
fn a_prefix_is_found_again_and_only_by_its_tenant() {
    let mut manager = BlockManager::new(16, 4, true);
    let tokens: Vec<u32> = (0..11).collect();
    let (mut table, taken) = compute(&mut manager, &chain(1, &tokens), 11).unwrap();
    assert_eq!((taken, table.len()), (0, 3));
    manager.release(&mut table);
    assert_eq!(manager.counts(), BlockCounts { used: 0, cached: 2, free: 14, total: 16 });

    let (mut same, taken) = compute(&mut manager, &chain(1, &tokens), 11).unwrap();
    assert_eq!(taken, 2);
    let (mut other, taken) = compute(&mut manager, &chain(2, &tokens), 11).unwrap();
    assert_eq!(taken, 0, "another tenant sees nothing");
    manager.check(&[&same, &other]);
    manager.release(&mut same);
    manager.release(&mut other);
    assert_eq!(manager.drop_cache(), 4);
    assert_eq!(manager.counts().free, 16);
}

#[test]
fn a_block_computed_twice_is_kept_once() {
    let mut manager = BlockManager::new(8, 4, true);
    let hashes = chain(0, &[1, 2, 3, 4]);
    let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
    assert!(manager.grow(&mut a, 4) && manager.grow(&mut b, 4));
    assert_ne!(a.blocks(), b.blocks());
    manager.publish(&mut a, 0, hashes.hashes()[0]);
    manager.publish(&mut b, 0, hashes.hashes()[0]);
    assert_eq!(a.blocks(), b.blocks());
    manager.check(&[&a, &b]);
    assert_eq!(manager.counts().used, 1);
}

#[test]
fn eviction_takes_the_oldest_and_a_leaf_before_its_parent() {
    let mut manager = BlockManager::new(4, 4, true);
    let first = chain(0, &(0..8).collect::<Vec<_>>());
    let second = chain(0, &(100..108).collect::<Vec<_>>());
    for c in [&first, &second] {
        let (mut table, _) = compute(&mut manager, c, 8).unwrap();
        manager.release(&mut table);
    }
    let known = |m: &BlockManager| [&first, &second].map(|c| [m.knows(&c.hashes()[0]), m.knows(&c.hashes()[1])]);
    let mut table = BlockTable::default();
    for expected in [[[true, false], [true, true]], [[false, false], [true, true]], [[false, false], [true, false]]] {
        let tokens = (table.len() + 1) * 4;
        assert!(manager.grow(&mut table, tokens));
        assert_eq!(known(&manager), expected);
    }
    assert!(!manager.grow(&mut table, 100), "all or none");
    assert_eq!(table.len(), 3);
    assert_eq!(manager.evicted(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Few blocks, few distinct prefixes, any order of starting, growing, publishing and releasing:
    /// every block is in one state, references are exact, and no cached block lacks its parent.
    #[test]
    fn accounting_is_exact(ops in prop::collection::vec((0u8..4, 0usize..8, 0u32..3, 1usize..24), 1..120)) {
        let mut manager = BlockManager::new(12, 4, true);
        let mut live: Vec<(BlockTable, Vec<u32>, HashChain, usize)> = Vec::new();
        let mut all: Vec<HashChain> = Vec::new();
        for (op, pick, family, len) in ops {
            match op {
                0 => {
                    let tokens: Vec<u32> = (0..len as u32).map(|i| family * (i / 8) + i).collect();
                    let chain = chain(0, &tokens);
                    let mut table = BlockTable::default();
                    let taken = manager.take_prefix(&mut table, chain.hashes());
                    if manager.grow(&mut table, tokens.len()) {
                        live.push((table, tokens, chain.clone(), taken));
                    } else {
                        manager.release(&mut table);
                    }
                    all.push(chain);
                }
                1 if !live.is_empty() => {
                    let at = pick % live.len();
                    let (table, tokens, chain, published) = &mut live[at];
                    if *published == chain.hashes().len() && manager.grow(table, tokens.len() + 1) {
                        tokens.push(family);
                        chain.extend(tokens);
                        all.push(chain.clone());
                    }
                }
                2 if !live.is_empty() => {
                    let at = pick % live.len();
                    let (table, _, chain, published) = &mut live[at];
                    if *published < chain.hashes().len() {
                        manager.publish(table, *published, chain.hashes()[*published]);
                        *published += 1;
                    }
                }
                3 if !live.is_empty() => {
                    let at = pick % live.len();
                    let (mut table, ..) = live.swap_remove(at);
                    manager.release(&mut table);
                    prop_assert!(table.is_empty());
                }
                _ => {}
            }
            manager.check(&live.iter().map(|(table, ..)| table).collect::<Vec<_>>());
            for chain in &all {
                let known: Vec<bool> = chain.hashes().iter().map(|h| manager.knows(h)).collect();
                prop_assert!(known.windows(2).all(|w| w[0] || !w[1]), "a child outlived its parent: {known:?}");
            }
        }
        for (mut table, ..) in live {
            manager.release(&mut table);
        }
        manager.drop_cache();
        prop_assert_eq!(manager.counts(), BlockCounts { used: 0, cached: 0, free: 12, total: 12 });
    }
}
