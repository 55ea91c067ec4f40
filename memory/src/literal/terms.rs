//! What of a query is meant as it stands: quoted text, names as code writes them, paths.

/// One thing that is to be found as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// The text, without its quotes.
    pub text: String,
    /// It stood in quotes, so it may be any text; otherwise it is a name or a path.
    pub quoted: bool,
}

/// The literals of a query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Literals {
    /// In order of appearance, each once.
    pub all: Vec<Literal>,
    /// There is nothing else in the query: whoever asks wants these and not their like.
    pub only: bool,
}

/// More are not looked for; a query with more is a pasted text.
const MAX_LITERALS: usize = 8;

impl Literals {
    /// Reads a query. Text between `"` `"` or backticks is a literal; so is a word that looks like a name of code
    /// (`load_config`, `loadConfig`, `HTTPServer`, `Graph::search`, `graph.search`, `run()`, `sha256`) or a path
    /// (`src/graph.rs`, `graph.rs`); a query of one word is a literal whatever it looks like.
    pub fn of(query: &str) -> Self {
        let (quoted, rest) = split_quoted(query);
        let mut literals = Self { all: quoted, only: true };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let alone = words.len() == 1 && literals.all.is_empty();
        for word in words {
            let name = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_' && c != '/');
            if name.is_empty() {
                continue;
            }
            if alone || is_path(name) || is_name(name, word) {
                literals.all.push(Literal { text: name.to_owned(), quoted: false });
            } else {
                literals.only = false;
            }
        }
        let mut seen = std::collections::HashSet::new();
        literals.all.retain(|literal| seen.insert(literal.text.clone()));
        literals.only &= !literals.all.is_empty() && literals.all.len() <= MAX_LITERALS;
        literals.all.truncate(MAX_LITERALS);
        literals
    }
}

/// What stands in quotes, and the text without it; an opening quote that nothing closes is a character like others.
fn split_quoted(query: &str) -> (Vec<Literal>, String) {
    let mut quoted = Vec::new();
    let mut rest = String::new();
    let mut text = query;
    while let Some(open) = text.find(['"', '`']) {
        let quote = &text[open..=open];
        let inner = &text[open + 1..];
        let Some(close) = inner.find(quote) else { break };
        let literal = inner[..close].trim();
        if !literal.is_empty() {
            quoted.push(Literal { text: literal.to_owned(), quoted: true });
        }
        rest.push_str(&text[..open]);
        rest.push(' ');
        text = &inner[close + 1..];
    }
    rest.push_str(text);
    (quoted, rest)
}

/// `a/b`, `/a`, or a file's name with a short ending in letters (`graph.rs`, `conf.toml`).
fn is_path(word: &str) -> bool {
    if let Some((_, name)) = word.rsplit_once('/') {
        // `and/or` is prose.
        return word.matches('/').count() > 1 || name.contains('.') || word.contains('_');
    }
    let ending = word.rsplit_once('.').map_or("", |(_, ending)| ending);
    (1..=4).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_lowercase()) && is_dotted(word)
}

/// A name as code writes it; `word` is the same with what stood around it.
fn is_name(name: &str, word: &str) -> bool {
    let inner = name.trim_matches('_');
    let snake = inner.contains('_') && inner.chars().all(|c| c == '_' || c.is_alphanumeric());
    let called = word.contains("()") && inner.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.' || c == ':');
    let chars: Vec<char> = inner.chars().collect();
    let plain = chars.iter().all(|c| c.is_alphanumeric());
    let camel = plain && chars.windows(2).any(|pair| pair[0].is_lowercase() && pair[1].is_uppercase());
    let acronym = plain
        && chars.windows(3).any(|three| {
            three[0].is_uppercase() && three[1].is_uppercase() && three[2].is_lowercase() && three[2] != 's'
        });
    let numbered = plain && chars.first().is_some_and(|c| c.is_alphabetic()) && chars.iter().any(|c| c.is_numeric());
    let private = name.starts_with('_') && !inner.is_empty();
    snake || called || camel || acronym || numbered || private || is_qualified(inner) || is_dotted(inner)
}

/// `Graph::search`
fn is_qualified(word: &str) -> bool {
    word.contains("::") && word.split("::").all(|part| part.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

/// `graph.search`, not `e.g` and not `1.5`: every part is a name, and one is longer than a letter.
fn is_dotted(word: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
    };
    word.contains('.') && word.split('.').all(part) && word.split('.').any(|part| part.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_as_it_stands() {
        let check = |query: &str, all: &[&str], only: bool| {
            let literals = Literals::of(query);
            let texts: Vec<&str> = literals.all.iter().map(|literal| literal.text.as_str()).collect();
            assert_eq!((texts.as_slice(), literals.only), (all, only), "{query}");
        };
        check("load_config", &["load_config"], true);
        check("Scheduler", &["Scheduler"], true);
        check("Graph::search?", &["Graph::search"], true);
        check("src/index/graph.rs", &["src/index/graph.rs"], true);
        check("where is graph.rs used", &["graph.rs"], false);
        check("how does loadConfig work", &["loadConfig"], false);
        check("call run() or HTTPServer", &["run", "HTTPServer"], false);
        check("the URLs and/or e.g. version 1.5 of it", &[], false);
        check("Returns the value, or None.", &[], false);
        check("says \"connection reset by peer\"", &["connection reset by peer"], false);
        check("`fn main` \"fn main\" sha256", &["fn main", "sha256"], true);
        check("an open \"quote stays", &[], false);
        check("\"\" `` ", &[], false);
        check("a_1 a_2 a_3 a_4 a_5 a_6 a_7 a_8 a_9", &["a_1", "a_2", "a_3", "a_4", "a_5", "a_6", "a_7", "a_8"], false);
    }
}
