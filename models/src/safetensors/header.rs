//! The header of one file: parsed without buffering, checked against the file.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::SafetensorsError;

/// Bytes of a header; those of the largest published shards are under 2 MiB.
const MAX_HEADER: u64 = 1 << 25;
/// Dimensions of a tensor.
const MAX_RANK: usize = 8;
/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// A tensor's description, checked against the file.
pub(super) struct TensorEntry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes in the file.
    pub(super) range: Range<usize>,
}

/// Reads and checks the header of a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<TensorEntry>, SafetensorsError> {
    let (len, rest) = bytes.split_first_chunk::<PREFIX>().ok_or(SafetensorsError::TooShort { len: bytes.len() })?;
    let (len, left) = (u64::from_le_bytes(*len), rest.len() as u64);
    if len > MAX_HEADER {
        return Err(SafetensorsError::HeaderTooLarge { len, limit: MAX_HEADER });
    }
    if len > left {
        return Err(SafetensorsError::HeaderTruncated { len, left });
    }
    let (header, data) = rest.split_at(len as usize);
    let data_start = PREFIX + header.len();
    let mut tensors = read_json(header)?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    check_ranges(&tensors, data.len())?;
    Ok(tensors
        .into_iter()
        .map(|(name, info)| TensorEntry {
            name,
            dtype: info.dtype,
            shape: info.shape,
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        })
        .collect())
}

/// The tensors of the JSON object, `__metadata__` left out, duplicates refused.
fn read_json(header: &[u8]) -> Result<Vec<(String, TensorInfo)>, SafetensorsError> {
    let bad = |reason: String| SafetensorsError::BadHeader { reason };
    let text = std::str::from_utf8(header).map_err(|error| bad(error.to_string()))?;
    let mut duplicate = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let tensors = json.deserialize_map(HeaderVisitor { duplicate: &mut duplicate });
    match (tensors, duplicate) {
        (_, Some(name)) => Err(SafetensorsError::DuplicateTensor { name }),
        (Ok(tensors), None) => json.end().map(|()| tensors).map_err(|error| bad(error.to_string())),
        (Err(error), None) => Err(bad(error.to_string())),
    }
}

struct HeaderVisitor<'a> {
    duplicate: &'a mut Option<String>,
}

impl<'de> Visitor<'de> for HeaderVisitor<'_> {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensor names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !names.insert(name.clone()) {
                *self.duplicate = Some(name);
                return Err(A::Error::custom("duplicate tensor"));
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(tensors)
    }
}

/// `tensors` sorted by offset have to fill the data section exactly, each with the bytes of its shape.
fn check_ranges(tensors: &[(String, TensorInfo)], available: usize) -> Result<(), SafetensorsError> {
    let mut filled = 0;
    let mut previous = "";
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        let expected = byte_length(name, info)?;
        if end.checked_sub(start) != Some(expected) {
            return Err(SafetensorsError::WrongLength { name: name.clone(), start, end, expected });
        }
        if end > available {
            return Err(SafetensorsError::TensorPastEnd { name: name.clone(), end, available });
        }
        if start > filled {
            return Err(SafetensorsError::Hole { start: filled, end: start });
        }
        if start < filled {
            let first = previous.to_owned();
            return Err(SafetensorsError::Overlap { first, second: name.clone(), offset: start });
        }
        (filled, previous) = (end, name);
    }
    if filled < available {
        return Err(SafetensorsError::Hole { start: filled, end: available });
    }
    Ok(())
}

fn byte_length(name: &str, info: &TensorInfo) -> Result<usize, SafetensorsError> {
    if info.shape.len() > MAX_RANK {
        return Err(SafetensorsError::BadRank { name: name.to_owned(), found: info.shape.len(), limit: MAX_RANK });
    }
    let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
    match bits {
        Some(bits) => Ok(bits.div_ceil(8)),
        None => Err(SafetensorsError::ShapeOverflow { name: name.to_owned(), shape: info.shape.clone() }),
    }
}
