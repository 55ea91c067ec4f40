//! Special tokens: found in text where that is asked for, and kept out of it everywhere else.

use std::collections::{HashMap, HashSet};

use regex::{Regex, RegexBuilder};

use super::blueprint::TokenKind;
use super::error::TokenizerError;

/// Whether the texts of special tokens inside a text stand for those tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// `<|im_end|>` becomes the control token: for text the server wrote itself.
    Parse,
    /// `<|im_end|>` becomes the ids of its characters: for everything a user sent.
    AsText,
}

/// How much a token written out in text may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SpecialClass {
    /// A plain string that has its own token, such as a run of spaces: matched in any text.
    Text,
    /// Markup a template writes, such as `<tool_call>`: ordinary to the model, never made from user text where that
    /// leaves the template's meaning alone.
    Markup,
    /// Turns, ends, fill-in-the-middle: never made from user text.
    Control,
}

/// Markup has angle or square brackets around it, with a letter inside.
fn looks_like_markup(text: &str) -> bool {
    let bracketed = (text.starts_with('<') && text.ends_with('>')) || (text.starts_with('[') && text.ends_with(']'));
    bracketed && text.chars().any(char::is_alphabetic)
}

/// `<|x|>` and `<｜x｜>`.
pub(super) fn has_pipes(text: &str) -> bool {
    let within = |open: &str, close: &str| {
        text.len() > open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
    };
    within("<|", "|>") || within("<｜", "｜>")
}

/// Tokens with pipes are control tokens whatever a file says, as are the ends that models stop on.
pub(super) fn looks_like_control(text: &str) -> bool {
    has_pipes(text) || END_OF_GENERATION.contains(&text) || FIM_NAMES.contains(&text)
}

/// Texts that end a generation in any family that has them.
pub(super) const END_OF_GENERATION: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<EOT>",
    "▁<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
    "<|EOT|>",
    "<|endofprompt|>",
];

/// Fill-in-the-middle texts without pipes, so that they count as control tokens wherever they are in a vocabulary.
const FIM_NAMES: &[&str] = &[
    "<fim_prefix>",
    "<fim_suffix>",
    "<fim_middle>",
    "<fim_pad>",
    "<fim-prefix>",
    "<fim-suffix>",
    "<fim-middle>",
    "<fim-pad>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "▁<PRE>",
    "▁<SUF>",
    "▁<MID>",
    "[PREFIX]",
    "[SUFFIX]",
    "[MIDDLE]",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "<s>",
    "</s>",
];

/// A token that is matched in text as a whole.
pub(super) struct SpecialToken {
    pub(super) id: u32,
    pub(super) text: String,
    pub(super) class: SpecialClass,
    /// Takes the white space before it.
    pub(super) lstrip: bool,
    /// Takes the white space after it.
    pub(super) rstrip: bool,
}

impl SpecialToken {
    /// The class a token of the vocabulary has, if it is matched as a whole at all.
    pub(super) fn class_of(kind: TokenKind, text: &str) -> Option<SpecialClass> {
        match kind {
            _ if text.is_empty() => None,
            TokenKind::Control | TokenKind::Unknown => Some(SpecialClass::Control),
            TokenKind::UserDefined if looks_like_control(text) => Some(SpecialClass::Control),
            TokenKind::UserDefined if looks_like_markup(text) => Some(SpecialClass::Markup),
            TokenKind::UserDefined => Some(SpecialClass::Text),
            TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => None,
        }
    }
}

/// A stretch of text, or a special token that stood between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    Text(&'a str),
    Special(u32),
}

/// All special tokens of a vocabulary and how they are found.
pub(super) struct SpecialTokens {
    tokens: Vec<SpecialToken>,
    /// Text to index in `tokens`.
    by_text: HashMap<String, usize>,
    /// Id to class.
    classes: HashMap<u32, SpecialClass>,
    /// Finds any, longest first; `None` without tokens.
    any: Option<Regex>,
    /// Finds those of class `Text`.
    plain: Option<Regex>,
    /// Proper prefixes and suffixes, two characters and up, of the tokens user text must not form.
    prefixes: HashSet<String>,
    suffixes: HashSet<String>,
    longest: usize,
}

/// Special tokens longer than this have no edges kept (no real one is).
const LONGEST_EDGE: usize = 64;
/// No real vocabulary has more (Codestral: 768; Llama 3: 256).
const MAX_SPECIALS: usize = 1 << 16;

impl SpecialTokens {
    pub(super) fn new(tokens: Vec<SpecialToken>) -> Result<Self, TokenizerError> {
        if tokens.len() > MAX_SPECIALS {
            return Err(TokenizerError::TooMany { part: "special tokens", found: tokens.len(), limit: MAX_SPECIALS });
        }
        let any = finder(tokens.iter().map(|token| token.text.as_str()))?;
        let plain =
            finder(tokens.iter().filter(|token| token.class == SpecialClass::Text).map(|token| token.text.as_str()))?;
        let by_text = tokens.iter().enumerate().map(|(index, token)| (token.text.clone(), index)).collect();
        let classes = tokens.iter().map(|token| (token.id, token.class)).collect();
        let mut specials = SpecialTokens {
            by_text,
            classes,
            any,
            plain,
            prefixes: HashSet::new(),
            suffixes: HashSet::new(),
            longest: 0,
            tokens,
        };
        specials.collect_edges();
        Ok(specials)
    }

