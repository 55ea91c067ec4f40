//! Words of source and prose: what BM25 counts.
//!
//! A word is a run of letters, digits and `_`. It is split where its case turns, at `_` and between letters and
//! digits (`parseHTTPHeader2` gives parse, http, header, 2); if that makes several parts, the whole is a token too, its
//! parts joined (`parsehttpheader2`), so that `parse_http_header2` meets it. All is lower case; parts lose a plural
//! `s` (Harman's S stemmer, 1991). Scripts without spaces between words give one token a character.

use std::borrow::Cow;

/// Longest token, bytes; the rest of it is cut off on both sides of a search alike.
pub const MAX_TOKEN: usize = 64;
/// A longer word is data, not a name, and is not split into parts.
const MAX_SPLIT: usize = 128;

/// Calls `emit` with each token of `text`, in order; a whole comes before its parts.
pub fn for_each_token(text: &str, mut emit: impl FnMut(&str)) {
    let mut buffers = Buffers::default();
    let mut start = None;
    for (at, c) in text.char_indices() {
        if stands_alone(c) {
            if let Some(start) = start.take() {
                buffers.word(&text[start..at], &mut emit);
            }
            emit(&text[at..at + c.len_utf8()]);
        } else if c == '_' || c.is_alphanumeric() {
            start.get_or_insert(at);
        } else if let Some(start) = start.take() {
            buffers.word(&text[start..at], &mut emit);
        }
    }
    if let Some(start) = start {
        buffers.word(&text[start..], &mut emit);
    }
}

/// The tokens of `text`, each once, in order of appearance, with how often it stands there.
pub fn distinct_tokens(text: &str) -> Vec<(String, u32)> {
    let mut places = std::collections::HashMap::new();
    let mut counted: Vec<(String, u32)> = Vec::new();
    for_each_token(text, |token| match places.get(token) {
        Some(&place) => {
            let (_, count): &mut (String, u32) = &mut counted[place];
            *count += 1;
        }
        None => {
            places.insert(token.to_owned(), counted.len());
            counted.push((token.to_owned(), 1));
        }
    });
    counted
}

/// Words of English that say nothing about what is looked for.
const STOP_WORDS: [&str; 44] = [
    "a", "an", "and", "are", "as", "at", "be", "been", "by", "can", "do", "does", "for", "from", "has", "have", "how",
    "i", "in", "is", "it", "its", "me", "of", "on", "or", "our", "that", "the", "their", "there", "they", "this", "to",
    "was", "we", "what", "when", "where", "which", "who", "why", "with", "you",
];

/// A query without the words that say nothing: in few records, where no word is frequent enough to weigh little, one shared `is` would
/// stand before a record that is near in meaning. A query of nothing else stays as it is.
pub fn content_words(query: &str) -> Cow<'_, str> {
    let says_nothing = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        // An operator or a name in code is not the word of a sentence: only what is plain lower case or begins a sentence goes.
        let plain = bare.chars().skip(1).all(char::is_lowercase);
        plain && STOP_WORDS.contains(&bare.to_lowercase().as_str())
    };
    let kept: Vec<&str> = query.split_whitespace().filter(|word| !says_nothing(word)).collect();
    if kept.is_empty() || kept.len() == query.split_whitespace().count() {
        return Cow::Borrowed(query);
    }
    Cow::Owned(kept.join(" "))
}

