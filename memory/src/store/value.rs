//! Values with a checksum over key and bytes: what is read is what was written, and under this key.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Seals `bytes` for `key`: four bytes of crc32, then the bytes.
pub fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + bytes.len());
    value.extend_from_slice(&checksum(key, bytes).to_le_bytes());
    value.extend_from_slice(bytes);
    value
}

/// The bytes that were sealed; `None` if key or bytes are not those.
pub fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, bytes) = value.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == checksum(key, bytes)).then_some(bytes)
}

/// A value as sealed JSON.
pub fn seal_json<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    // Our own types have string keys only and no failing `Serialize`, so this does not fail; an empty value would be
    // named as damage when it is read.
    seal(key, &serde_json::to_vec(value).unwrap_or_default())
}

/// Reads [`seal_json`].
pub fn unseal_json<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Option<T> {
    serde_json::from_slice(unseal(key, value)?).ok()
}

/// A vector as sealed little-endian f32.
pub fn seal_vector(key: &[u8], vector: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    seal(key, &bytes)
}

/// Reads [`seal_vector`].
pub fn unseal_vector(key: &[u8], value: &[u8]) -> Option<Vec<f32>> {
    let (floats, rest) = unseal(key, value)?.as_chunks::<4>();
    rest.is_empty().then(|| floats.iter().map(|x| f32::from_le_bytes(*x)).collect())
}

fn checksum(key: &[u8], bytes: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(key);
    hash.update(bytes);
    hash.finalize()
}