    fn collect_edges(&mut self) {
        for token in &self.tokens {
            if token.class == SpecialClass::Text || token.text.len() > LONGEST_EDGE {
                continue;
            }
            self.longest = self.longest.max(token.text.len());
            for (at, _) in token.text.char_indices().skip(1) {
                let (head, tail) = token.text.split_at(at);
                if head.chars().nth(1).is_some() {
                    self.prefixes.insert(head.to_owned());
                }
                if tail.chars().nth(1).is_some() {
                    self.suffixes.insert(tail.to_owned());
                }
            }
        }
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.by_text.get(text).map(|&index| self.tokens[index].id)
    }

    pub(super) fn class(&self, id: u32) -> Option<SpecialClass> {
        self.classes.get(&id).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.tokens.iter().map(|token| (token.id, token.text.as_str()))
    }

    /// Cuts `text` at its special tokens; leftmost first, the longest where several start at one place.
    pub(super) fn segments<'a>(&self, text: &'a str, specials: Specials) -> Vec<Segment<'a>> {
        let finder = match specials {
            Specials::Parse => &self.any,
            Specials::AsText => &self.plain,
        };
        let Some(finder) = finder else {
            return if text.is_empty() { Vec::new() } else { vec![Segment::Text(text)] };
        };
        let mut segments = Vec::new();
        let mut from = 0;
        for found in finder.find_iter(text) {
            let Some(&index) = self.by_text.get(found.as_str()) else {
                continue;
            };
            let token = &self.tokens[index];
            if found.start() < from {
                continue; // eaten by the white space of the token before
            }
            let mut before = &text[from..found.start()];
            if token.lstrip {
                before = before.trim_end();
            }
            if !before.is_empty() {
                segments.push(Segment::Text(before));
            }
            segments.push(Segment::Special(token.id));
            from = found.end();
            if token.rstrip {
                from = text.len() - text[from..].trim_start().len();
            }
        }
        if from < text.len() {
            segments.push(Segment::Text(&text[from..]));
        }
        segments
    }

    /// Puts `mark` inside every special token of class `least` or above that `text` contains, or could form together
    /// with a neighbouring text, so that none is left whole. Taking the marks out again gives `text`.
    pub(super) fn broken(&self, text: &str, mark: char, least: SpecialClass) -> String {
        let mut cuts: Vec<usize> = Vec::new(); // where marks go: after the first character of each token
        if let Some(any) = &self.any {
            let mut from = 0;
            while let Some(found) = any.find_at(text, from) {
                let first = text[found.start()..].chars().next().map_or(1, char::len_utf8);
                from = found.start() + first;
                let class = self.by_text.get(found.as_str()).map(|&index| self.tokens[index].class);
                if class.is_some_and(|class| class >= least) {
                    cuts.push(from);
                }
            }
        }
        cuts.extend(self.edge_cuts(text));
        cuts.sort_unstable();
        cuts.dedup();
        let mut broken = String::with_capacity(text.len() + cuts.len() * mark.len_utf8());
        let mut done = 0;
        for cut in cuts {
            broken.push_str(&text[done..cut]);
            broken.push(mark);
            done = cut;
        }
        broken.push_str(&text[done..]);
        broken
    }

    /// Where the text ends in the beginning of a special token, or begins with the end of one.
    fn edge_cuts(&self, text: &str) -> Vec<usize> {
        let trimmed = text.trim_end();
        let tail_start = trimmed.len().saturating_sub(self.longest);
        let mut cuts: Vec<usize> = trimmed
            .char_indices()
            .rev()
            .take_while(|&(at, _)| at >= tail_start)
            .filter(|&(at, _)| self.prefixes.contains(&trimmed[at..]))
            .map(|(at, first)| at + first.len_utf8())
            .collect();
        let start = text.len() - text.trim_start().len();
        let head = &text[start..];
        let mut ends = head.char_indices().map(|(at, first)| at + first.len_utf8());
        let first_end = ends.next();
        if ends.take_while(|&end| end <= self.longest).any(|end| self.suffixes.contains(&head[..end])) {
            cuts.extend(first_end.map(|end| start + end));
        }
        cuts
    }
}

/// A matcher for any of the texts, the longest first; `None` for no texts.
fn finder<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Option<Regex>, TokenizerError> {
    let mut texts: Vec<&str> = texts.collect();
    if texts.is_empty() {
        return Ok(None);
    }
    texts.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
    let escaped: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
    let regex = RegexBuilder::new(&escaped.join("|")).size_limit(256 << 20).build().map_err(|error| {
        TokenizerError::BadPattern {
            part: "special tokens".to_owned(),
            pattern: format!("{} texts", texts.len()),
            reason: error.to_string(),
        }
    })?;
    Ok(Some(regex))
}