/// Han and kana: a word is one or two of them, and nothing stands between words.
fn stands_alone(c: char) -> bool {
    matches!(u32::from(c), 0x3041..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

/// Kept between words, so that no word allocates.
#[derive(Default)]
struct Buffers {
    part: String,
    whole: String,
    ends: Vec<usize>,
}

impl Buffers {
    fn word(&mut self, word: &str, emit: &mut impl FnMut(&str)) {
        if word.len() > MAX_SPLIT {
            lower(&mut self.whole, word);
            emit(cut(&self.whole));
            return;
        }
        self.ends.clear();
        self.whole.clear();
        let mut previous = None;
        let mut chars = word.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '_' {
                previous = None;
                self.end_part();
                continue;
            }
            if previous.is_some_and(|previous| turns(previous, c, chars.peek().copied())) {
                self.end_part();
            }
            self.whole.extend(c.to_lowercase());
            previous = Some(c);
        }
        self.end_part();
        if self.ends.len() > 1 {
            emit(cut(&self.whole));
        }
        let mut start = 0;
        for &end in &self.ends {
            self.part.clear();
            self.part.push_str(&self.whole[start..end]);
            start = end;
            stem(&mut self.part);
            emit(cut(&self.part));
        }
    }

    fn end_part(&mut self) {
        let end = self.whole.len();
        if end > self.ends.last().copied().unwrap_or(0) {
            self.ends.push(end);
        }
    }
}

/// Whether a new part begins at `c`: `aB`, `1a`, `a1`, and the last capital of a run that a small letter follows.
fn turns(previous: char, c: char, next: Option<char>) -> bool {
    if previous.is_numeric() != c.is_numeric() {
        return true;
    }
    c.is_uppercase() && (previous.is_lowercase() || previous.is_uppercase() && next.is_some_and(char::is_lowercase))
}

fn lower(into: &mut String, word: &str) {
    into.clear();
    into.extend(word.chars().take(MAX_TOKEN).flat_map(char::to_lowercase));
}

fn cut(token: &str) -> &str {
    &token[..token.floor_char_boundary(MAX_TOKEN)]
}

/// Harman's S stemmer: queries -> query, indexes -> indexe and classes -> classe (equal on both sides), keys -> key;
/// `pass`, `status` and short words stay.
fn stem(word: &mut String) {
    let len = word.len();
    if len < 4 || !word.ends_with('s') || !word.is_ascii() {
        return;
    }
    if word.ends_with("ies") && !word.ends_with("eies") && !word.ends_with("aies") {
        word.truncate(len - 3);
        word.push('y');
    } else if !word.ends_with("us") && !word.ends_with("ss") && !word.ends_with("is") {
        word.truncate(len - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        for_each_token(text, |token| all.push(token.to_owned()));
        all
    }

    #[test]
    fn queries_lose_what_says_nothing() {
        let check = |query: &str, expected: &str| assert_eq!(content_words(query), expected, "{query}");
        check("how often is a failed transfer tried again?", "often failed transfer tried again?");
        check("What is the retry policy", "retry policy");
        check("IS_NULL in WHERE", "IS_NULL WHERE");
        check("what is it?", "what is it?");
        check("parse_header", "parse_header");
        check("", "");
    }

    #[test]
    fn words_of_source_and_prose() {
        let check = |text: &str, expected: &str| assert_eq!(tokens(text).join(" "), expected, "{text}");
        check("fn main() {}", "fn main");
        check("parseHTTPHeader2", "parsehttpheader2 parse http header 2");
        check("parse_http_header2", "parsehttpheader2 parse http header 2");
        check("__init__ _private MAX_LEN", "init private maxlen max len");
        check("sha256 utf8", "sha256 sha 256 utf8 utf 8");
        check("Scheduler::schedule(self.k1)", "scheduler schedule self k1 k 1");
        check("queries keys status class gas", "query key status class gas");
        check("Größe ÉTÉ naïveWert", "größe été naïvewert naïve wert");
        check("日本語 text", "日 本 語 text");
        check("a->b, x=1.5e3", "a b x 1 5e3 5 e 3");
        check("___ !? ", "");
        check(&"Ab".repeat(70), &"ab".repeat(32));
        check(&"a".repeat(100), &"a".repeat(64));
    }

    #[test]
    fn counted_in_order_of_appearance() {
        let counted = distinct_tokens("the key of the keys");
        let expected = [("the", 2), ("key", 2), ("of", 1)].map(|(token, n)| (token.to_owned(), n));
        assert_eq!(counted, expected);
    }

    proptest! {
        #[test]
        fn any_text_gives_short_words_in_lower_case(text in "\\PC{0,200}") {
            for token in tokens(&text) {
                prop_assert!(!token.is_empty() && token.len() <= MAX_TOKEN);
                prop_assert!(token.chars().all(|c| c != '_' && !c.is_whitespace()));
                prop_assert_eq!(&token.to_lowercase().to_lowercase(), &token.to_lowercase());
            }
        }

        #[test]
        fn a_text_has_the_words_of_its_parts(a in "[a-zA-Z_0-9 ]{0,40}", b in "[a-zA-Z_0-9 ]{0,40}") {
            let mut apart = tokens(&a);
            apart.extend(tokens(&b));
            prop_assert_eq!(tokens(&format!("{a} {b}")), apart);
        }
    }
}
