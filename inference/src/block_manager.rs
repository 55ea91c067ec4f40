//! Who holds which block of the KV cache, and which blocks can be used again.
//!
//! A block is in exactly one of three states: *used* (a sequence holds it, `refs > 0`), *cached*
//! (nobody holds it, its content is known by hash and may be taken up again), or *free* (no known
//! content). `used + cached + free = total`, always.
//!
//! Full blocks are known by a chained hash over every token up to their end, so equal hashes mean
//! equal prefixes. The chain's root holds the tenant: tenants never meet in the cache. Taking a
//! cached block, giving one back and evicting one are O(1) each.
//!
//! Two rules keep parents alive as long as their children: a block is given back before its parent,
//! and a sequence that computed a block which is already cached takes the cached one instead. So
//! whoever holds a block holds the canonical parent too, and the oldest cached block, the next to be
//! evicted, never has a cached child.
//! After vLLM's automatic prefix caching: <https://arxiv.org/abs/2309.06180>

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// Index of a block in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// SHA-256 over the tenant and every token up to the end of a block.
pub type BlockHash = [u8; 32];

/// End of a list, or absent link.
const NONE: u32 = u32::MAX;

/// The hashes of a sequence's full blocks, in order; grows as tokens come.
#[derive(Debug, Clone)]
pub struct HashChain {
    tenant: u64,
    block_size: usize,
    hashes: Vec<BlockHash>,
}

impl HashChain {
    /// An empty chain for one tenant.
    pub fn new(tenant: u64, block_size: usize) -> Self {
        Self { tenant, block_size, hashes: Vec::new() }
    }

    /// Hashes the full blocks of `tokens` that are not hashed yet. Tokens hashed before may not have changed.
    pub fn extend(&mut self, tokens: &[u32]) {
        for block in tokens.chunks_exact(self.block_size).skip(self.hashes.len()) {
            let mut hasher = Sha256::new();
            match self.hashes.last() {
                Some(parent) => hasher.update(parent),
                None => {
                    hasher.update(b"engram kv prefix");
                    hasher.update(self.tenant.to_le_bytes());
                }
            }
            for token in block {
                hasher.update(token.to_le_bytes());
            }
            self.hashes.push(hasher.finalize().into());
        }
    }

    /// Tokens a block holds.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Hashes of the full blocks, first block first.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

/// The blocks of one sequence, in order of position. Given back with [`BlockManager::release`].
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    /// Blocks, first positions first.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// True if it holds none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// How many blocks are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Held by sequences.
    pub used: usize,
    /// Held by nobody, content known.
    pub cached: usize,
    /// Held by nobody, content unknown.
    pub free: usize,
    /// All there are.
    pub total: usize,
}

#[derive(Debug, Clone)]
struct Block {
    refs: u32,
    hash: Option<BlockHash>,
    older: u32,
    newer: u32,
}

/// Blocks, their holders and the prefix cache. Pure bookkeeping: the KV itself is in [`crate::KvCache`].
#[derive(Debug)]
pub struct BlockManager {
    block_size: usize,
    prefix_cache: bool,
    blocks: Vec<Block>,
    free: Vec<u32>,
    by_hash: HashMap<BlockHash, u32>,
    /// Cached blocks as a list through `older` and `newer`: O(1) to take out of the middle.
    oldest: u32,
    newest: u32,
    cached: usize,
    evicted: u64,
}

