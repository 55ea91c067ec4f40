//! A field of a record that a filter may name, and its value.

use serde_json::Value;

use crate::error::{MemoryError, Result};
use crate::record::{Kind, Record, Timestamp, Trust};

/// What a filter's `field` names.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field {
    Kind,
    Project,
    Session,
    Language,
    Path,
    Symbol,
    Commit,
    Trust,
    Created,
    Updated,
    Version,
    Pinned,
    /// Keys to walk, at least one.
    Metadata(Vec<String>),
}

/// What of a record is kept in memory, so that a filter on no more than this reads no record.
#[derive(Debug, Clone, Copy)]
pub struct Outline<'a> {
    /// As in [`Record`].
    pub kind: Kind,
    /// Its project's name.
    pub project: Option<&'a str>,
    /// Its session's name.
    pub session: Option<&'a str>,
    /// Who said it.
    pub trust: Trust,
    /// When it was first written.
    pub created: Timestamp,
    /// When its version was written.
    pub updated: Timestamp,
    /// Its version.
    pub version: u32,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// A field's value in one record.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
    Json(&'a Value),
}

impl Field {
    /// Reads a field's name; `at` is its place in the filter, for the error.
    pub(super) fn parse(name: &str, at: &str) -> Result<Self> {
        let known = match name {
            "kind" => Self::Kind,
            "project" => Self::Project,
            "session" => Self::Session,
            "language" => Self::Language,
            "path" => Self::Path,
            "symbol" => Self::Symbol,
            "commit" => Self::Commit,
            "trust" => Self::Trust,
            "created" => Self::Created,
            "updated" => Self::Updated,
            "version" => Self::Version,
            "pinned" => Self::Pinned,
            _ => match name.strip_prefix("metadata.") {
                Some(path) if path.split('.').all(|key| !key.is_empty()) => {
                    Self::Metadata(path.split('.').map(str::to_owned).collect())
                }
                _ => return Err(unknown(name, at)),
            },
        };
        Ok(known)
    }

    /// Its value in `record`; `None`: it is not there, or null.
    pub(super) fn of<'a>(&self, record: &'a Record) -> Option<Found<'a>> {
        let provenance = &record.provenance;
        match self {
            Self::Kind => Some(Found::Text(record.kind.as_str())),
            Self::Project => record.scope.project.as_ref().map(|name| Found::Text(name.as_str())),
            Self::Session => record.scope.session.as_ref().map(|name| Found::Text(name.as_str())),
            Self::Language => provenance.language.as_deref().map(Found::Text),
            Self::Path => provenance.path.as_deref().map(Found::Text),
            Self::Symbol => provenance.symbol.as_deref().map(Found::Text),
            Self::Commit => provenance.commit.as_deref().map(Found::Text),
            Self::Trust => Some(Found::Text(trust_word(provenance.trust))),
            Self::Created => Some(Found::Number(record.created.0)),
            Self::Updated => Some(Found::Number(record.updated.0)),
            Self::Version => Some(Found::Number(u64::from(record.version))),
            Self::Pinned => Some(Found::Flag(record.pinned)),
            Self::Metadata(path) => {
                let mut keys = path.iter();
                let mut value = record.metadata.get(keys.next()?)?;
                for key in keys {
                    value = value.get(key.as_str())?;
                }
                (!value.is_null()).then_some(Found::Json(value))
            }
        }
    }
}

impl Field {
    /// Its value as an outline tells it, as in [`Field::of`]; `None`: the outline does not tell.
    pub(super) fn outlined<'a>(&self, outline: &Outline<'a>) -> Option<Option<Found<'a>>> {
        match self {
            Self::Kind => Some(Some(Found::Text(outline.kind.as_str()))),
            Self::Project => Some(outline.project.map(Found::Text)),
            Self::Session => Some(outline.session.map(Found::Text)),
            Self::Trust => Some(Some(Found::Text(trust_word(outline.trust)))),
            Self::Created => Some(Some(Found::Number(outline.created.0))),
            Self::Updated => Some(Some(Found::Number(outline.updated.0))),
            Self::Version => Some(Some(Found::Number(u64::from(outline.version)))),
            Self::Pinned => Some(Some(Found::Flag(outline.pinned))),
            Self::Language | Self::Path | Self::Symbol | Self::Commit | Self::Metadata(_) => None,
        }
    }
}

impl<'a> Found<'a> {
    /// Its text, if it is one.
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(value) => value.as_str(),
            Self::Number(_) | Self::Flag(_) => None,
        }
    }
}

fn trust_word(trust: Trust) -> &'static str {
    match trust {
        Trust::User => "user",
        Trust::Tool => "tool",
        Trust::Model => "model",
        Trust::Imported => "imported",
    }
}

fn unknown(name: &str, at: &str) -> MemoryError {
    MemoryError::Invalid {
        field: format!("{at}.field"),
        message: format!(
            "no field `{name}`, known: kind, project, session, language, path, symbol, commit, trust, created, \
             updated, version, pinned, metadata.<key>"
        ),
    }
}
