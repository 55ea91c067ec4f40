//! Records by what stands in them as it is: the symbol they define, their path, a text they hold.
//!
//! Meaning and words find what is like a name; whoever types `load_config` wants the record that defines it, before
//! all that is like it. Symbols and file names are kept in maps; other literals are narrowed by the inverted index and
//! then verified in the content.

mod terms;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;

use crate::backend::Candidate;
use crate::lexical::{LexicalIndex, Words};
use crate::record::RecordId;
pub use terms::{Literal, Literals};

/// How well a literal matches a record, each tier better than all below; a record's score is the sum over literals.
pub mod strength {
    /// It is the record's symbol, letter for letter.
    pub const SYMBOL: f32 = 1.0;
    /// It is the end of the symbol (`search`, `Graph::search` of `index::Graph::search`).
    pub const SYMBOL_END: f32 = 0.9;
    /// It is the record's path, or the end of it from a `/` on.
    pub const PATH: f32 = 0.8;
    /// It is the symbol but for case.
    pub const SYMBOL_ANY_CASE: f32 = 0.7;
    /// It is the end of the symbol but for case.
    pub const SYMBOL_END_ANY_CASE: f32 = 0.6;
    /// The content holds it, letter for letter, at the bounds of words.
    pub const CONTENT: f32 = 0.5;
}

/// Symbols and paths of a partition's records.
#[derive(Debug, Clone, Default)]
pub struct LiteralIndex {
    /// By a symbol's last segment, lower case.
    by_symbol: HashMap<Box<str>, Vec<RecordId>, RandomState>,
    /// By a path's last segment, lower case.
    by_file: HashMap<Box<str>, Vec<RecordId>, RandomState>,
    named: HashMap<RecordId, Named, RandomState>,
}

#[derive(Debug, Clone)]
struct Named {
    symbol: Option<Box<str>>,
    path: Option<Box<str>>,
}

impl LiteralIndex {
    /// Contents read to verify one literal; of more candidates the best by BM25.
    pub const MAX_VERIFIED: usize = 256;

    /// Puts a record in, in place of the one of that id if there is one.
    pub fn insert(&mut self, id: RecordId, words: Words<'_>) {
        self.remove(id);
        let symbol = words.symbol.filter(|symbol| !symbol.is_empty());
        let path = words.path.filter(|path| !path.is_empty());
        if let Some(symbol) = symbol {
            self.by_symbol.entry(symbol_key(symbol)).or_default().push(id);
        }
        if let Some(path) = path {
            self.by_file.entry(file_key(path)).or_default().push(id);
        }
        if symbol.is_some() || path.is_some() {
            self.named.insert(id, Named { symbol: symbol.map(Into::into), path: path.map(Into::into) });
        }
    }

    /// Takes a record out; whether it had a symbol or a path.
    pub fn remove(&mut self, id: RecordId) -> bool {
        let Some(named) = self.named.remove(&id) else { return false };
        if let Some(symbol) = named.symbol {
            take_out(&mut self.by_symbol, symbol_key(&symbol), id);
        }
        if let Some(path) = named.path {
            take_out(&mut self.by_file, file_key(&path), id);
        }
        true
    }

    /// The `k` records that match the literals of `query` best, by [`strength`], ties by id.
    ///
    /// `words` is the inverted index of the same records, `content` reads a record's text. A literal with no word in
    /// it (`->`) finds nothing; one that begins or ends inside a word does not match there.
    pub fn search(
        &self,
        words: &LexicalIndex,
        query: &str,
        k: usize,
        accept: &dyn Fn(RecordId) -> bool,
        content: &dyn Fn(RecordId) -> Option<String>,
    ) -> Vec<Candidate> {
        let mut scores: HashMap<RecordId, f32, RandomState> = HashMap::default();
        for literal in Literals::of(query).all {
            let mut matched = self.by_name(&literal.text);
            for candidate in words.search_all(&literal.text, Self::MAX_VERIFIED, accept) {
                if let Entry::Vacant(entry) = matched.entry(candidate.id)
                    && content(candidate.id).is_some_and(|content| holds(&content, &literal.text))
                {
                    entry.insert(strength::CONTENT);
                }
            }
            for (id, strength) in matched {
                *scores.entry(id).or_default() += strength;
            }
        }
        let mut found: Vec<Candidate> =
            scores.into_iter().filter(|&(id, _)| accept(id)).map(|(id, score)| Candidate { id, score }).collect();
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        found.truncate(k);
        found
    }

