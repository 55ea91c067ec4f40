//! What a key may be used for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing that keys may be used for; every route names the one it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Chats, completions, embeddings, tokens.
    Inference,
    /// Records, and the `memory` member of chats and completions.
    Memory,
    /// The coding loop.
    Coding,
    /// Keys, backends, flags and snapshots: the whole server.
    Admin,
    /// The metrics, for scrapers that are to have nothing else.
    Metrics,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Inference, Self::Memory, Self::Coding, Self::Admin, Self::Metrics];

    /// The word in files, flags and bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Memory => "memory",
            Self::Coding => "coding",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no scope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no scope, known are: inference, memory, coding, admin, metrics")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Self, UnknownScope> {
        let shown = || UnknownScope(word.chars().take(64).collect());
        Self::ALL.into_iter().find(|scope| scope.as_str() == word).ok_or_else(shown)
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope, those to come included.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether this scope is among them; `metrics` is also among those with `admin`.
    pub const fn allow(self, scope: Scope) -> bool {
        let admin = matches!(scope, Scope::Metrics) && self.0 & bit(Scope::Admin) != 0;
        self.0 & bit(scope) != 0 || admin
    }

    /// These but one.
    pub const fn without(self, scope: Scope) -> Self {
        Self(self.0 & !bit(scope))
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & bit(*scope) != 0)
    }
}

const fn bit(scope: Scope) -> u8 {
    1 << scope as u8
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | bit(scope)))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Scope::as_str).collect();
        f.write_str(&words.join(","))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        words.iter().map(|word| word.parse::<Scope>().map_err(serde::de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set: Scopes = [Scope::Memory, Scope::Inference].into_iter().collect();
        let held: Vec<bool> = Scope::ALL.into_iter().map(|scope| set.allow(scope)).collect();
        assert_eq!(held, [true, true, false, false, false]);
        assert_eq!(set.to_string(), "inference,memory");
        assert!(!Scopes::default().allow(Scope::Inference) && Scopes::default().is_empty());
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::ALL.allow(scope)));
        assert!(!Scopes::ALL.without(Scope::Admin).allow(Scope::Admin));
    }

    #[test]
    fn metrics_come_with_admin_and_not_the_other_way_round() {
        let admin: Scopes = [Scope::Admin].into_iter().collect();
        let metrics: Scopes = [Scope::Metrics].into_iter().collect();
        assert!(admin.allow(Scope::Metrics) && !metrics.allow(Scope::Admin));
    }

    #[test]
    fn words_round_trip_and_others_are_named() {
        let text = serde_json::to_string(&Scopes::ALL).expect("JSON");
        let back: Scopes = serde_json::from_str(&text).expect("scopes");
        assert!(back.iter().eq(Scope::ALL));
        let error = serde_json::from_str::<Scopes>("[\"inference\", \"root\"]").expect_err("no scope").to_string();
        assert!(error.contains("\"root\" is no scope, known are: inference"), "{error}");
        for word in ["Inference", "inference ", "", "admin,memory"] {
            assert!(word.parse::<Scope>().is_err(), "{word:?}");
        }
    }
}
