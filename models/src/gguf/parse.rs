//! From untrusted bytes to checked metadata and a checked table of tensors.

use std::collections::HashSet;
use std::ops::Range;

use engram_kernels::quant::GgmlType;

use super::cursor::Cursor;
use super::limits::*;
use super::types::{supported_types, unsupported_type_name};
use super::{Array, GgufError, Metadata, Value};

/// A tensor's description, checked against the file.
#[derive(Debug, Clone)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    pub(super) ty: GgmlType,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// Bytes in the file.
    pub(super) range: Range<usize>,
}

/// A parsed header: what the file says it holds, and where.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorEntry>,
}

/// Reads and checks everything but the tensor data itself.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    let mut cursor = Cursor::new(bytes);
    let version = read_version(bytes, &mut cursor)?;
    let tensor_count = read_count(&mut cursor, "the number of tensors", MAX_TENSORS, MIN_TENSOR_BYTES)?;
    let key_count = read_count(&mut cursor, "the number of metadata keys", MAX_KEYS, MIN_KEY_BYTES)?;

    let metadata = read_metadata(&mut cursor, key_count)?;
    let alignment = read_alignment(&metadata)?;
    let raw = read_tensor_table(&mut cursor, tensor_count)?;

    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    let available = (bytes.len() as u64).saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(raw.len());
    for tensor in raw {
        tensors.push(tensor.check(data_start, available, alignment)?);
    }
    refuse_overlaps(&tensors, data_start)?;
    Ok(Header { version, metadata, tensors })
}

/// Smallest encodings of one key (length, one byte, type, one byte) and one tensor (length, one byte, rank,
/// one dimension, type, offset); the file's size divided by them bounds the counts.
const MIN_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

fn read_version(bytes: &[u8], cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    if !bytes.starts_with(b"GGUF") {
        return Err(GgufError::BadMagic { found: bytes[..bytes.len().min(4)].to_vec() });
    }
    cursor.take(4, || "the magic".into())?;
    let version = cursor.u32(|| "the version".into())?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::BigEndian { version: version.swap_bytes() }),
        _ => Err(GgufError::UnsupportedVersion { version }),
    }
}

fn read_count(cursor: &mut Cursor<'_>, what: &str, limit: u64, min_bytes: u64) -> Result<u64, GgufError> {
    let found = cursor.u64(|| what.to_owned())?;
    let limit = limit.min(cursor.left() as u64 / min_bytes);
    if found > limit {
        return Err(GgufError::AbsurdCount { what: what.to_owned(), found, limit });
    }
    Ok(found)
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    let mut budget = MAX_ARRAY_ELEMENTS;
    let start = cursor.position();
    for index in 0..count {
        let key = read_name(cursor, || format!("metadata key number {index}"))?;
        if key.is_empty() {
            return Err(GgufError::EmptyKey { index });
        }
        let ty = cursor.u32(|| format!("the type of `{key}`"))?;
        let value = read_value(cursor, key, ty, &mut budget)?;
        metadata.insert(key.to_owned(), value).map_err(|key| GgufError::DuplicateKey { key })?;
        let read = (cursor.position() - start) as u64;
        if read > MAX_METADATA {
            let what = "the metadata's length in bytes".to_owned();
            return Err(GgufError::AbsurdCount { what, found: read, limit: MAX_METADATA });
        }
    }
    Ok(metadata)
}

/// A key or a tensor name: short, or the file is corrupt.
fn read_name<'a>(cursor: &mut Cursor<'a>, what: impl Fn() -> String) -> Result<&'a str, GgufError> {
    let name = cursor.str(&what)?;
    if name.len() as u64 > MAX_NAME {
        let what = format!("the length of {}", what());
        return Err(GgufError::AbsurdCount { what, found: name.len() as u64, limit: MAX_NAME });
    }
    Ok(name)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str, ty: u32, budget: &mut u64) -> Result<Value, GgufError> {
    let what = || format!("the value of `{key}`");
    Ok(match ty {
        0 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        7 => Value::Bool(to_bool(key, cursor.array::<1>(what)?[0])?),
        8 => Value::String(cursor.str(what)?.to_owned()),
        9 => Value::Array(read_array(cursor, key, budget)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        _ => {
            return Err(GgufError::UnknownValueType { key: key.to_owned(), found: ty });
        }
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, budget: &mut u64) -> Result<Array, GgufError> {
    let ty = cursor.u32(|| format!("the element type of `{key}`"))?;
    let count = cursor.u64(|| format!("the length of `{key}`"))?;
    let element_bytes: u64 = match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8, // a string is at least its length
        9 => {
            return Err(GgufError::NestedArray { key: key.to_owned() });
        }
        _ => {
            return Err(GgufError::UnknownValueType { key: key.to_owned(), found: ty });
        }
    };
    let limit = (*budget).min(cursor.left() as u64 / element_bytes);
    if count > limit {
        let what = format!("the length of the array `{key}`");
        return Err(GgufError::AbsurdCount { what, found: count, limit });
    }
    *budget -= count;
    if ty == 8 {
        let mut items = Vec::with_capacity(count as usize);
        for index in 0..count {
            items.push(cursor.str(|| format!("element {index} of `{key}`"))?.to_owned());
        }
        return Ok(Array::String(items));
    }
    let bytes = cursor.take(count * element_bytes, || format!("the elements of `{key}`"))?;
    Ok(match ty {
        0 => Array::U8(bytes.to_vec()),
        1 => Array::I8(numbers(bytes, i8::from_le_bytes)),
        2 => Array::U16(numbers(bytes, u16::from_le_bytes)),
        3 => Array::I16(numbers(bytes, i16::from_le_bytes)),
        4 => Array::U32(numbers(bytes, u32::from_le_bytes)),
        5 => Array::I32(numbers(bytes, i32::from_le_bytes)),
        6 => Array::F32(numbers(bytes, f32::from_le_bytes)),
        7 => Array::Bool(bytes.iter().map(|&byte| to_bool(key, byte)).collect::<Result<_, _>>()?),
        10 => Array::U64(numbers(bytes, u64::from_le_bytes)),
        11 => Array::I64(numbers(bytes, i64::from_le_bytes)),
        _ => Array::F64(numbers(bytes, f64::from_le_bytes)),
    })
}

fn numbers<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| from(chunk)).collect()
}

