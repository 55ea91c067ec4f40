//! Keys, tokens and passwords, taken out of a text before anything of it is stored.
//!
//! The rules are kept by hand in the style of gitleaks: a rule has words of which one must stand in the text
//! (one pass of Aho-Corasick tells which rules are tried at all), a linear-time expression, and for what has
//! no form of its own a least entropy. A secret becomes `[redacted:<rule>]` followed by as many line ends as
//! it held, so lines keep their numbers. What was found is told by rule and line, never by its text.
//!
//! It finds what has a known form or stands behind a telling name; a password in prose it does not find.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex::Regex;

mod rules;

use crate::redact::Redactor;
use rules::{RULES, Rule};

/// Changes whenever a text may be redacted in another way than before.
pub const RULES_VERSION: u32 = 1;

/// A secret that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Which rule found it (`aws-access-key`).
    pub rule: &'static str,
    /// Its first line, from 1.
    pub line: u32,
}

/// A text without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted<'a> {
    /// The text, borrowed if nothing was found. It has as many lines as before.
    pub text: Cow<'a, str>,
    /// What was taken out, in the text's order.
    pub found: Vec<Finding>,
}

/// The rules as what a [`crate::Memory`] is redacted by.
#[derive(Debug, Clone, Copy, Default)]
pub struct SecretRules;

impl Redactor for SecretRules {
    fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        redact(text).text
    }
}

/// Takes secrets out of `text`. Takes any text, in time linear in its length.
pub fn redact(text: &str) -> Redacted<'_> {
    let scanner = &*SCANNER;
    let mut tried = vec![false; RULES.len()];
    for word in scanner.words.find_overlapping_iter(text) {
        tried[scanner.rule_of_word[word.pattern().as_usize()]] = true;
    }
    let mut spans: Vec<(Range<usize>, usize)> = Vec::new();
    for (index, regex) in scanner.regexes.iter().enumerate().filter(|(index, _)| tried[*index]) {
        let found = regex.captures_iter(text).filter_map(|found| found.name("secret").or(found.get(0)));
        let real = found.filter(|secret| RULES[index].holds(secret.as_str()));
        spans.extend(real.map(|secret| (secret.range(), index)));
    }
    if spans.is_empty() {
        return Redacted { text: text.into(), found: Vec::new() };
    }
    // Where two rules meet the one that begins first has it; of two that begin together, the one listed first.
    spans.sort_by_key(|(range, rule)| (range.start, *rule));
    replace(text, spans)
}

fn replace(text: &str, spans: Vec<(Range<usize>, usize)>) -> Redacted<'_> {
    let mut out = String::with_capacity(text.len());
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    let ends = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count();
    for (range, rule) in spans {
        if range.start < at {
            // it reaches into the one before: what is left of it goes too
            line += ends(&text[at..range.end.max(at)]);
            out.extend(std::iter::repeat_n('\n', ends(&text[at..range.end.max(at)])));
            at = at.max(range.end);
            continue;
        }
        let (before, secret) = (&text[at..range.start], &text[range.clone()]);
        line += ends(before);
        let rule = RULES[rule].name;
        found.push(Finding { rule, line: u32::try_from(line).unwrap_or(u32::MAX) });
        out.push_str(before);
        out.push_str("[redacted:");
        out.push_str(rule);
        out.push(']');
        out.extend(std::iter::repeat_n('\n', ends(secret)));
        line += ends(secret);
        at = range.end;
    }
    out.push_str(&text[at..]);
    Redacted { text: out.into(), found }
}

struct Scanner {
    words: AhoCorasick,
    rule_of_word: Vec<usize>,
    regexes: Vec<Regex>,
}

/// Compiled at first use; every rule is compiled by a test too, which is why failing here is not an error.
static SCANNER: LazyLock<Scanner> = LazyLock::new(|| {
    let words: Vec<(usize, &str)> = RULES
        .iter()
        .enumerate()
        .flat_map(|(rule, Rule { words, .. })| words.iter().map(move |word| (rule, *word)))
        .collect();
    let automaton = AhoCorasick::builder().ascii_case_insensitive(true).build(words.iter().map(|(_, word)| word));
    Scanner {
        words: automaton.expect("words of the rules are constants"),
        rule_of_word: words.iter().map(|(rule, _)| *rule).collect(),
        regexes: RULES.iter().map(|rule| Regex::new(rule.regex).expect("rules are constants")).collect(),
    }
});

#[cfg(test)]
mod tests;
