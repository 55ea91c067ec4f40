//! `${VAR}` and `${VAR:-default}` in the strings of a config file.
//!
//! A variable is looked for in the environment, then in the file's own `[vars]`. What it holds may use
//! variables in turn; a cycle is an error that names it. `$$` is a dollar sign. Depth, number of
//! look-ups and length of the result are bounded, so no chain of variables can hang or flood.

use std::collections::BTreeMap;

/// Variables inside variables, at most.
const MAX_DEPTH: usize = 32;
/// Bytes of an expanded string, at most.
const MAX_LEN: usize = 64 << 10;
/// Variables looked up for one string, at most.
const MAX_LOOKUPS: usize = 4096;

/// Why a string could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpandError {
    /// From the first variable round to itself.
    Cycle(Vec<String>),
    /// Anything else, in words that follow the key.
    Problem(String),
}

/// What a file's strings may refer to.
pub struct Variables<'a> {
    /// The environment.
    pub env: &'a BTreeMap<String, String>,
    /// `[vars]`.
    pub vars: &'a BTreeMap<String, String>,
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        // An empty variable counts as absent, as `:-` has it in a shell.
        self.env.get(name).filter(|value| !value.is_empty()).or_else(|| self.vars.get(name)).map(String::as_str)
    }

    /// Expands every `${..}` of `text`.
    pub fn expand(&self, text: &str) -> Result<String, ExpandError> {
        if !text.contains('$') {
            return Ok(text.to_owned());
        }
        let mut expansion = Expansion { variables: self, stack: Vec::new(), out: String::new(), lookups: 0 };
        expansion.run(text)?;
        Ok(expansion.out)
    }
}

struct Expansion<'a> {
    variables: &'a Variables<'a>,
    /// Variables being expanded, outermost first; a default adds an empty name, for its depth counts too.
    stack: Vec<String>,
    out: String,
    lookups: usize,
}

impl Expansion<'_> {
    fn run(&mut self, text: &str) -> Result<(), ExpandError> {
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            self.push(&rest[..at])?;
            let after = &rest[at + 1..];
            if let Some(tail) = after.strip_prefix('$') {
                self.push("$")?;
                rest = tail;
            } else if let Some(tail) = after.strip_prefix('{') {
                let end = closing_brace(tail)
                    .ok_or_else(|| problem("has a `${` without its `}` (write `$$` for a dollar sign)"))?;
                self.variable(&tail[..end])?;
                rest = &tail[end + 1..];
            } else {
                self.push("$")?;
                rest = after;
            }
        }
        self.push(rest)
    }

    fn variable(&mut self, inside: &str) -> Result<(), ExpandError> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(valid) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(problem(&format!(
                "`{}` is not the name of a variable (letters, digits and underscores)",
                super::suggest::shorten(name)
            )));
        }
        self.lookups += 1;
        if self.lookups > MAX_LOOKUPS {
            return Err(problem(&format!("needs more than {MAX_LOOKUPS} variables")));
        }
        if let Some(first) = self.stack.iter().position(|seen| seen == name) {
            let mut chain: Vec<String> = self.stack[first..].iter().filter(|seen| !seen.is_empty()).cloned().collect();
            chain.push(name.to_owned());
            return Err(ExpandError::Cycle(chain));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(problem(&format!("has variables inside variables more than {MAX_DEPTH} deep")));
        }
        let variables = self.variables;
        let (frame, text) = match (variables.get(name), default) {
            (Some(value), _) => (name.to_owned(), value),
            (None, Some(default)) => (String::new(), default),
            (None, None) => {
                return Err(problem(&format!(
                    "variable `{name}` is not set; set it, or write `${{{name}:-a default}}`"
                )));
            }
        };
        self.stack.push(frame);
        self.run(text)?;
        self.stack.pop();
        Ok(())
    }

    fn push(&mut self, text: &str) -> Result<(), ExpandError> {
        if self.out.len() + text.len() > MAX_LEN {
            return Err(problem(&format!("grows past {MAX_LEN} bytes")));
        }
        self.out.push_str(text);
        Ok(())
    }
}

fn problem(text: &str) -> ExpandError {
    ExpandError::Problem(text.to_owned())
}

/// Offset of the `}` that closes a `${`, past nested ones.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, ExpandError> {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let env: BTreeMap<_, _> = map(&[
            ("PORT", "9000"),
            ("EMPTY", ""),
            ("A", "${B}"),
            ("B", "x${C}"),
            ("C", "${A}"),
            ("SELF", "${SELF}"),
            ("NAME", "env"),
        ]);
        let mut vars: BTreeMap<_, _> = map(&[("NAME", "vars"), ("BASE", "/srv"), ("DIR", "${BASE}/models")]);
        vars.insert("L0".into(), "0123456789".repeat(100));
        for level in 1..20 {
            vars.insert(format!("L{level}"), format!("${{L{}}}${{L{}}}", level - 1, level - 1));
        }
        for level in 0..100 {
            vars.insert(format!("D{level}"), format!("${{D{}}}", level + 1));
        }
        Variables { env: &env, vars: &vars }.expand(text)
    }

    #[test]
    fn expansions() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a${PORT}b", "a9000b"),
            ("${NONE:-8080}", "8080"),
            ("${PORT:-8080}", "9000"),
            ("${EMPTY:-x}", "x"),
            ("${NONE:-${PORT}}", "9000"),
            ("${NONE:-${NADA:-deep}}!", "deep!"),
            ("${NONE:-}", ""),
            ("${DIR}/x", "/srv/models/x"),
            ("${NAME}", "env"),
            ("$$", "$"),
            ("$${PORT}", "${PORT}"),
            ("cost 5$ and $x", "cost 5$ and $x"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn cycles_are_printed() {
        let cycle = |names: &[&str]| Err(ExpandError::Cycle(names.iter().map(|name| name.to_string()).collect()));
        assert_eq!(expand("${A}"), cycle(&["A", "B", "C", "A"]));
        assert_eq!(expand("${SELF}"), cycle(&["SELF", "SELF"]));
        assert_eq!(expand("${NONE:-${SELF}}"), cycle(&["SELF", "SELF"]));
    }

    #[test]
    fn limits_and_mistakes() {
        for (text, part) in [
            ("${", "without its `}`"),
            ("${PORT", "without its `}`"),
            ("${NONE}", "`NONE` is not set"),
            ("${}", "not the name of a variable"),
            ("${a.b}", "not the name of a variable"),
            ("${1A}", "not the name of a variable"),
            ("${L19}", "past 65536 bytes"),
            ("${D0}", "more than 32 deep"),
        ] {
            match expand(text) {
                Err(ExpandError::Problem(message)) => {
                    assert!(message.contains(part), "{text}: {message}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let many = "${EMPTY:-}".repeat(5000);
        assert!(matches!(expand(&many), Err(ExpandError::Problem(_))));
        let nested = "${NONE:-".repeat(10_000) + &"}".repeat(10_000);
        assert!(matches!(expand(&nested), Err(ExpandError::Problem(_))));
    }
}
