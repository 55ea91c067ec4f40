//! What one commit changes: keys and their new values, in absolute terms, so that applying it twice is applying it once.
//!
//! Each pair carries a checksum of its own, so that damage to a commit costs the pairs it hit and no others.

/// A key and its new value; `None` removes it.
pub type Op = (Vec<u8>, Option<Vec<u8>>);

/// Length that stands for "removed" where a value's length would be.
const REMOVED: u32 = u32::MAX;
const OP_HEAD: usize = 12;
/// Longer than any key: names have at most 128 bytes, and a key holds two. What claims more is not a pair.
const MAX_KEY: usize = 1024;

/// Bytes of `ops` in a file: `{crc32, key length, value length, key, value}` each, little endian; the checksum covers what
/// follows it.
pub fn encode(ops: &[Op]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(encoded_len(ops));
    for (key, value) in ops {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&length(key.len()).to_le_bytes());
        bytes.extend_from_slice(&value.as_ref().map_or(REMOVED, |value| length(value.len())).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
        let crc = crc32fast::hash(&bytes[start + 4..]);
        bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

/// Bytes that [`encode`] makes.
pub fn encoded_len(ops: &[Op]) -> usize {
    ops.iter().map(|(key, value)| OP_HEAD + key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

/// Reads what [`encode`] wrote; `None` if the bytes are not that.
pub fn decode(bytes: &[u8]) -> Option<Vec<Op>> {
    let (mut ops, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (op, end) = op_at(bytes, at)?;
        ops.push(op);
        at = end;
    }
    Some(ops)
}

/// Every whole pair in `bytes`, which were damaged, in order.
pub fn salvage(bytes: &[u8]) -> Vec<Op> {
    let (mut ops, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match op_at(bytes, at) {
            Some((op, end)) => {
                ops.push(op);
                at = end;
            }
            None => at += 1,
        }
    }
    ops
}

/// The pair that begins at `at`, and where it ends.
fn op_at(bytes: &[u8], at: usize) -> Option<(Op, usize)> {
    let head = bytes.get(at..at + OP_HEAD)?;
    let key_len = word(head, 4) as usize;
    let removed = word(head, 8) == REMOVED;
    let value_len = if removed { 0 } else { word(head, 8) as usize };
    let key_end = at + OP_HEAD + Some(key_len).filter(|&len| len <= MAX_KEY)?;
    let end = key_end.checked_add(value_len)?;
    if crc32fast::hash(bytes.get(at + 4..end)?) != word(head, 0) {
        return None;
    }
    let value = (!removed).then(|| bytes[key_end..end].to_vec());
    Some(((bytes[at + OP_HEAD..key_end].to_vec(), value), end))
}

/// The little-endian word at `at`, which is there.
fn word(head: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// Lengths fit in 32 bits because commits are cut long before (see `MAX_COMMIT` of the writer).
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(REMOVED - 1)
}