fn to_bool(key: &str, byte: u8) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufError::BadBool { key: key.to_owned(), found }),
    }
}

fn read_alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(32);
    };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => Ok(alignment),
        _ => Err(GgufError::BadAlignment { found: format!("{value:?}"), limit: MAX_ALIGNMENT }),
    }
}

/// A line of the tensor table as the file has it.
struct RawTensor {
    name: String,
    /// Innermost first, as in the file.
    dims: Vec<u64>,
    ty: u32,
    offset: u64,
}

fn read_tensor_table(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<RawTensor>, GgufError> {
    let mut tensors = Vec::with_capacity(count as usize);
    let mut names = HashSet::new();
    for index in 0..count {
        let name = read_name(cursor, || format!("the name of tensor number {index}"))?;
        if name.is_empty() {
            return Err(GgufError::UnnamedTensor { index });
        }
        let rank = cursor.u32(|| format!("the number of dimensions of tensor `{name}`"))?;
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(GgufError::BadRank { name: name.to_owned(), found: rank });
        }
        let mut dims = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            dims.push(cursor.u64(|| format!("the shape of tensor `{name}`"))?);
        }
        let ty = cursor.u32(|| format!("the type of tensor `{name}`"))?;
        let offset = cursor.u64(|| format!("the offset of tensor `{name}`"))?;
        if !names.insert(name) {
            return Err(GgufError::DuplicateTensor { name: name.to_owned() });
        }
        tensors.push(RawTensor { name: name.to_owned(), dims, ty, offset });
    }
    Ok(tensors)
}

impl RawTensor {
    /// Checks type, shape and place; `available` bytes of data begin at `data_start` of the file.
    fn check(self, data_start: u64, available: u64, alignment: u64) -> Result<TensorEntry, GgufError> {
        let ty = self.element_type()?;
        let bytes = self.byte_length(ty)?;
        let Self { name, dims, offset, .. } = self;
        if offset % alignment != 0 {
            return Err(GgufError::Misaligned { name, offset, alignment });
        }
        // Past this check every number is below the file's length, so usize holds it.
        if offset.checked_add(bytes).is_none_or(|end| end > available) {
            return Err(GgufError::TensorPastEnd { name, offset, bytes, available });
        }
        let start = (data_start + offset) as usize;
        let shape = dims.iter().rev().map(|&dim| dim as usize).collect();
        Ok(TensorEntry { name, ty, shape, range: start..start + bytes as usize })
    }

    fn element_type(&self) -> Result<GgmlType, GgufError> {
        if let Some(ty) = GgmlType::from_ggml_id(self.ty) {
            return Ok(ty);
        }
        let name = self.name.clone();
        Err(match unsupported_type_name(self.ty) {
            Some(type_name) => GgufError::UnsupportedType { name, type_name, supported: supported_types() },
            None => GgufError::UnknownType { name, id: self.ty },
        })
    }

    fn byte_length(&self, ty: GgmlType) -> Result<u64, GgufError> {
        let shape = || self.dims.iter().rev().copied().collect::<Vec<u64>>();
        if self.dims.contains(&0) {
            return Err(GgufError::ZeroDimension { name: self.name.clone(), shape: shape() });
        }
        let (cols, block) = (self.dims[0], ty.block_len() as u64);
        if cols % block != 0 {
            return Err(GgufError::RowNotBlocks { name: self.name.clone(), type_name: ty.name(), cols, block });
        }
        let row_bytes = (cols / block).checked_mul(ty.block_bytes() as u64);
        let elements = self.dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let bytes = self.dims[1..].iter().try_fold(row_bytes, |bytes, &dim| Some(bytes?.checked_mul(dim)));
        match (elements, bytes) {
            (Some(elements), Some(Some(bytes))) if i64::try_from(elements).is_ok() => Ok(bytes),
            _ => Err(GgufError::ShapeOverflow { name: self.name.clone(), shape: shape() }),
        }
    }
}

fn refuse_overlaps(tensors: &[TensorEntry], data_start: u64) -> Result<(), GgufError> {
    let mut order: Vec<&TensorEntry> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            return Err(GgufError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
                offset: pair[1].range.start as u64 - data_start,
            });
        }
    }
    Ok(())
}
