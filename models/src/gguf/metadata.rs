//! Typed metadata: the key-value pairs that stand at the front of a GGUF file.

use std::collections::HashMap;

/// One metadata value, in the type that the file gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// uint8
    U8(u8),
    /// int8
    I8(i8),
    /// uint16
    U16(u16),
    /// int16
    I16(i16),
    /// uint32
    U32(u32),
    /// int32
    I32(i32),
    /// float32
    F32(f32),
    /// bool
    Bool(bool),
    /// string
    String(String),
    /// array of one element type
    Array(Array),
    /// uint64
    U64(u64),
    /// int64
    I64(i64),
    /// float64
    F64(f64),
}

/// A metadata array; the format has one element type an array.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// uint8 elements
    U8(Vec<u8>),
    /// int8 elements
    I8(Vec<i8>),
    /// uint16 elements
    U16(Vec<u16>),
    /// int16 elements
    I16(Vec<i16>),
    /// uint32 elements
    U32(Vec<u32>),
    /// int32 elements
    I32(Vec<i32>),
    /// float32 elements
    F32(Vec<f32>),
    /// bool elements
    Bool(Vec<bool>),
    /// string elements
    String(Vec<String>),
    /// uint64 elements
    U64(Vec<u64>),
    /// int64 elements
    I64(Vec<i64>),
    /// float64 elements
    F64(Vec<f64>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index` as a value of its own.
    pub fn get(&self, index: usize) -> Option<Value> {
        match self {
            Array::U8(v) => v.get(index).copied().map(Value::U8),
            Array::I8(v) => v.get(index).copied().map(Value::I8),
            Array::U16(v) => v.get(index).copied().map(Value::U16),
            Array::I16(v) => v.get(index).copied().map(Value::I16),
            Array::U32(v) => v.get(index).copied().map(Value::U32),
            Array::I32(v) => v.get(index).copied().map(Value::I32),
            Array::F32(v) => v.get(index).copied().map(Value::F32),
            Array::Bool(v) => v.get(index).copied().map(Value::Bool),
            Array::String(v) => v.get(index).cloned().map(Value::String),
            Array::U64(v) => v.get(index).copied().map(Value::U64),
            Array::I64(v) => v.get(index).copied().map(Value::I64),
            Array::F64(v) => v.get(index).copied().map(Value::F64),
        }
    }
}

impl Value {
    /// The type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
            Value::Array(array) => match array {
                Array::U8(_) => "array of u8",
                Array::I8(_) => "array of i8",
                Array::U16(_) => "array of u16",
                Array::I16(_) => "array of i16",
                Array::U32(_) => "array of u32",
                Array::I32(_) => "array of i32",
                Array::F32(_) => "array of f32",
                Array::Bool(_) => "array of bool",
                Array::String(_) => "array of string",
                Array::U64(_) => "array of u64",
                Array::I64(_) => "array of i64",
                Array::F64(_) => "array of f64",
            },
        }
    }

    /// Any integer type, if the value is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// Either float type, rounded to f32.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }
}

/// A metadata key that is missing, or of another type than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The model cannot be run without this key.
    #[error("key `{key}` is missing: the file is incomplete, or no model to run")]
    Missing {
        /// The key.
        key: String,
    },
    /// The key holds another type.
    #[error("key `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// Type that was asked for.
        expected: &'static str,
        /// Type in the file; for a number out of range also the number.
        found: String,
    },
}

/// All metadata of a file.
///
/// The typed getters answer `Ok(None)` where the key is absent and an error where it has another type, so a
/// file that says something else than it should is never read as one that says nothing. [`Metadata::required`]
/// makes an absent key an error too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    values: HashMap<String, Value>,
}

impl Metadata {
    /// The value of `key`, in whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All keys and values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Adds a key; gives the key back if it was there already.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), String> {
        match self.values.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => Err(entry.key().clone()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(())
            }
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.typed(key, "string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A whole number of any integer type that fits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, MetadataError> {
        self.typed(key, "u32", |value| value.as_u64()?.try_into().ok())
    }

    /// A whole number of any integer type that fits.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        self.typed(key, "u64", Value::as_u64)
    }

    /// A float of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, MetadataError> {
        self.typed(key, "f32", Value::as_f32)
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.typed(key, "bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, MetadataError> {
        self.typed(key, "array of string", |value| match value {
            Value::Array(Array::String(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// An array of int32.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, MetadataError> {
        self.typed(key, "array of i32", |value| match value {
            Value::Array(Array::I32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// An array of uint32.
    pub fn u32s(&self, key: &str) -> Result<Option<&[u32]>, MetadataError> {
        self.typed(key, "array of u32", |value| match value {
            Value::Array(Array::U32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// An array of float32.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, MetadataError> {
        self.typed(key, "array of f32", |value| match value {
            Value::Array(Array::F32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The value of a key that has to be there: `metadata.required("llama.block_count", Metadata::u32)`.
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        get: impl FnOnce(&'a Self, &str) -> Result<Option<T>, MetadataError>,
    ) -> Result<T, MetadataError> {
        get(self, key)?.ok_or_else(|| MetadataError::Missing { key: key.to_owned() })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                let found = match value {
                    Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) | Value::U32(_) | Value::U64(_) => {
                        format!("{value:?}")
                    }
                    other => other.type_name().to_owned(),
                };
                Err(MetadataError::WrongType { key: key.to_owned(), expected, found })
            }
        }
    }
}
