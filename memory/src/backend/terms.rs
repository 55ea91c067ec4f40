//! Words as numbers, for engines that keep the words of a record beside it.
//!
//! A word's number depends on its partition: an engine's postings of one partition are never read for
//! another's search, and what they weigh says nothing about another's content.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::scope::Partition;

/// Words of a text with the times each occurs.
pub(super) fn word_counts(text: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for word in words(text) {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts
}

/// Gives words of one partition their numbers.
pub(super) struct Numbering(Sha256);

impl Numbering {
    pub(super) fn of(partition: &Partition) -> Self {
        let mut hash = Sha256::new();
        for name in [&partition.tenant, &partition.domain] {
            hash.update((name.as_str().len() as u64).to_le_bytes());
            hash.update(name.as_str().as_bytes());
        }
        Self(hash)
    }

    /// 64 bits of a hash: among a million words two share a number with odds of 3 in 100 million.
    pub(super) fn word(&self, word: &str) -> i64 {
        let mut hash = self.0.clone();
        hash.update(word.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        i64::from_le_bytes(head)
    }
}

/// What a record is found by as the definition of `symbol`: as words that no text has. `=` marks a name as it
/// stands and `~` one in lower case; both the whole symbol and its last segment are names.
pub(super) fn names(symbol: Option<&str>) -> Vec<String> {
    let Some(symbol) = symbol.filter(|symbol| !symbol.is_empty()) else {
        return Vec::new();
    };
    let last = symbol.rsplit([':', '.', '#', '/']).find(|part| !part.is_empty()).unwrap_or(symbol);
    let mut names: Vec<String> =
        [symbol, last].into_iter().flat_map(|name| [exact_name(name), any_case(name)]).collect();
    names.sort();
    names.dedup();
    names
}

/// A name as it stands.
pub(super) fn exact_name(name: &str) -> String {
    format!("={name}")
}

/// A name in any case.
pub(super) fn any_case(name: &str) -> String {
    format!("~{}", name.to_lowercase())
}

/// What a query wants found as it stands: what it quotes, words that look like code or a path, and its only
/// word.
pub(super) fn literals(query: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut rest = query;
    let mut plain = String::new();
    while let Some(open) = rest.find(['"', '`']) {
        let quote = &rest[open..=open];
        let Some(length) = rest[open + 1..].find(quote) else { break };
        found.push(rest[open + 1..open + 1 + length].to_owned());
        plain.push_str(&rest[..open]);
        plain.push(' ');
        rest = &rest[open + 2 + length..];
    }
    plain.push_str(rest);
    let trimmed = |word: &'_ str| -> String {
        word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_' && c != '/').to_owned()
    };
    let words: Vec<String> = plain.split_whitespace().map(trimmed).filter(|word| !word.is_empty()).collect();
    let only = found.is_empty() && words.len() == 1;
    found.extend(words.into_iter().filter(|word| only || looks_like_code(word)));
    let mut seen = BTreeSet::new();
    found.retain(|literal| !literal.is_empty() && seen.insert(literal.clone()));
    found.truncate(MAX_LITERALS);
    found
}

/// Literals of a query at most; more would be a text, not a question.
const MAX_LITERALS: usize = 16;

fn looks_like_code(word: &str) -> bool {
    let joined = ["_", "::", "/", ".", "->"].iter().any(|mark| word.trim_end_matches('.').contains(mark));
    joined || parts(word).len() > 1
}

/// Longest word kept, bytes: longer ones are data, not words.
const MAX_WORD: usize = 64;

/// The words of `text`, lower case: identifiers whole, and their parts at `_`, case and digit changes.
fn words(text: &str) -> impl Iterator<Item = String> {
    let identifiers = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    identifiers.filter(|word| !word.is_empty() && word.len() <= MAX_WORD).flat_map(|identifier| {
        let mut words = vec![identifier.to_lowercase()];
        let parts = parts(identifier);
        if parts.len() > 1 {
            words.extend(parts);
        }
        words
    })
}

/// `parseHTTPRequest2` is parse, http, request, 2.
fn parts(identifier: &str) -> Vec<String> {
    let chars: Vec<char> = identifier.chars().collect();
    let mut parts = vec![String::new()];
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| chars[i]);
        let after = chars.get(i + 1);
        let begins = before.is_some_and(|before| {
            (before.is_lowercase() && c.is_uppercase())
                || (before.is_numeric() != c.is_numeric())
                || (before.is_uppercase() && c.is_uppercase() && after.is_some_and(|after| after.is_lowercase()))
        });
        if (begins || c == '_') && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut().filter(|_| c != '_') {
            part.extend(c.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::Scope;

    #[test]
    fn words_of_code() {
        let check = |text: &str, expected: &[&str]| assert_eq!(words(text).collect::<Vec<_>>(), expected, "{text}");
        check("fn parse_header(", &["fn", "parse_header", "parse", "header"]);
        check("parseHTTPRequest2", &["parsehttprequest2", "parse", "http", "request", "2"]);
        check("Größe::neu", &["größe", "neu"]);
        check("__ \0 ->", &["__"]);
        check(&"x".repeat(65), &[]);
    }

    #[test]
    fn literals_of_a_query() {
        let check = |query: &str, expected: &[&str]| assert_eq!(literals(query), expected, "{query}");
        check("Graph::search", &["Graph::search"]);
        check("search", &["search"]);
        check("how does the search work", &[]);
        check("where is parse_header, and parseUrl used?", &["parse_header", "parseUrl"]);
        check("who says \"no such thing\" in src/main.rs.", &["no such thing", "src/main.rs"]);
        check("an \"open quote", &[]);
        check("\"\"", &[]);
    }

    #[test]
    fn names_of_a_symbol() {
        assert_eq!(names(Some("Graph::search")), ["=Graph::search", "=search", "~graph::search", "~search"]);
        assert!(names(None).is_empty());
    }

    #[test]
    fn numbers_differ_between_partitions() {
        let number = |tenant, domain| Numbering::of(&Scope::of(tenant, domain).unwrap().partition).word("main");
        assert_eq!(number("a", "bc"), number("a", "bc"));
        assert_ne!(number("a", "bc"), number("ab", "c"));
    }
}
