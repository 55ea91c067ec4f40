//! What can be wrong in a safetensors file or its index.

/// A file that breaks the safetensors format, or shards that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    /// Not even the header's length is there.
    #[error("has {len} bytes, the header's length alone takes 8")]
    TooShort {
        /// Length of the file.
        len: usize,
    },
    /// A header longer than any model's.
    #[error("header of {len} bytes, at most {limit} can be right; the file is corrupt or of another format")]
    HeaderTooLarge {
        /// Length in the file.
        len: u64,
        /// Largest accepted length.
        limit: u64,
    },
    /// The file ends inside the header.
    #[error("header of {len} bytes, only {left} are left in the file; the file is cut short: fetch it again")]
    HeaderTruncated {
        /// Length in the file.
        len: u64,
        /// Bytes there are.
        left: u64,
    },
    /// The header is no JSON of the right form.
    #[error("header is not valid: {reason}")]
    BadHeader {
        /// What the JSON parser met.
        reason: String,
    },
    /// A tensor that is there twice in one file.
    #[error("tensor `{name}` is there twice")]
    DuplicateTensor {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor with more dimensions than any has.
    #[error("tensor `{name}` has {found} dimensions, at most {limit} can be right")]
    BadRank {
        /// Name of the tensor.
        name: String,
        /// Dimensions in the file.
        found: usize,
        /// Largest accepted number.
        limit: usize,
    },
    /// A shape whose product leaves 64 bits.
    #[error("tensor `{name}` has shape {shape:?}, more elements than can be addressed")]
    ShapeOverflow {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        shape: Vec<usize>,
    },
    /// A byte range that does not fit the shape.
    #[error("tensor `{name}` has bytes {start} to {end}, its dtype and shape take {expected} bytes")]
    WrongLength {
        /// Name of the tensor.
        name: String,
        /// First byte of the data section.
        start: usize,
        /// Past the last byte.
        end: usize,
        /// Bytes of dtype and shape.
        expected: usize,
    },
    /// Tensor data past the end of the file.
    #[error(
        "tensor `{name}` ends at byte {end} of the data, which has {available}; the file is cut short: fetch it again"
    )]
    TensorPastEnd {
        /// Name of the tensor.
        name: String,
        /// Past its last byte.
        end: usize,
        /// Length of the data section.
        available: usize,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` overlap at byte {offset} of the data")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins inside it.
        second: String,
        /// Where the second begins.
        offset: usize,
    },
    /// Bytes that belong to no tensor, which the format forbids.
    #[error("bytes {start} to {end} of the data belong to no tensor, which the format forbids")]
    Hole {
        /// First such byte.
        start: usize,
        /// Past the last.
        end: usize,
    },
    /// The index is no JSON of the right form.
    #[error("index is not valid: {reason}")]
    BadIndex {
        /// What the JSON parser met.
        reason: String,
    },
    /// An index entry that leaves the directory.
    #[error("index names shard `{file}`, which is not a plain file name beside it")]
    ShardOutside {
        /// As the index has it.
        file: String,
    },
    /// Shards that are not there.
    #[error("shards missing: {}; fetch all of them into one directory", shards.join(", "))]
    MissingShards {
        /// Their names.
        shards: Vec<String>,
    },
    /// A tensor that the index promises and its shard does not have.
    #[error("index says tensor `{name}` is in `{file}`, it is not: index and shards are of different models")]
    NotInShard {
        /// Name of the tensor.
        name: String,
        /// Shard according to the index.
        file: String,
    },
    /// A tensor in two shards.
    #[error("tensor `{name}` is also in `{other}`")]
    TwoShards {
        /// Name of the tensor.
        name: String,
        /// The other file.
        other: String,
    },
    /// A directory without any safetensors file.
    #[error("holds no safetensors file")]
    NoFiles,
}