    /// Records with a symbol or a path.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len().next_multiple_of(16));
        let named: usize = self.named.values().map(|named| text(&named.symbol) + text(&named.path)).sum();
        let maps = self.by_symbol.iter().chain(&self.by_file);
        let lists: usize = maps.map(|(key, ids)| key.len().next_multiple_of(16) + ids.capacity() * 16).sum();
        let slots = (self.by_symbol.capacity() + self.by_file.capacity()) * 41 + self.named.capacity() * 49;
        named + lists + slots
    }

    /// Records whose symbol or path `name` is.
    fn by_name(&self, name: &str) -> HashMap<RecordId, f32, RandomState> {
        let symbols = self.by_symbol.get(&symbol_key(name)).into_iter().flatten();
        let files = self.by_file.get(&file_key(name)).into_iter().flatten();
        let strength = |id: &RecordId| {
            let named = self.named.get(id)?;
            let symbol = named.symbol.as_deref().and_then(|symbol| symbol_strength(symbol, name));
            let path = named.path.as_deref().and_then(|path| path_strength(path, name));
            Some((*id, symbol.into_iter().chain(path).reduce(f32::max)?))
        };
        symbols.chain(files).filter_map(strength).collect()
    }
}

fn take_out(map: &mut HashMap<Box<str>, Vec<RecordId>, RandomState>, key: Box<str>, id: RecordId) {
    if let Entry::Occupied(mut entry) = map.entry(key) {
        entry.get_mut().retain(|&other| other != id);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

/// The names in a symbol: `Graph::search` and `Graph.search` have the same.
fn segments(symbol: &str) -> impl DoubleEndedIterator<Item = &str> {
    symbol.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|segment| !segment.is_empty())
}

/// What a symbol is looked up by: its last name in lower case.
pub(crate) fn symbol_key(symbol: &str) -> Box<str> {
    segments(symbol).next_back().unwrap_or_default().to_lowercase().into()
}

/// What a path is looked up by: its last part in lower case.
pub(crate) fn file_key(path: &str) -> Box<str> {
    path.rsplit('/').next().unwrap_or_default().to_lowercase().into()
}

fn symbol_strength(symbol: &str, name: &str) -> Option<f32> {
    let (whole, asked) = (segments(symbol).count(), segments(name).count());
    if asked == 0 || asked > whole {
        return None;
    }
    let pairs = || segments(symbol).rev().zip(segments(name).rev());
    let exact = pairs().all(|(a, b)| a == b);
    match (exact, asked == whole) {
        (true, true) => Some(strength::SYMBOL),
        (true, false) => Some(strength::SYMBOL_END),
        (false, all) => {
            let same = pairs().all(|(a, b)| a.to_lowercase() == b.to_lowercase());
            same.then_some(if all { strength::SYMBOL_ANY_CASE } else { strength::SYMBOL_END_ANY_CASE })
        }
    }
}

fn path_strength(path: &str, name: &str) -> Option<f32> {
    let before = path.strip_suffix(name.trim_start_matches('/'))?;
    (before.is_empty() || before.ends_with('/')).then_some(strength::PATH)
}

/// Whether `literal` stands in `content` with no letter, digit or `_` run on at an end that is one itself.
fn holds(content: &str, literal: &str) -> bool {
    let in_word = |c: char| c == '_' || c.is_alphanumeric();
    let (first, last) = (literal.chars().next(), literal.chars().next_back());
    content.match_indices(literal).any(|(at, _)| {
        let before = content[..at].chars().next_back();
        let after = content[at + literal.len()..].chars().next();
        let runs_on =
            |inner: Option<char>, outer: Option<char>| inner.is_some_and(in_word) && outer.is_some_and(in_word);
        !runs_on(first, before) && !runs_on(last, after)
    })
}

#[cfg(test)]
#[path = "literal/literal_tests.rs"]
mod tests;
