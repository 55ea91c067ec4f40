//! Who counts what the memory does.

use std::time::Duration;

use crate::record::Kind;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Records were written.
    Remember,
    /// One was read.
    Get,
    /// One was changed.
    Update,
    /// Some were looked for.
    Search,
    /// Some were forgotten.
    Forget,
    /// The expired were removed.
    Expire,
}

impl Operation {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remember => "remember",
            Self::Get => "get",
            Self::Update => "update",
            Self::Search => "search",
            Self::Forget => "forget",
            Self::Expire => "expire",
        }
    }
}

/// Hears of each operation and each look into a cache; called on the caller's thread, so it must be quick.
pub trait MemoryObserver: Send + Sync {
    /// An operation ended. `kind`: of all its records, if it is one.
    fn operation(&self, operation: Operation, kind: Option<Kind>, ok: bool, took: Duration);

    /// A cache (`embedding`, `recall`) was asked.
    fn cache(&self, name: &'static str, hit: bool);
}

/// Nobody counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl MemoryObserver for Unobserved {
    fn operation(&self, _: Operation, _: Option<Kind>, _: bool, _: Duration) {}

    fn cache(&self, _: &'static str, _: bool) {}
}
