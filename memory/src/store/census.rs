//! How many records a store holds, by its own counts: what a repair measures its loss by.

use super::batch::Op;
use super::fault::Fault;
use super::tree::Tree;
use super::{keys, value};

/// Records that the tree's counts say are in it.
///
/// # Errors
/// [`Fault::Corrupt`] for a count that fails its checksum.
pub fn total(tree: &Tree) -> Result<u64, Fault> {
    let mut total = 0_u64;
    for pair in tree.scan(keys::COUNTS, &[]) {
        let (key, sealed) = pair?;
        let count: u64 = value::unseal_json(&key, &sealed).ok_or_else(|| tree.damaged(&key))?;
        total = total.saturating_add(count);
    }
    Ok(total)
}

/// Records there will be once `ops` are in `tree`, which holds `total` now.
pub fn after(total: u64, tree: &Tree, ops: &[Op]) -> Result<u64, Fault> {
    let counts = ops.iter().filter(|(key, _)| key.starts_with(keys::COUNTS));
    counts.into_iter().try_fold(total, |total, (key, sealed)| {
        let read = |sealed: &[u8]| value::unseal_json::<u64>(key, sealed).unwrap_or(0);
        let before = tree.get(key)?.map_or(0, |sealed| read(&sealed));
        Ok((total + sealed.as_deref().map_or(0, read)).saturating_sub(before))
    })
}

/// Records that are in the tree, counted one by one.
pub fn counted(tree: &Tree) -> Result<u64, Fault> {
    tree.scan(keys::RECORDS, &[]).try_fold(0, |count, pair| pair.map(|_| count + 1))
}
