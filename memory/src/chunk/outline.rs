//! The definitions of a file, found by walking its syntax tree.
//!
//! The walk is iterative, so depth costs no stack, and goes into whatever spans several lines, so that
//! definitions inside a broken or conditional part are found too. Time and size of a parse are bounded.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use tree_sitter::{Node, ParseOptions, ParseState, Parser, Tree};

use super::ChunkLimits;
use super::grammar::{Grammar, Kind, Naming};

/// A definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Its name behind those of what it stands in.
    pub symbol: Option<String>,
    /// Kind of its node.
    pub node: &'static str,
    /// Lines from 0, with the comments, attributes and wrappers before it.
    pub lines: Range<usize>,
    /// The item it stands in; always an earlier one.
    pub parent: Option<usize>,
    /// Whether the symbol is defined here, and not added to.
    pub defines: bool,
    /// Its comment or docstring, marks removed.
    pub doc: Option<String>,
}

/// Definitions deeper in others than this are left to the one around them.
const MAX_DEPTH: usize = 16;

/// The definitions of `text`, outer before inner, in the order of the text. Empty if it could not be parsed.
pub(super) fn outline(text: &str, grammar: &Grammar, limits: &ChunkLimits) -> Vec<Item> {
    let Some(tree) = parse(text, grammar, limits) else { return Vec::new() };
    let mut walk = Walk { text, grammar, max_bytes: limits.max_bytes, items: Vec::new() };
    let mut cursor = tree.walk();
    let mut frames = vec![Frame::default()];
    'walk: loop {
        let inner = frames.last_mut().and_then(|frame| walk.visit(cursor.node(), frame));
        if let Some(inner) = inner
            && cursor.goto_first_child()
        {
            frames.push(inner);
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                break 'walk;
            }
            frames.pop();
        }
    }
    walk.items
}

