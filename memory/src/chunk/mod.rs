//! Source files to pieces worth remembering: functions and types with their docs, sections of prose, and
//! what lies between.
//!
//! A file's lines are shared out, none lost and none twice: every line that is not blank stands in exactly
//! one chunk, and chunks come in the file's order. A line longer than [`ChunkLimits::max_bytes`] (a minified
//! file) is cut, and its pieces bear the same number. Line ends become `\n`, a leading byte order mark is
//! dropped, blank lines around a chunk are dropped; else a chunk's text is the source as it stands.
//!
//! Syntax trees are tree-sitter's. Where a file does not parse, what parses is still found inside it; where
//! parsing takes too long, or nothing is known of the language, lines are packed by blank line and indent.

mod grammar;
mod language;
mod lines;
mod markdown;
mod outline;
mod segment;

use std::time::Duration;

pub use language::{Language, language_of};

use lines::Lines;
use outline::Item;

/// How large pieces are, and how long a parse may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// A piece larger than this is split, bytes. About 500 tokens of code at the default.
    pub max_bytes: usize,
    /// Neighbours smaller than this are joined, bytes.
    pub min_bytes: usize,
    /// A file larger than this is not parsed but split by lines, bytes.
    pub max_parse_bytes: usize,
    /// A parse that takes longer is given up, and the file is split by lines.
    pub max_parse: Duration,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { max_bytes: 2000, min_bytes: 200, max_parse_bytes: 1 << 20, max_parse: Duration::from_secs(2) }
    }
}

impl ChunkLimits {
    /// The least `max_bytes` that is used: below it a piece says nothing.
    const LEAST: usize = 64;

    /// The same with sizes that can be worked with.
    fn sane(self) -> Self {
        let max_bytes = self.max_bytes.max(Self::LEAST);
        Self { max_bytes, min_bytes: self.min_bytes.min(max_bytes / 2), ..self }
    }
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The source.
    pub text: String,
    /// What it defines, qualified (`parse::Parser::next`, `Class.method`, `Title > Section`); of several, the
    /// first. All pieces of a definition that was split have its symbol.
    pub symbol: Option<String>,
    /// All that it defines, where that is more than `symbol`: small neighbours were joined.
    pub symbols: Vec<String>,
    /// What it is in the grammar's words (`function_item`, `section`); `None`: what lies between.
    pub node: Option<&'static str>,
    /// Language, lower case.
    pub language: &'static str,
    /// First and last line, from 1.
    pub lines: (u32, u32),
    /// Its doc comment or docstring without the marks.
    pub doc: Option<String>,
}

/// Splits `text`, the file at `path`, into chunks. Takes any text; an empty one has none.
pub fn chunk_source(path: &str, text: &str, limits: &ChunkLimits) -> Vec<Chunk> {
    let limits = limits.sane();
    let language = language_of(path, text);
    let text = normalised(text);
    let lines = Lines::new(&text);
    let items = match language.grammar() {
        Some(grammar) => outline::outline(&text, grammar, &limits),
        None if language.name == "markdown" => markdown::sections(&lines),
        None => Vec::new(),
    };
    let mut chunks = Vec::new();
    for segment in segment::segments(&lines, &items, &limits) {
        let named = || segment.items.iter().map(|&item| &items[item]);
        let around = || segment.around.map(|item| &items[item]);
        let first: Option<&Item> = named().find(|item| item.defines).or(named().next()).or_else(around);
        let symbols: Vec<String> = named().filter(|item| item.defines).filter_map(|item| item.symbol.clone()).collect();
        for (piece, range) in lines.split(segment.first, segment.last, limits.max_bytes) {
            chunks.push(Chunk {
                text: piece.to_owned(),
                symbol: first.and_then(|item| item.symbol.clone()),
                symbols: if symbols.len() > 1 { symbols.clone() } else { Vec::new() },
                node: first.map(|item| item.node),
                language: language.name,
                lines: range,
                doc: first.and_then(|item| item.doc.clone()),
            });
        }
    }
    chunks
}

/// Without byte order mark, with `\n` as the only line end.
fn normalised(text: &str) -> std::borrow::Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

#[cfg(test)]
mod tests;
