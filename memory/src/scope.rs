//! Whom a record belongs to: tenant / domain / project / session.
//!
//! Tenant and domain are walls: every stored thing lives in one [`Partition`], and nothing reads two of
//! them at once. Project and session are equalities inside it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{MemoryError, Result};

/// A tenant's, domain's, project's or session's name: 1 to 128 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name, bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks a name; `what` says in the error which one it is (`project`).
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] if it is empty, too long, or holds control characters.
    pub fn new(what: &'static str, name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let problem = if name.is_empty() {
            Some("must not be empty".to_owned())
        } else if name.len() > Self::MAX_LEN {
            Some(format!("has {} bytes, at most {} are allowed", name.len(), Self::MAX_LEN))
        } else if name.chars().any(char::is_control) {
            Some("must not hold control characters".to_owned())
        } else {
            None
        };
        match problem {
            None => Ok(Self(name.into())),
            Some(message) => Err(MemoryError::Invalid { field: what.to_owned(), message }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = MemoryError;

    fn try_from(name: String) -> Result<Self> {
        Self::new("name", name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// The walls around a record: no read ever spans two partitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partition {
    /// Whose it is; it comes from the API key, never from a request's body.
    pub tenant: Name,
    /// Which side of the tenant's business (`coding`, `business`).
    pub domain: Name,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.domain)
    }
}

/// Where a record is kept, or where a search looks.
///
/// In a search a project or session that is given must be equal; one that is not given does not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// Tenant and domain.
    #[serde(flatten)]
    pub partition: Partition,
    /// The project, such as a repository's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Name>,
    /// One conversation or editor session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Name>,
}

impl Scope {
    /// The domain of everything that does not name one.
    pub const DEFAULT_DOMAIN: &'static str = "coding";

    /// [`Scope::DEFAULT_DOMAIN`] as a name.
    pub fn default_domain() -> Name {
        Name(Self::DEFAULT_DOMAIN.into())
    }

    /// Stands for all domains of a tenant in keys of the shared cache; a domain of this name is at worst invalidated
    /// with the others.
    pub(crate) fn every_domain() -> Name {
        Name("*".into())
    }

    /// All of a tenant's domain.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a name that may not be one.
    pub fn of(tenant: &str, domain: &str) -> Result<Self> {
        let partition = Partition { tenant: Name::new("tenant", tenant)?, domain: Name::new("domain", domain)? };
        Ok(Self { partition, project: None, session: None })
    }

    /// The same with a project.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a name that may not be one.
    pub fn project(mut self, project: &str) -> Result<Self> {
        self.project = Some(Name::new("project", project)?);
        Ok(self)
    }

    /// The same with a session.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a name that may not be one.
    pub fn session(mut self, session: &str) -> Result<Self> {
        self.session = Some(Name::new("session", session)?);
        Ok(self)
    }

    /// Whether a record kept at `other` is to be seen by a search at `self`.
    pub fn covers(&self, other: &Scope) -> bool {
        self.partition == other.partition
            && (self.project.is_none() || self.project == other.project)
            && (self.session.is_none() || self.session == other.session)
    }
}
