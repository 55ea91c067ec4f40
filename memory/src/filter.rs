//! Which records a search may return: a small expression language over a record's fields.
//!
//! On the wire: `{"and": [..]}`, `{"or": [..]}`, `{"not": ..}`, `{"eq": {"field", "value"}}`, `ne`,
//! `{"in": {"field", "values"}}`, `{"range": {"field", "gt" | "gte" | "lt" | "lte"}}`, `{"exists": {"field"}}`,
//! `{"glob": {"field", "pattern"}}`. Fields: `kind`, `project`, `session`, `language`, `path`, `symbol`, `commit`,
//! `trust`, `created`, `updated` (ms), `version`, `pinned`, and `metadata.<key>` with dots into objects.
//! A comparison with a field that is not there (or null) is false, so `ne` and `not` hold for it.
//!
//! Numbers are compared by value (`1` equals `1.0`). In a glob `*`, `?` do not cross `/`, `**` does, `\\` takes the next
//! character as it stands, and case counts.

mod compiled;
mod field;

pub use compiled::CompiledFilter;
pub use field::Outline;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A condition on one record.
#[expect(clippy::large_enum_variant, reason = "a filter has at most some hundred parts and lives for one search")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Filter {
    /// All of them.
    And(Vec<Filter>),
    /// Any of them.
    Or(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
    /// The field has this value; an array field: one of its elements has.
    Eq(Comparison),
    /// The field does not have this value.
    Ne(Comparison),
    /// The field has one of these values.
    In(Membership),
    /// The field lies between these bounds; numbers by size, strings by bytes.
    Range(Bounds),
    /// The field is there and not null.
    Exists(Presence),
    /// The field, a string, matches a glob (`src/**/*.rs`).
    Glob(Pattern),
}

impl Filter {
    /// Deepest nesting of `and`, `or` and `not`.
    pub const MAX_DEPTH: usize = 16;
    /// Most conditions in one filter, its `and`, `or` and `not` counted too.
    pub const MAX_NODES: usize = 256;
    /// Most values of one `in`.
    pub const MAX_VALUES: usize = 1024;
    /// Longest glob, bytes.
    pub const MAX_GLOB: usize = 512;

    /// Checks it and makes it ready to be asked about many records.
    ///
    /// # Errors
    /// [`crate::MemoryError::Invalid`] names the condition: an unknown field, a range without bounds or with bounds
    /// of two types, a value that cannot be compared with, a glob that is none, or a filter past its limits.
    pub fn compile(&self) -> crate::Result<CompiledFilter> {
        CompiledFilter::new(self)
    }

    /// Whether it may be used.
    ///
    /// # Errors
    /// As [`Filter::compile`].
    pub fn validate(&self) -> crate::Result<()> {
        self.compile().map(drop)
    }

    /// Whether a record meets it; a filter that is not valid is met by none. For more than one record
    /// [`Filter::compile`] it first.
    pub fn matches(&self, record: &crate::Record) -> bool {
        self.compile().is_ok_and(|filter| filter.matches(record))
    }
}

/// `field` against `value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The field.
    pub field: String,
    /// The value.
    pub value: Value,
}

/// `field` among `values`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The field.
    pub field: String,
    /// The values.
    pub values: Vec<Value>,
}

/// `field` within bounds, at least one of them given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// The field.
    pub field: String,
    /// Above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gt: Option<Value>,
    /// At least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gte: Option<Value>,
    /// Below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lt: Option<Value>,
    /// At most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lte: Option<Value>,
}

/// `field` is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// The field.
    pub field: String,
}

/// `field` matches `pattern`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// The field.
    pub field: String,
    /// `*`, `?`, `**`, `[..]`, `{a,b}`.
    pub pattern: String,
}
