//! Where things lie in the tree: one letter, then fixed-width big-endian fields, so that a prefix is a range.

use crate::record::RecordId;
use crate::scope::Partition;

/// A partition's short number in keys; never reused.
pub type PartitionId = u32;

/// Which set of vectors: two exist while records are embedded anew.
pub type Slot = u8;

/// `m applied`: number of the last commit that is in the tree.
pub const APPLIED: &[u8] = b"mapplied";
/// `m format`: version of this layout.
pub const FORMAT: &[u8] = b"mformat";
/// `m encoder`: whose vectors are searched.
pub const ENCODER: &[u8] = b"mencoder";
/// `m reembed`: whose vectors are being made beside them.
pub const REEMBED: &[u8] = b"mreembed";
/// `m partition`: the next free partition number.
pub const NEXT_PARTITION: &[u8] = b"mpartition";
/// `m purge`: the tree's files still hold something that was removed for good; a copy leaves this key out.
pub const PURGE: &[u8] = b"mpurge";
/// Records as they stand, of all partitions.
pub const RECORDS: &[u8] = b"r";
/// Superseded versions, of all partitions.
pub const HISTORY: &[u8] = b"h";
/// Vectors of superseded versions, of all partitions.
pub const VERSION_VECTORS: &[u8] = b"x";
/// Numbers of live records, by partition and kind.
pub const COUNTS: &[u8] = b"n";
/// The queue of expiry, soonest first.
pub const EXPIRY: &[u8] = b"e";
/// Partition names by number.
pub const PARTITIONS: &[u8] = b"p";

/// `p number`: the partition's names.
pub fn partition(id: PartitionId) -> Vec<u8> {
    join(b'p', &[&id.to_be_bytes()])
}

/// `P tenant 0 domain`: the partition's number. Names hold no control characters, so 0 separates.
pub fn partition_name(partition: &Partition) -> Vec<u8> {
    join(b'P', &[partition.tenant.as_str().as_bytes(), &[0], partition.domain.as_str().as_bytes()])
}

/// `P tenant 0`: all of a tenant's partitions.
pub fn tenant(tenant: &str) -> Vec<u8> {
    join(b'P', &[tenant.as_bytes(), &[0]])
}

/// `r partition id`: a record as it stands.
pub fn record(partition: PartitionId, id: RecordId) -> Vec<u8> {
    join(b'r', &[&partition.to_be_bytes(), &id.0.to_be_bytes()])
}

/// `h partition id version`: a superseded version.
pub fn version(partition: PartitionId, id: RecordId, version: u32) -> Vec<u8> {
    join(b'h', &[&partition.to_be_bytes(), &id.0.to_be_bytes(), &version.to_be_bytes()])
}

/// `x partition id version`: the vector of a superseded version.
pub fn version_vector(partition: PartitionId, id: RecordId, version: u32) -> Vec<u8> {
    join(b'x', &[&partition.to_be_bytes(), &id.0.to_be_bytes(), &version.to_be_bytes()])
}

/// All of one record under `h` (versions) or `x` (their vectors).
pub fn versions(letter: u8, partition: PartitionId, id: RecordId) -> Vec<u8> {
    join(letter, &[&partition.to_be_bytes(), &id.0.to_be_bytes()])
}

/// `c partition hash`: which record holds this content in this scope and kind; the hash is [`RecordId::of`] with salt 0.
pub fn content(partition: PartitionId, hash: RecordId) -> Vec<u8> {
    join(b'c', &[&partition.to_be_bytes(), &hash.0.to_be_bytes()])
}

/// `e milliseconds partition id`: a record that expires.
pub fn expiry(at: u64, partition: PartitionId, id: RecordId) -> Vec<u8> {
    join(b'e', &[&at.to_be_bytes(), &partition.to_be_bytes(), &id.0.to_be_bytes()])
}

/// `v slot partition id`: a vector.
pub fn vector(slot: Slot, partition: PartitionId, id: RecordId) -> Vec<u8> {
    join(b'v', &[&[slot], &partition.to_be_bytes(), &id.0.to_be_bytes()])
}

/// `n partition kind`: how many live records.
pub fn count(partition: PartitionId, kind: &str) -> Vec<u8> {
    join(b'n', &[&partition.to_be_bytes(), kind.as_bytes()])
}

/// Everything of one partition under one letter.
pub fn all(letter: u8, partition: PartitionId) -> Vec<u8> {
    join(letter, &[&partition.to_be_bytes()])
}

/// All vectors of one partition in one slot.
pub fn all_vectors(slot: Slot, partition: PartitionId) -> Vec<u8> {
    join(b'v', &[&[slot], &partition.to_be_bytes()])
}

/// Partition and record of a key of records, history or content.
pub fn parse_id(key: &[u8]) -> Option<(PartitionId, RecordId)> {
    let (partition, rest) = key.get(1..)?.split_first_chunk::<4>()?;
    let (id, _) = rest.split_first_chunk::<16>()?;
    Some((u32::from_be_bytes(*partition), RecordId(u128::from_be_bytes(*id))))
}

/// Slot, partition and record of a vector's key.
pub fn parse_vector(key: &[u8]) -> Option<(Slot, PartitionId, RecordId)> {
    let slot = *key.get(1)?;
    parse_id(key.get(1..)?).map(|(partition, id)| (slot, partition, id))
}

/// Time, partition and record of a key of the queue of expiry.
pub fn parse_expiry(key: &[u8]) -> Option<(u64, PartitionId, RecordId)> {
    let (at, _) = key.get(1..)?.split_first_chunk::<8>()?;
    parse_id(key.get(8..)?).map(|(partition, id)| (u64::from_be_bytes(*at), partition, id))
}

fn join(letter: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![letter];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}
