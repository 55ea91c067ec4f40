//! What a KV cache may hold, and what that takes.

use candle_core::DType;

use crate::attention::int8_row_len;

/// Number format of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// 2 bytes a value, 11 bits of precision.
    F16,
    /// 2 bytes a value, 8 bits of precision.
    BF16,
    /// 4 bytes a value.
    F32,
    /// A byte a value and four for each row of a head; only for [`super::Path::Kernels`].
    Int8,
}

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 4] = [KvType::F16, KvType::BF16, KvType::F32, KvType::Int8];

    /// Its name in settings and tables.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::BF16 => "bf16",
            KvType::F32 => "f32",
            KvType::Int8 => "int8",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What the tensors of K and V hold: `[num_blocks, kv_heads, block_size, row_len]`.
    pub fn dtype(self) -> DType {
        match self {
            KvType::F16 => DType::F16,
            KvType::BF16 => DType::BF16,
            KvType::F32 => DType::F32,
            KvType::Int8 => DType::U8,
        }
    }

    /// Elements of a row of a head, the last axis of the tensors.
    pub fn row_len(self, head_dim: usize) -> usize {
        match self {
            KvType::F16 | KvType::BF16 | KvType::F32 => head_dim,
            KvType::Int8 => int8_row_len(head_dim),
        }
    }

    /// Bytes of such a row.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        self.row_len(head_dim) * self.dtype().size_in_bytes()
    }
}
