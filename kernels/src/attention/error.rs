//! What can be wrong with a call of attention or a write to the KV cache.

/// A refused call; nothing has been read or written past a slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttentionError {
    /// A slice is not of its shape.
    #[error("{what}: expected {expected} values, got {actual}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Values of the shape.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// Each K and V head serves the same number of query heads.
    #[error("{heads} query heads cannot share {kv_heads} kv heads evenly")]
    Heads {
        /// Query heads.
        heads: usize,
        /// K and V heads.
        kv_heads: usize,
    },
    /// Heads of an encoder are whole vectors wide.
    #[error("heads of {head_dim} dimensions: a multiple of 8 is wanted")]
    HeadDim {
        /// Dimensions of a head.
        head_dim: usize,
    },
    /// A dimension of zero, or sizes that overflow.
    #[error("a KV cache of {num_blocks} blocks x {kv_heads} heads x {block_size} tokens x {head_dim} cannot be")]
    Cache {
        /// Blocks.
        num_blocks: usize,
        /// K and V heads.
        kv_heads: usize,
        /// Tokens of a block.
        block_size: usize,
        /// Dimensions of a head.
        head_dim: usize,
    },
    /// A window in which a query does not even see itself.
    #[error("an attention window of 0 tokens sees nothing, leave it out or make it at least 1")]
    EmptyWindow,
    /// The queries of a span lie outside the batch, or were counted twice.
    #[error("span {span}: queries {query_start} .. {query_start} + {query_len} of {tokens} tokens")]
    Queries {
        /// Index of the span.
        span: usize,
        /// Its first row.
        query_start: usize,
        /// Its rows.
        query_len: usize,
        /// Rows of the batch.
        tokens: usize,
    },
    /// Two spans claim the same row.
    #[error("span {span} starts at row {query_start}, a span before it reaches row {reached}")]
    Overlap {
        /// Index of the later span.
        span: usize,
        /// Its first row.
        query_start: usize,
        /// End of the earlier span.
        reached: usize,
    },
    /// The context counts the queries, so it is at least as long.
    #[error("span {span}: context of {context_len} tokens with {query_len} queries in it")]
    Context {
        /// Index of the span.
        span: usize,
        /// Tokens of the context.
        context_len: usize,
        /// Queries of the span.
        query_len: usize,
    },
    /// The block table ends before the context.
    #[error("span {span}: {blocks} blocks of {block_size} tokens for a context of {context_len}")]
    TableTooShort {
        /// Index of the span.
        span: usize,
        /// Blocks in the table.
        blocks: usize,
        /// Tokens of a block.
        block_size: usize,
        /// Tokens of the context.
        context_len: usize,
    },
    /// A block past the end of the cache.
    #[error("span {span}: block {block} of a cache of {num_blocks}")]
    Block {
        /// Index of the span.
        span: usize,
        /// The block.
        block: u32,
        /// Blocks there are.
        num_blocks: usize,
    },
    /// A slot past the end of the cache.
    #[error("token {token}: slot {slot} of a cache of {slots}")]
    Slot {
        /// Which token of the write.
        token: usize,
        /// The slot.
        slot: u32,
        /// Slots there are.
        slots: usize,
    },
}
