//! The largest counts accepted from a file. Each is far above what any published model has, and far below
//! what would hurt; together with the file's own size they bound the memory that a hostile file can ask for.

/// Metadata keys (published models have under 100).
pub(super) const MAX_KEYS: u64 = 1 << 16;
/// Bytes of a key's or tensor's name (ggml itself stops at 64 for tensors).
pub(super) const MAX_NAME: u64 = 1 << 10;
/// Bytes of one string value (chat templates stay under 1 MiB).
pub(super) const MAX_STRING: u64 = 1 << 24;
/// Elements of all metadata arrays together (the largest vocabularies have 300,000 tokens and 600,000 merges).
pub(super) const MAX_ARRAY_ELEMENTS: u64 = 1 << 23;
/// Bytes of all metadata together.
pub(super) const MAX_METADATA: u64 = 1 << 28;
/// Tensors (the largest mixtures of experts have a few thousand).
pub(super) const MAX_TENSORS: u64 = 1 << 16;
/// Alignment of tensor data, in bytes (the default is 32).
pub(super) const MAX_ALIGNMENT: u64 = 1 << 16;
/// Dimensions of a tensor.
pub(super) const MAX_RANK: u32 = 4;
/// Parts of a split model.
pub(super) const MAX_PARTS: u64 = 1 << 10;
