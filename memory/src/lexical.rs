//! Records by their words: BM25 over an inverted index in memory, one per partition, so that no count of one tenant's
//! words reaches another's scores.
//!
//! BM25 after Robertson & Zaragoza, "The Probabilistic Relevance Framework" (2009); a word in a symbol or a path counts
//! several times before saturation, as in BM25F. A written record is found at once; a removed one is gone at once,
//! from results and from the counts, and its postings are swept when a quarter of the index is dead.

mod postings;
mod search;
mod tokens;

use std::collections::HashMap;
use std::num::NonZero;
use std::thread;

use foldhash::fast::RandomState;

use crate::backend::Candidate;
use crate::record::{Record, RecordId};
use postings::{Bound, Posting, Postings};
pub use tokens::{MAX_TOKEN, content_words, distinct_tokens, for_each_token};

/// The constants of BM25 and the weights of a record's fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LexicalParams {
    /// How soon more of the same word counts for nothing, 1.2 by custom.
    pub k1: f32,
    /// How much a long record pays for its length, 0 to 1.
    pub b: f32,
    /// What a word in the symbol counts, in words of the content.
    pub symbol: u16,
    /// What a word in the path counts.
    pub path: u16,
}

impl Default for LexicalParams {
    fn default() -> Self {
        Self { k1: 1.2, b: 0.75, symbol: 8, path: 1 }
    }
}

/// The texts of a record that are searched by word.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// Its content.
    pub content: &'a str,
    /// The symbol it defines.
    pub symbol: Option<&'a str>,
    /// Its path.
    pub path: Option<&'a str>,
}

impl<'a> From<&'a Record> for Words<'a> {
    fn from(record: &'a Record) -> Self {
        let provenance = &record.provenance;
        Self { content: &record.content, symbol: provenance.symbol.as_deref(), path: provenance.path.as_deref() }
    }
}

/// An inverted index with BM25. Searches share it; a writer needs it alone, for some tens of microseconds a record.
#[derive(Debug, Clone, Default)]
pub struct LexicalIndex {
    params: LexicalParams,
    terms: HashMap<Box<str>, u32, RandomState>,
    postings: Vec<Postings>,
    slots: Vec<Slot>,
    by_id: HashMap<RecordId, u32, RandomState>,
    /// Words of living records.
    total_len: u64,
}

/// A record's place in the index.
#[derive(Debug, Clone)]
struct Slot {
    id: RecordId,
    len: u16,
    alive: bool,
    /// Its words, so that a removal finds their counts.
    terms: Box<[u32]>,
}

/// BM25 with the counts of this moment.
struct Bm25 {
    records: f32,
    /// tf (k1 + 1) / (tf + flat + slope len)
    k1: f32,
    flat: f32,
    slope: f32,
}

impl Bm25 {
    /// Weight of a word that `df` records hold; always positive.
    fn rarity(&self, df: u32) -> f32 {
        (1.0 + (self.records - df as f32 + 0.5).max(0.0) / (df as f32 + 0.5)).ln()
    }

    /// A word's count against the length of its record, 0 to k1 + 1.
    fn saturation(&self, posting: Posting) -> f32 {
        self.most(Bound { tf: posting.tf, len: posting.len })
    }

    fn most(&self, bound: Bound) -> f32 {
        let tf = f32::from(bound.tf);
        tf * (self.k1 + 1.0) / (tf + self.flat + self.slope * f32::from(bound.len))
    }
}

impl LexicalIndex {
    /// Distinct words of a query that are looked up; of a longer one the rarest.
    pub const MAX_TERMS: usize = 48;
    /// Below this many dead records no sweep is worth its while.
    const MIN_DEAD: usize = 256;

    /// An empty index.
    pub fn new(params: LexicalParams) -> Self {
        Self { params, ..Self::default() }
    }

