use crate::gguf::MetadataError;

/// Why a vocabulary cannot be used, with the place in the file and what would cure it.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// `tokenizer.ggml.model` names a vocabulary kind that no pipeline here reads.
    #[error("tokenizer model `{found}` is not supported, known: `gpt2` (byte-level BPE), `llama` (SentencePiece)")]
    UnknownModel {
        /// What the file says.
        found: String,
    },
    /// `tokenizer.ggml.pre` names a pre-tokenizer whose splitting rules are not known.
    #[error(
        "pre-tokenizer `{found}` is not known, known: {known}; splitting text by other rules would give the model wrong ids"
    )]
    UnknownPreTokenizer {
        /// What the file says.
        found: String,
        /// The names that are known, separated by commas.
        known: String,
    },
    /// A part of a tokenizer.json that cannot be followed exactly.
    #[error("tokenizer.json: `{part}` of type `{found}` is not supported; known: {known}")]
    Unsupported {
        /// Where, such as `pre_tokenizer[1]`.
        part: String,
        /// What stands there.
        found: String,
        /// What could stand there.
        known: &'static str,
    },
    /// A metadata entry of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A required list or field is absent.
    #[error("{part} is missing; a {model} vocabulary cannot be read without it")]
    Missing {
        /// The metadata key or JSON path.
        part: &'static str,
        /// The vocabulary kind that needs it.
        model: &'static str,
    },
    /// Lists that run in parallel differ in length.
    #[error("{part} has {found} entries, the vocabulary has {tokens} tokens")]
    LengthMismatch {
        /// The list.
        part: &'static str,
        /// Its length.
        found: usize,
        /// Length of the vocabulary.
        tokens: usize,
    },
    /// A count beyond what any real vocabulary has.
    #[error("{part} has {found} entries, the limit is {limit}")]
    TooMany {
        /// What is counted.
        part: &'static str,
        /// How many there are.
        found: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// A token text longer than any real vocabulary has.
    #[error("token {id} is {bytes} bytes long, the limit is {limit}")]
    TokenTooLong {
        /// The token.
        id: u32,
        /// Length of its text.
        bytes: usize,
        /// Longest accepted.
        limit: usize,
    },
    /// Two ids with one text: encoding would be ambiguous.
    #[error("tokens {first} and {second} have the same text `{text}`")]
    DuplicateToken {
        /// The earlier id.
        first: u32,
        /// The later id.
        second: u32,
        /// The text of both.
        text: String,
    },
    /// A token type outside of what GGUF defines.
    #[error("token {id} has type {found}, GGUF defines 1 (normal) to 6 (byte)")]
    BadTokenType {
        /// The token.
        id: u32,
        /// The type in the file.
        found: i32,
    },
    /// A byte token that is not written `<0x00>` to `<0xFF>`.
    #[error("byte token {id} is written `{text}`, expected `<0x00>` to `<0xFF>`")]
    BadByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A merge that is not two non-empty texts.
    #[error("merge {index} is `{text}`, expected two tokens separated by one space")]
    BadMerge {
        /// Line of the merge list, from 0.
        index: usize,
        /// The merge as written.
        text: String,
    },
    /// A merge whose side or result is not in the vocabulary.
    #[error("merge {index} (`{left}` + `{right}`) needs the token `{missing}`, which the vocabulary lacks")]
    MergeUnknownToken {
        /// Line of the merge list, from 0.
        index: usize,
        /// Left side.
        left: String,
        /// Right side.
        right: String,
        /// Which text has no id.
        missing: String,
    },
    /// A special id beyond the vocabulary.
    #[error("{key} is {id}, the vocabulary has {tokens} tokens")]
    SpecialOutOfRange {
        /// Which special token.
        key: &'static str,
        /// The id in the file.
        id: u64,
        /// Length of the vocabulary.
        tokens: usize,
    },
    /// A splitting pattern that cannot be matched in linear time.
    #[error("{part}: the pattern `{pattern}` cannot be compiled: {reason}")]
    BadPattern {
        /// Where the pattern stands.
        part: String,
        /// The pattern.
        pattern: String,
        /// Why it was refused.
        reason: String,
    },
    /// JSON that does not parse, or a field of the wrong type.
    #[error("{file}: {reason}")]
    BadJson {
        /// tokenizer.json or tokenizer_config.json.
        file: &'static str,
        /// What is wrong and where.
        reason: String,
    },
    /// The tokenizers crate refused the model after all checks passed.
    #[error("building the BPE model: {reason}")]
    Build {
        /// Its message.
        reason: String,
    },
}
