//! One generation in flight, as the scheduler sees it: tokens, blocks, how far it is.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::block_manager::{BlockHash, BlockTable, HashChain};
use crate::request::GenerateRequest;

/// Room for so many tokens of output is made at once; past it the list of tokens grows as it needs.
const MOST_RESERVED: usize = 4096;

/// Names a sequence for the life of its engine; a later arrival has the larger number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// A map by [`SeqId`]. Ids are our own, counted up: nobody can choose them to collide, so they need no keyed hash.
pub(crate) type SeqMap<T> = HashMap<SeqId, T, BuildHasherDefault<SeqHasher>>;

/// Spreads a counter over all bits by a multiplication (Fibonacci hashing).
#[derive(Debug, Default)]
pub(crate) struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Prompt and output of one request, and how much of it has its KV in the cache.
///
/// *Waiting* it holds no blocks and `computed` is 0; *running* it holds blocks for all its tokens.
/// The newest token's KV is computed in the step after the one that sampled it.
#[derive(Debug)]
pub struct Sequence {
    id: SeqId,
    tokens: Vec<u32>,
    prompt_len: usize,
    max_tokens: usize,
    priority: i32,
    arrived: Instant,
    deadline: Option<Instant>,
    /// Prompt positions `0..scored` have given their log-probabilities; `None`: not asked for.
    scored: Option<usize>,
    pub(crate) computed: usize,
    pub(crate) table: BlockTable,
    pub(crate) chain: HashChain,
    /// Who runs first: priority plus what it gained by waiting, fixed at admission.
    pub(crate) rank: i64,
    /// The block that a running prefill is computing for it.
    pub(crate) held_on: Option<BlockHash>,
    pub(crate) was_admitted: bool,
}

impl Sequence {
    /// A waiting sequence of `request`, arrived at `now`.
    pub fn new(id: SeqId, request: &GenerateRequest, block_size: usize, now: Instant) -> Self {
        let mut tokens = Vec::with_capacity(request.prompt.len() + request.max_tokens.min(MOST_RESERVED));
        tokens.extend_from_slice(&request.prompt);
        Self {
            id,
            tokens,
            prompt_len: request.prompt.len(),
            max_tokens: request.max_tokens,
            priority: request.priority,
            arrived: now,
            deadline: request.deadline,
            scored: request.prompt_logprobs.map(|_| 0),
            computed: 0,
            table: BlockTable::default(),
            chain: HashChain::new(request.tenant, block_size),
            rank: i64::from(request.priority),
            held_on: None,
            was_admitted: false,
        }
    }

    /// Its name.
    pub fn id(&self) -> SeqId {
        self.id
    }

    /// Prompt, then output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Tokens generated.
    pub fn output_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Most tokens to generate.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokens whose KV is in the cache.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Tokens whose KV is still to be computed before the next can be sampled; at least 1.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Blocks held.
    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// When it was submitted.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Priority as asked for.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// When its time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// True if its time is over.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Priority after having waited until `now`.
    pub fn aged_rank(&self, now: Instant, aging: Duration) -> i64 {
        let levels = now.saturating_duration_since(self.arrived).as_nanos() / aging.as_nanos().max(1);
        i64::from(self.priority) + i64::try_from(levels).unwrap_or(i64::MAX / 2)
    }

    /// Hashes of the blocks that may come from the cache: full ones, and never the one with the last
    /// token, whose logits are wanted. None while prompt positions have to be scored.
    pub fn shareable(&self) -> &[BlockHash] {
        if self.scores_left() {
            return &[];
        }
        let full = self.tokens.len().saturating_sub(1) / self.chain.block_size();
        let hashes = self.chain.hashes();
        &hashes[..full.min(hashes.len())]
    }

    /// Of the positions `start..start + len`, those whose logits score the prompt token after them.
    pub fn scoring(&self, start: usize, len: usize) -> Range<usize> {
        let end = (start + len).min(self.prompt_len - 1);
        match self.scored {
            Some(scored) => start.max(scored).min(end)..end,
            None => end..end,
        }
    }

    pub(crate) fn scores_left(&self) -> bool {
        self.scored.is_some_and(|scored| scored + 1 < self.prompt_len)
    }

    pub(crate) fn mark_scored(&mut self, end: usize) {
        if let Some(scored) = &mut self.scored {
            *scored = end.min(self.prompt_len - 1).max(*scored);
        }
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub(crate) fn hash_blocks(&mut self) {
        self.chain.extend(&self.tokens);
    }
}