    /// An index of `records`, made by all cores; a later record of the same id takes the place of an earlier one.
    pub fn build(params: LexicalParams, records: &[(RecordId, Words<'_>)]) -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = records.len().div_ceil(threads).max(1);
        let parts: Vec<Self> = thread::scope(|scope| {
            let build = |part: &'_ [(RecordId, Words<'_>)]| {
                let mut index = Self::new(params);
                part.iter().for_each(|(id, words)| index.insert(*id, *words));
                index
            };
            let running: Vec<_> = records.chunks(share).map(|part| scope.spawn(move || build(part))).collect();
            running
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut parts = parts.into_iter();
        let mut whole = parts.next().unwrap_or_else(|| Self::new(params));
        parts.for_each(|part| whole.append(part));
        whole
    }

    /// Puts a record in, in place of the one of that id if there is one.
    pub fn insert(&mut self, id: RecordId, words: Words<'_>) {
        self.remove(id);
        let weights = [(Some(words.content), 1), (words.symbol, self.params.symbol), (words.path, self.params.path)];
        let mut found: Vec<(u32, u16)> = Vec::new();
        for (text, weight) in weights.into_iter().filter(|&(_, weight)| weight > 0) {
            for_each_token(text.unwrap_or_default(), |token| found.push((self.intern(token), weight)));
        }
        found.sort_unstable_by_key(|&(term, _)| term);
        let len = found.iter().fold(0u16, |len, &(_, weight)| len.saturating_add(weight));
        let slot = self.slots.len() as u32;
        let mut terms = Vec::with_capacity(found.len());
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            let tf = group.iter().fold(0u16, |tf, &(_, weight)| tf.saturating_add(weight));
            self.postings[group[0].0 as usize].push(Posting { slot, tf, len });
            terms.push(group[0].0);
        }
        self.total_len += u64::from(len);
        self.by_id.insert(id, slot);
        self.slots.push(Slot { id, len, alive: true, terms: terms.into() });
    }

    /// Takes a record out; whether it was there.
    pub fn remove(&mut self, id: RecordId) -> bool {
        let Some(slot) = self.by_id.remove(&id) else { return false };
        let slot = &mut self.slots[slot as usize];
        slot.alive = false;
        self.total_len -= u64::from(slot.len);
        for term in std::mem::take(&mut slot.terms) {
            self.postings[term as usize].live -= 1;
        }
        let dead = self.tombstones();
        if dead > Self::MIN_DEAD && dead > self.slots.len() / 4 {
            self.compact();
        }
        true
    }

    /// The `k` best by BM25 for `text` among those that `accept` takes, best first, ties by id.
    pub fn search(&self, text: &str, k: usize, accept: &dyn Fn(RecordId) -> bool) -> Vec<Candidate> {
        let mut terms = distinct_tokens(text);
        if terms.len() > Self::MAX_TERMS {
            let df = |term: &str| self.postings_of(term).map_or(u32::MAX, |postings| postings.live);
            terms.sort_by_cached_key(|(term, _)| df(term));
            terms.truncate(Self::MAX_TERMS);
        }
        self.best(&terms, k, accept)
    }

    /// The `k` best by BM25 among those that hold every word of `text`, in any order; none if it has no words.
    pub fn search_all(&self, text: &str, k: usize, accept: &dyn Fn(RecordId) -> bool) -> Vec<Candidate> {
        self.best_with_all(&distinct_tokens(text), k, accept)
    }

    /// Living records.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Dead records that wait for [`LexicalIndex::compact`].
    pub fn tombstones(&self) -> usize {
        self.slots.len() - self.by_id.len()
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        let words: usize = self.terms.keys().map(|term| term.len().next_multiple_of(16)).sum();
        let lists: usize = self.postings.iter().map(|list| size_of::<Postings>() + list.bytes()).sum();
        let slots: usize = self.slots.iter().map(|slot| size_of::<Slot>() + slot.terms.len() * 4).sum();
        words + self.terms.capacity() * 25 + lists + slots + self.by_id.capacity() * 33
    }

    /// Sweeps dead records and words that no record holds any more; results stay as they were. It runs by itself
    /// when a quarter of the index is dead.
    pub fn compact(&mut self) {
        let mut next = 0;
        let moved: Vec<Option<u32>> = self
            .slots
            .iter()
            .map(|slot| {
                slot.alive.then(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let mut renamed = vec![u32::MAX; self.postings.len()];
        let mut postings = Vec::new();
        for (term, list) in std::mem::take(&mut self.postings).into_iter().enumerate() {
            if list.live > 0 {
                renamed[term] = postings.len() as u32;
                postings.push(list.compacted(&moved));
            }
        }
        self.postings = postings;
        self.terms.retain(|_, term| {
            *term = renamed[*term as usize];
            *term != u32::MAX
        });
        self.terms.shrink_to_fit();
        self.slots.retain(|slot| slot.alive);
        for (at, slot) in self.slots.iter_mut().enumerate() {
            slot.terms.iter_mut().for_each(|term| *term = renamed[*term as usize]);
            self.by_id.insert(slot.id, at as u32);
        }
    }

    /// Puts all records of `other` behind those here.
    fn append(&mut self, other: Self) {
        for slot in &other.slots {
            self.remove(slot.id);
        }
        let base = self.slots.len() as u32;
        let mut renamed = vec![0; other.postings.len()];
        for (word, term) in &other.terms {
            let here = self.intern(word);
            renamed[*term as usize] = here;
            let list = &mut self.postings[here as usize];
            for posting in other.postings[*term as usize].all() {
                if other.slots[posting.slot as usize].alive {
                    list.push(Posting { slot: base + posting.slot, ..*posting });
                }
            }
        }
        self.total_len += other.total_len;
        for mut slot in other.slots {
            slot.terms.iter_mut().for_each(|term| *term = renamed[*term as usize]);
            if slot.alive {
                self.by_id.insert(slot.id, self.slots.len() as u32);
            }
            self.slots.push(slot);
        }
    }

    fn intern(&mut self, token: &str) -> u32 {
        if let Some(&term) = self.terms.get(token) {
            return term;
        }
        let term = self.postings.len() as u32;
        self.terms.insert(token.into(), term);
        self.postings.push(Postings::default());
        term
    }

    fn postings_of(&self, term: &str) -> Option<&Postings> {
        self.terms.get(term).map(|&term| &self.postings[term as usize])
    }

    fn living(&self, slot: u32) -> Option<RecordId> {
        let slot = &self.slots[slot as usize];
        slot.alive.then_some(slot.id)
    }

    fn bm25(&self) -> Bm25 {
        let records = self.by_id.len().max(1) as f32;
        let average = (self.total_len as f32 / records).max(1.0);
        let LexicalParams { k1, b, .. } = self.params;
        Bm25 { records, k1, flat: k1 * (1.0 - b), slope: k1 * b / average }
    }
}

#[cfg(test)]
#[path = "lexical/lexical_tests.rs"]
mod tests;
