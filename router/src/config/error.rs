//! What can be wrong with a configuration, each with its key, its place and the cure.

use std::fmt;
use std::path::PathBuf;

use super::Origin;
use super::families::Family;
use super::suggest;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Not TOML.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// No such key.
    #[error("`{key}`: no such key{} (from {origin})", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// As written, with its section.
        key: String,
        /// The known key that is closest.
        nearest: Option<String>,
        /// Who wrote it.
        origin: Origin,
    },
    /// An `ENGRAM_` variable that sets nothing.
    #[error("${name}: no such setting{}", did_you_mean(nearest.as_deref()))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The known variable that is closest.
        nearest: Option<String>,
    },
    /// A value that its key does not take.
    #[error("`{key}`: {problem} (from {origin})")]
    BadValue {
        /// The key.
        key: String,
        /// The value, what is wrong with it, and what would be right.
        problem: String,
        /// Who wrote it.
        origin: Origin,
    },
    /// Files that include each other.
    #[error("includes form a cycle: {}", chain_of(chain.iter().map(|path| path.display())))]
    IncludeCycle {
        /// From the first file round to itself.
        chain: Vec<PathBuf>,
    },
    /// Includes too deep or too many.
    #[error("{}: {problem}", path.display())]
    TooManyIncludes {
        /// The file that goes too far.
        path: PathBuf,
        /// Which limit, and its value.
        problem: String,
    },
    /// Variables that need each other.
    #[error("`{key}`: variables form a cycle: {} (from {origin})", chain_of(chain.iter().map(|name| format!("${{{name}}}"))))]
    VariableCycle {
        /// The key whose value uses them.
        key: String,
        /// From the first variable round to itself.
        chain: Vec<String>,
        /// Who wrote it.
        origin: Origin,
    },
}

impl ConfigError {
    /// An unknown key, with the nearest known one looked up.
    pub(super) fn unknown_key(key: &str, origin: Origin) -> Self {
        Self::UnknownKey { key: suggest::shorten(key), nearest: suggest::nearest_key(key), origin }
    }

    /// The key whose value is wrong.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::BadValue { key, .. } | Self::VariableCycle { key, .. } => Some(key),
            _ => None,
        }
    }

    /// An unknown key of a table with a free name.
    pub(super) fn unknown_in(family: &Family, table: &str, key: &str, origin: Origin) -> Self {
        let nearest = suggest::nearest(key, family.keys.iter().map(|key| key.name));
        let nearest = nearest.map(|nearest| format!("{table}.{nearest}"));
        Self::UnknownKey { key: format!("{table}.{}", suggest::shorten(key)), nearest, origin }
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; `engram config show` lists all".into(),
    }
}

fn chain_of<T: fmt::Display>(chain: impl Iterator<Item = T>) -> String {
    chain.map(|link| link.to_string()).collect::<Vec<_>>().join(" -> ")
}

/// Problems that a message tells one by one.
const MAX_TOLD: usize = 20;

/// All problems of one resolution, one a line, the first twenty of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(MAX_TOLD).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        match self.0.len().saturating_sub(MAX_TOLD) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
