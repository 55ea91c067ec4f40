//! What one commit changes: keys and their new values, in absolute terms, so that applying it twice is applying it once.

/// A key and its new value; `None` removes it.
pub type Op = (Vec<u8>, Option<Vec<u8>>);

/// Length that stands for "removed" where a value's length would be.
const REMOVED: u32 = u32::MAX;

/// Bytes of `ops` in the log: a count, then `{key length, value length, key, value}` each, little endian.
pub fn encode(ops: &[Op]) -> Vec<u8> {
    let size = ops.iter().map(|(key, value)| 8 + key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
    let mut bytes = Vec::with_capacity(4 + size);
    bytes.extend_from_slice(&length(ops.len()).to_le_bytes());
    for (key, value) in ops {
        bytes.extend_from_slice(&length(key.len()).to_le_bytes());
        bytes.extend_from_slice(&value.as_ref().map_or(REMOVED, |value| length(value.len())).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    bytes
}

/// Reads what [`encode`] wrote; `None` if the bytes are not that.
pub fn decode(bytes: &[u8]) -> Option<Vec<Op>> {
    let (count, mut rest) = word(bytes)?;
    let mut ops = Vec::new();
    for _ in 0..count {
        let (key_len, after) = word(rest)?;
        let (value_len, after) = word(after)?;
        let (key, after) = after.split_at_checked(key_len as usize)?;
        let value_bytes = if value_len == REMOVED { 0 } else { value_len as usize };
        let (value, after) = after.split_at_checked(value_bytes)?;
        ops.push((key.to_vec(), (value_len != REMOVED).then(|| value.to_vec())));
        rest = after;
    }
    rest.is_empty().then_some(ops)
}

/// The first little-endian word of `bytes`, and what follows it.
fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

/// Lengths fit in 32 bits because commits are cut long before (see `MAX_COMMIT` of the writer).
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(REMOVED - 1)
}
