//! The words of records as Qdrant keeps them: a sparse vector for BM25, numbers for look-ups.
//!
//! BM25 is a product: how rare a word is, known when asked, times how much of the record it is, known when
//! written. The second part is the record's sparse vector; the first is the query's, from counts of the
//! partition alone. The mean length of records, which moves with every write, is a constant here. A word is 64
//! bits of a hash salted with the partition in look-ups and 32 of them in the vector, where a word among a
//! million others shares its number with one of them with odds of 1 in 4,300.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::backend::terms::Numbering;
use crate::lexical::{LexicalParams, Words, for_each_token};
use crate::literal::{file_key, symbol_key};
use crate::record::Record;
use crate::scope::Partition;

/// Words of a record for which length neither adds nor takes: about those of a function.
const MEAN_LENGTH: f32 = 128.0;

/// Numbers of a record's words, and of the names it is found by; sorted.
pub(super) fn terms(record: &Record) -> Vec<i64> {
    let numbers = Numbering::of(&record.scope.partition);
    let mut terms: Vec<i64> = counts(record).keys().map(|word| numbers.word(word)).collect();
    let Words { symbol, path, .. } = Words::from(record);
    terms.extend(symbol.filter(|symbol| !symbol.is_empty()).map(|symbol| named(&numbers, SYMBOL, &symbol_key(symbol))));
    terms.extend(path.filter(|path| !path.is_empty()).map(|path| named(&numbers, FILE, &file_key(path))));
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// Numbers of records that `name` may be the symbol or the path of.
pub(super) fn names(partition: &Partition, name: &str) -> [i64; 2] {
    let numbers = Numbering::of(partition);
    [named(&numbers, SYMBOL, &symbol_key(name)), named(&numbers, FILE, &file_key(name))]
}

/// Marks that no word has in it.
const SYMBOL: char = '=';
const FILE: char = '/';

fn named(numbers: &Numbering, mark: char, key: &str) -> i64 {
    numbers.word(&format!("{mark}{key}"))
}

/// A record's part of BM25, word by word; `None` if it has no words.
pub(super) fn vector(record: &Record) -> Option<Value> {
    let LexicalParams { k1, b, .. } = LexicalParams::default();
    let counts = counts(record);
    let length: f32 = counts.values().sum();
    let flat = k1 * (1.0 - b + b * length / MEAN_LENGTH);
    let numbers = Numbering::of(&record.scope.partition);
    sparse(counts.iter().map(|(word, count)| (numbers.word(word), count * (k1 + 1.0) / (count + flat))))
}

/// A sparse vector of weights by word; `None` if there are none. Words that share an index are added.
pub(super) fn sparse(weights: impl Iterator<Item = (i64, f32)>) -> Option<Value> {
    let mut places: BTreeMap<u32, f32> = BTreeMap::new();
    for (word, weight) in weights {
        *places.entry((word & i64::from(u32::MAX)) as u32).or_default() += weight;
    }
    let (indices, values): (Vec<u32>, Vec<f32>) = places.into_iter().unzip();
    (!indices.is_empty()).then(|| json!({"indices": indices, "values": values}))
}

/// How often each word stands in a record, weighed by where.
fn counts(record: &Record) -> BTreeMap<String, f32> {
    let params = LexicalParams::default();
    let Words { content, symbol, path } = Words::from(record);
    let mut counts: BTreeMap<String, f32> = BTreeMap::new();
    let places = [(content, 1), (symbol.unwrap_or_default(), params.symbol), (path.unwrap_or_default(), params.path)];
    for (text, weight) in places {
        for_each_token(text, |token| *counts.entry(token.to_owned()).or_default() += f32::from(weight));
    }
    counts
}