impl BlockManager {
    /// `num_blocks` free blocks of `block_size` tokens; without `prefix_cache` nothing is ever shared.
    pub fn new(num_blocks: usize, block_size: usize, prefix_cache: bool) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        assert!(num_blocks < NONE as usize, "block ids are 32 bits");
        let block = Block { refs: 0, hash: None, older: NONE, newer: NONE };
        Self {
            block_size,
            prefix_cache,
            blocks: vec![block; num_blocks],
            free: (0..num_blocks as u32).rev().collect(), // so that low ids are taken first
            by_hash: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            cached: 0,
            evicted: 0,
        }
    }

    /// Tokens a block holds.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks that `tokens` tokens take.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// Blocks that can be handed out now: free, or cached and evictable.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached
    }

    /// Exact accounting.
    pub fn counts(&self) -> BlockCounts {
        let total = self.blocks.len();
        let free = self.free.len();
        BlockCounts { used: total - free - self.cached, cached: self.cached, free, total }
    }

    /// Cached blocks given to other content so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// How many of `hashes`, from the start, name blocks that are held or cached.
    pub fn known_prefix(&self, hashes: &[BlockHash]) -> usize {
        hashes.iter().take_while(|hash| self.by_hash.contains_key(*hash)).count()
    }

    /// Takes the longest known run of `hashes` from the start into an empty `table`; returns its blocks.
    pub fn take_prefix(&mut self, table: &mut BlockTable, hashes: &[BlockHash]) -> usize {
        debug_assert!(table.is_empty(), "a prefix comes first");
        for hash in hashes {
            let Some(&index) = self.by_hash.get(hash) else {
                break;
            };
            self.hold(index);
            table.blocks.push(BlockId(index));
        }
        table.len()
    }

    /// Grows `table` until it holds `tokens` tokens. Takes all or none: false if there are too few blocks.
    pub fn grow(&mut self, table: &mut BlockTable, tokens: usize) -> bool {
        let missing = self.blocks_for(tokens).saturating_sub(table.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let index = match self.free.pop() {
                Some(index) => index,
                None => self.evict_oldest(),
            };
            self.blocks[index as usize].refs = 1;
            table.blocks.push(BlockId(index));
        }
        true
    }

    /// Tells that block `position` of `table` is full, written, and holds what `hash` names. If such a
    /// block is cached already, the table takes that one and gives its own back.
    pub fn publish(&mut self, table: &mut BlockTable, position: usize, hash: BlockHash) {
        if !self.prefix_cache {
            return;
        }
        let own = table.blocks[position].0;
        match self.by_hash.get(&hash) {
            Some(&canonical) if canonical == own => {}
            Some(&canonical) => {
                self.hold(canonical);
                table.blocks[position] = BlockId(canonical);
                self.let_go(own);
            }
            None => {
                debug_assert!(self.blocks[own as usize].hash.is_none(), "a block is published once");
                self.blocks[own as usize].hash = Some(hash);
                self.by_hash.insert(hash, own);
            }
        }
    }

    /// Gives every block of a sequence back, the last first, so that a leaf is evicted before its parent.
    pub fn release(&mut self, table: &mut BlockTable) {
        while let Some(BlockId(index)) = table.blocks.pop() {
            self.let_go(index);
        }
    }

    /// Forgets the content of every cached block; returns how many.
    pub fn drop_cache(&mut self) -> usize {
        let dropped = self.cached;
        while self.cached > 0 {
            let index = self.forget_oldest();
            self.free.push(index);
        }
        dropped
    }

    fn hold(&mut self, index: u32) {
        if self.blocks[index as usize].refs == 0 {
            self.unlink(index);
        }
        self.blocks[index as usize].refs += 1;
    }

    fn let_go(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        debug_assert!(block.refs > 0, "block {index} is given back once too often");
        block.refs -= 1;
        if block.refs > 0 {
            return;
        }
        if block.hash.is_some() {
            self.link_newest(index);
        } else {
            self.free.push(index);
        }
    }

    fn evict_oldest(&mut self) -> u32 {
        self.evicted += 1;
        self.forget_oldest()
    }

    fn forget_oldest(&mut self) -> u32 {
        let index = self.oldest;
        self.unlink(index);
        if let Some(hash) = self.blocks[index as usize].hash.take() {
            self.by_hash.remove(&hash);
        }
        index
    }

    fn link_newest(&mut self, index: u32) {
        let previous = std::mem::replace(&mut self.newest, index);
        match previous {
            NONE => self.oldest = index,
            previous => self.blocks[previous as usize].newer = index,
        }
        let block = &mut self.blocks[index as usize];
        block.older = previous;
        block.newer = NONE;
        self.cached += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Block { older, newer, .. } = self.blocks[index as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.blocks[newer as usize].older = older,
        }
        self.cached -= 1;
    }

    /// Walks everything and compares it with the tables of all live sequences. For tests.
    #[cfg(test)]
    pub(crate) fn check(&self, tables: &[&BlockTable]) {
        let mut holders = vec![0u32; self.blocks.len()];
        for table in tables {
            for block in &table.blocks {
                holders[block.0 as usize] += 1;
            }
        }
        let mut listed = vec![false; self.blocks.len()];
        let mut at = self.oldest;
        let mut length = 0;
        while at != NONE {
            assert!(!std::mem::replace(&mut listed[at as usize], true), "cycle in the list");
            length += 1;
            at = self.blocks[at as usize].newer;
        }
        assert_eq!(length, self.cached);
        let mut freed = vec![false; self.blocks.len()];
        for &index in &self.free {
            assert!(!std::mem::replace(&mut freed[index as usize], true), "block {index} is free twice");
        }
        for (index, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.refs, holders[index], "references of block {index}");
            let states = [block.refs > 0, listed[index], freed[index]];
            assert_eq!(states.iter().filter(|s| **s).count(), 1, "block {index} is in one state: {states:?}");
            assert_eq!(listed[index], block.refs == 0 && block.hash.is_some());
            if let Some(hash) = block.hash {
                assert_eq!(self.by_hash.get(&hash), Some(&(index as u32)));
            }
        }
        assert_eq!(self.by_hash.len(), self.blocks.iter().filter(|b| b.hash.is_some()).count());
        let counts = self.counts();
        assert_eq!(counts.used + counts.cached + counts.free, counts.total);
    }

    /// True if content of this hash is held or cached. For tests.
    #[cfg(test)]
    pub(crate) fn knows(&self, hash: &BlockHash) -> bool {
        self.by_hash.contains_key(hash)
    }
}

#[cfg(test)]
#[path = "block_manager_tests.rs"]
mod tests;