fn parse(text: &str, grammar: &Grammar, limits: &ChunkLimits) -> Option<Tree> {
    if text.len() > limits.max_parse_bytes {
        return None;
    }
    let mut parser = Parser::new();
    parser.set_language(&(grammar.language)()).ok()?;
    let until = Instant::now() + limits.max_parse;
    let mut in_time = |_: &ParseState| {
        if Instant::now() < until { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let options = ParseOptions::new().progress_callback(&mut in_time);
    parser.parse_with_options(&mut |at, _| text.as_bytes().get(at..).unwrap_or_default(), None, Some(options))
}

/// What is known among the children of one node.
#[derive(Default)]
struct Frame {
    /// Item around them.
    owner: Option<usize>,
    /// How many items are around them.
    depth: usize,
    /// First line of a wrapper around them, and the comments before it; the first definition takes it.
    wrapper: Option<Lead>,
    /// Comments and attributes seen since the last other node.
    lead: Option<Lead>,
    /// Last line of the child before.
    before: Option<usize>,
}

/// Lines before a definition that belong to it.
struct Lead {
    first: usize,
    last: usize,
    comments: Vec<Range<usize>>,
}

struct Walk<'a> {
    text: &'a str,
    grammar: &'a Grammar,
    max_bytes: usize,
    items: Vec<Item>,
}

impl Walk<'_> {
    /// Takes note of a node; the frame of its children if they are to be visited.
    fn visit(&mut self, node: Node<'_>, frame: &mut Frame) -> Option<Frame> {
        let (first, last) = rows(node);
        let own_line = frame.before.is_none_or(|before| before < first);
        frame.before = Some(last);
        let comment = self.grammar.comments.contains(&node.kind());
        if comment || self.grammar.attributes.contains(&node.kind()) {
            self.lead(node, comment, own_line, frame);
            return None;
        }
        let lead = frame.lead.take().filter(|lead| lead.last + 1 >= first);
        let inner = Frame { owner: frame.owner, depth: frame.depth, ..Frame::default() };
        if let Some((symbol, kind, container)) = self.definition(node, frame) {
            let outer = frame.wrapper.take();
            let start = [lead.as_ref(), outer.as_ref()].into_iter().flatten().map(|lead| lead.first).min();
            let comments = lead.into_iter().chain(outer).flat_map(|lead| lead.comments);
            let doc = self.docstring(node).or_else(|| self.plain(comments));
            self.items.push(Item {
                symbol: Some(symbol),
                node: kind.node,
                lines: start.unwrap_or(first).min(first)..last + 1,
                parent: frame.owner,
                defines: kind.naming != Naming::Impl,
                doc,
            });
            let go_on = container || node.byte_range().len() > self.max_bytes;
            return go_on.then(|| Frame { owner: Some(self.items.len() - 1), depth: frame.depth + 1, ..inner });
        }
        let wraps = self.grammar.wrappers.contains(&node.kind());
        if first == last && !wraps {
            return None; // what shares a line shares a chunk
        }
        let wrapper = wraps.then(|| {
            let (start, comments) = lead.map_or((first, Vec::new()), |lead| (lead.first, lead.comments));
            let outer = frame.wrapper.take();
            Lead {
                first: outer.as_ref().map_or(start, |outer| outer.first.min(start)),
                last: first,
                comments: outer.into_iter().flat_map(|outer| outer.comments).chain(comments).collect(),
            }
        });
        Some(Frame { wrapper, ..inner })
    }

    /// Adds a comment or an attribute to what precedes the next definition, if it touches it.
    fn lead(&self, node: Node<'_>, comment: bool, own_line: bool, frame: &mut Frame) {
        let (first, last) = rows(node);
        let text = &self.text[node.byte_range()];
        // `//!`, `/*!` and `#!` speak of the file; a comment behind code speaks of that code.
        if !own_line || ["//!", "/*!", "#!"].iter().any(|mark| text.starts_with(mark)) {
            frame.lead = None;
            return;
        }
        let touching = frame.lead.take().filter(|lead| lead.last + 1 >= first);
        let lead = frame.lead.insert(touching.unwrap_or(Lead { first, last, comments: Vec::new() }));
        lead.last = last;
        if comment {
            lead.comments.push(node.byte_range());
        }
    }

    /// Qualified name of a definition, its row of the table, and whether it has others inside.
    fn definition(&self, node: Node<'_>, frame: &Frame) -> Option<(String, Kind, bool)> {
        if frame.depth >= MAX_DEPTH || !node.is_named() {
            return None;
        }
        let of = |table: &'static [Kind]| table.iter().find(|kind| kind.node == node.kind()).copied();
        let leaf = of(self.grammar.leaves).map(|kind| (kind, false));
        let (kind, container) = leaf.or_else(|| of(self.grammar.containers).map(|kind| (kind, true)))?;
        let name = kind.naming.name(node, self.text)?;
        let around = frame.owner.and_then(|owner| self.items[owner].symbol.as_deref());
        let symbol = match around {
            Some(around) => format!("{around}{}{name}", self.grammar.separator),
            None => name,
        };
        Some((symbol, kind, container))
    }

    /// The string that opens a body, in languages where that is the doc.
    fn docstring(&self, node: Node<'_>) -> Option<String> {
        let body = node.child_by_field_name("body").filter(|_| self.grammar.docstrings)?;
        let first = body.named_child(0)?;
        let string = if first.kind() == "expression_statement" { first.named_child(0)? } else { first };
        let text = (string.kind() == "string").then(|| &self.text[string.byte_range()])?;
        let text = text.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim_matches(['"', '\'']);
        without_margin(text.lines(), |line| line)
    }

    /// Comments without their marks.
    fn plain(&self, comments: impl Iterator<Item = Range<usize>>) -> Option<String> {
        let lines: Vec<&str> = comments.flat_map(|range| self.text[range].lines()).collect();
        without_margin(lines.into_iter(), |line| {
            let line = line.strip_suffix("*/").unwrap_or(line);
            let marks = ["///", "//", "/**", "/*", "#", "*"];
            marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line)
        })
    }
}

/// Lines trimmed, `strip`ped and trimmed again, empty ones around them dropped.
fn without_margin<'a>(lines: impl Iterator<Item = &'a str>, strip: impl Fn(&'a str) -> &'a str) -> Option<String> {
    let lines: Vec<&str> = lines.map(|line| strip(line.trim()).trim()).collect();
    let text = lines.join("\n");
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// First and last line of a node; a line comment that ends with its line's end does not reach the next.
fn rows(node: Node<'_>) -> (usize, usize) {
    let (start, end) = (node.start_position(), node.end_position());
    let last = if end.column == 0 && end.row > start.row { end.row - 1 } else { end.row };
    (start.row, last)
}
