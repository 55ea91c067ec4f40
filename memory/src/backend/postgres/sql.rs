//! A statement under construction: text with places, and the values for them. No value ever becomes text.

use postgres::types::ToSql;

use super::filter::condition;
use crate::backend::Selection;
use crate::error::Result;
use crate::record::Timestamp;
use crate::scope::Partition;

/// A value bound to a place.
pub(super) type Parameter = Box<dyn ToSql + Sync + Send>;

/// Statement text and its parameters.
#[derive(Default)]
pub(super) struct Sql {
    pub(super) text: String,
    parameters: Vec<Parameter>,
}

impl Sql {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), parameters: Vec::new() }
    }

    /// Appends text.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Binds a value and appends its place, cast to the type `cast`.
    pub(super) fn bind(&mut self, value: impl ToSql + Sync + Send + 'static, cast: &str) -> &mut Self {
        let place = self.place(value, cast);
        self.push(&place)
    }

    /// Binds a value; the text of its place, which may be used more than once.
    pub(super) fn place(&mut self, value: impl ToSql + Sync + Send + 'static, cast: &str) -> String {
        self.parameters.push(Box::new(value));
        format!("${}::{cast}", self.parameters.len())
    }

    /// The parameters, as the driver takes them.
    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.parameters.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }

    /// Appends `tenant = .. AND domain = ..`.
    pub(super) fn partition(&mut self, partition: &Partition) -> &mut Self {
        self.push("tenant = ").bind(partition.tenant.as_str().to_owned(), "text");
        self.push(" AND domain = ").bind(partition.domain.as_str().to_owned(), "text")
    }

    /// Appends the condition that a row is selected, its lifetime aside.
    pub(super) fn selected(&mut self, selection: &Selection) -> Result<&mut Self> {
        let scope = &selection.scope;
        self.partition(&scope.partition);
        for (column, name) in [("project", &scope.project), ("session", &scope.session)] {
            if let Some(name) = name {
                self.push(&format!(" AND {column} = ")).bind(name.as_str().to_owned(), "text");
            }
        }
        if !selection.kinds.is_empty() {
            let kinds: Vec<&'static str> = selection.kinds.iter().map(|kind| kind.as_str()).collect();
            self.push(" AND kind = ANY(").bind(kinds, "text[]").push(")");
        }
        if let Some(filter) = &selection.filter {
            filter.validate()?;
            self.push(" AND ");
            condition(self, filter)?;
        }
        Ok(self)
    }

    /// Appends ` AND` the condition that a row has not expired at `now`.
    pub(super) fn alive(&mut self, now: Timestamp) -> &mut Self {
        self.push(" AND (pinned OR expires IS NULL OR expires > ").bind(millis(now), "bigint").push(")")
    }
}

/// A time as PostgreSQL holds it; past the year 292 million it is the end of time.
pub(super) fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// PostgreSQL's texts cannot hold U+0000. Where a text is only compared, a noncharacter stands for it on both
/// sides; texts that are given back are kept as bytes or as JSON's escapes.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FDD0}")
}
