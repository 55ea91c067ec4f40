//! What can be wrong in a GGUF file, with names, numbers and the cure.

/// A file that breaks the GGUF format, or that uses a part of it which Engram does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("begins with bytes {found:02x?}, a GGUF file begins with `GGUF`")]
    BadMagic {
        /// The bytes found, up to four.
        found: Vec<u8>,
    },
    /// A version that is not read.
    #[error("GGUF version {version} is not read, versions 2 and 3 are; convert the model again with a current tool")]
    UnsupportedVersion {
        /// Version in the file.
        version: u32,
    },
    /// A big-endian file.
    #[error("is a big-endian GGUF file (version {version}), only little-endian files are read")]
    BigEndian {
        /// Version in the file.
        version: u32,
    },
    /// The file ends inside something.
    #[error(
        "ends early: {what} at byte {at} needs {needed} more bytes, {left} are left; the file is cut short or corrupt"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Byte position.
        at: u64,
        /// Bytes needed from there.
        needed: u64,
        /// Bytes there are.
        left: u64,
    },
    /// A count or length above what a model can need, or above what the file can hold.
    #[error("{what} is {found}, at most {limit} can be right here; the file is corrupt")]
    AbsurdCount {
        /// What is counted.
        what: String,
        /// Count in the file.
        found: u64,
        /// Largest accepted count.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8 text")]
    NotUtf8 {
        /// Which text.
        what: String,
    },
    /// A metadata key without a name.
    #[error("metadata key number {index} is empty")]
    EmptyKey {
        /// Zero-based position of the key.
        index: u64,
    },
    /// A metadata key that is there twice.
    #[error("metadata key `{key}` is there twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value type that the format does not have.
    #[error("metadata key `{key}` has value type {found}, the format has types 0 to 12")]
    UnknownValueType {
        /// The key.
        key: String,
        /// Type number in the file.
        found: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key `{key}` is a boolean of value {found}, it can be 0 or 1")]
    BadBool {
        /// The key.
        key: String,
        /// The byte found.
        found: u8,
    },
    /// An array of arrays.
    #[error("metadata key `{key}` is an array of arrays, which no model needs and Engram does not read")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// `general.alignment` is not usable.
    #[error("`general.alignment` is {found}, it has to be a power of two up to {limit}")]
    BadAlignment {
        /// Value in the file, as text.
        found: String,
        /// Largest accepted alignment.
        limit: u64,
    },
    /// A tensor name that is there twice.
    #[error("tensor `{name}` is there twice")]
    DuplicateTensor {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor without a name.
    #[error("tensor number {index} has no name")]
    UnnamedTensor {
        /// Zero-based position of the tensor.
        index: u64,
    },
    /// A tensor with no or too many dimensions.
    #[error("tensor `{name}` has {found} dimensions, a tensor has 1 to 4")]
    BadRank {
        /// Name of the tensor.
        name: String,
        /// Dimensions in the file.
        found: u32,
    },
    /// A dimension of length zero.
    #[error("tensor `{name}` has shape {shape:?}, no dimension can be 0")]
    ZeroDimension {
        /// Name of the tensor.
        name: String,
        /// Shape in the file, outermost first.
        shape: Vec<u64>,
    },
    /// A shape whose product leaves 64 bits.
    #[error("tensor `{name}` has shape {shape:?}, more elements than can be addressed")]
    ShapeOverflow {
        /// Name of the tensor.
        name: String,
        /// Shape in the file, outermost first.
        shape: Vec<u64>,
    },
    /// An element type that ggml has and Engram does not read.
    #[error("tensor `{name}` has type {type_name}, which Engram does not read; supported: {supported}")]
    UnsupportedType {
        /// Name of the tensor.
        name: String,
        /// ggml's name of the type.
        type_name: &'static str,
        /// The types that are read, comma-separated.
        supported: String,
    },
    /// An element type number that means nothing.
    #[error("tensor `{name}` has type number {id}, which ggml does not have")]
    UnknownType {
        /// Name of the tensor.
        name: String,
        /// Number in the file.
        id: u32,
    },
    /// A row that does not fill whole quantisation blocks.
    #[error("tensor `{name}` of type {type_name} has rows of {cols} elements, they come in blocks of {block}")]
    RowNotBlocks {
        /// Name of the tensor.
        name: String,
        /// Element type.
        type_name: &'static str,
        /// Row length in the file.
        cols: u64,
        /// Elements a block.
        block: u64,
    },
    /// Tensor data that does not begin at a multiple of the alignment.
    #[error("tensor `{name}` begins at offset {offset}, which is not a multiple of the file's alignment {alignment}")]
    Misaligned {
        /// Name of the tensor.
        name: String,
        /// Offset in the data section, in bytes.
        offset: u64,
        /// The file's alignment, in bytes.
        alignment: u64,
    },
    /// Tensor data that lies past the end of the file.
    #[error(
        "tensor `{name}` needs {bytes} bytes at offset {offset} of the data section, which has {available}; \
         the file is cut short or corrupt: fetch it again"
    )]
    TensorPastEnd {
        /// Name of the tensor.
        name: String,
        /// Offset in the data section, in bytes.
        offset: u64,
        /// Length of the tensor in bytes.
        bytes: u64,
        /// Length of the data section in bytes.
        available: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` overlap at offset {offset} of the data section")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins inside it.
        second: String,
        /// Where the second begins, in bytes.
        offset: u64,
    },
    /// A part of a split model of which other parts are not there, or do not belong.
    #[error("is part {part} of {parts} of a split model; {reason}")]
    BadSplit {
        /// One-based number of the part.
        part: u64,
        /// Parts there should be.
        parts: u64,
        /// What is wrong.
        reason: String,
    },
}
