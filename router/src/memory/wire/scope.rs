//! `scope: {domain, project, session}`.

use engram_memory::{Kind, MemoryError, Name, Partition, Scope};
use serde_json::Value;

use crate::auth::Tenant;
use crate::config::MemorySettings;
use crate::error::{ApiError, ErrorCode};
use crate::openai::Fields;
use crate::openai::fields::wrong_type;

/// What a request's key says about places: the tenant, and the domain where the body names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Where {
    /// Whose memory it is.
    pub tenant: Name,
    /// The domain of requests that name none.
    pub domain: Name,
    /// Whether it is the only one that the key sees.
    pub pinned: bool,
}

impl Where {
    /// The place for `tenant`, whose name comes from its key.
    pub fn new(tenant: &str, domain: Name) -> Result<Self, ApiError> {
        Ok(Self { tenant: Name::new("tenant", tenant)?, domain, pinned: false })
    }

    /// Where requests of this key look unless they say otherwise, and whether they may.
    pub fn of(tenant: &Tenant, settings: &MemorySettings) -> Result<Self, ApiError> {
        match &tenant.domain {
            Some(domain) => {
                Ok(Self { pinned: true, ..Self::new(&tenant.name, Name::new("domain", domain.as_str())?)? })
            }
            None => Self::new(&tenant.name, settings.defaults_of(&tenant.name).domain.clone()),
        }
    }

    /// What a request that names this domain may see of it.
    fn domain(&self, path: &str, domain: &str) -> Result<Name, ApiError> {
        let domain = read_domain(path, domain)?;
        if self.pinned && domain != self.domain {
            let message = format!("this API key sees the domain `{}` alone", self.domain);
            return Err(ApiError::new(ErrorCode::DomainNotAllowed, message).with_param(path));
        }
        Ok(domain)
    }

    /// The partition of a request that names `domain`, or none.
    pub fn partition(&self, domain: Option<&str>) -> Result<Partition, ApiError> {
        let domain = match domain {
            Some(domain) => self.domain("domain", domain)?,
            None => self.domain.clone(),
        };
        Ok(Partition { tenant: self.tenant.clone(), domain })
    }
}

/// Reads `scope`, which may be absent; says whether it named a domain.
pub fn read_scope(fields: &mut Fields, place: &Where) -> Result<(Scope, bool), ApiError> {
    let mut scope = Scope {
        partition: Partition { tenant: place.tenant.clone(), domain: place.domain.clone() },
        project: None,
        session: None,
    };
    let Some(mut inner) = fields.object("scope")? else {
        return Ok((scope, false));
    };
    let domain = inner.string("domain")?;
    let project = inner.string("project")?;
    let session = inner.string("session")?;
    let named = domain.is_some();
    if let Some(domain) = domain {
        scope.partition.domain = place.domain(&inner.path("domain"), &domain)?;
    }
    scope.project = project.map(|name| read_name(&inner, "project", &name)).transpose()?;
    scope.session = session.map(|name| read_name(&inner, "session", &name)).transpose()?;
    inner.finish()?;
    Ok((scope, named))
}

fn read_name(fields: &Fields, field: &'static str, name: &str) -> Result<Name, ApiError> {
    Name::new(field, name).map_err(|error| at(&fields.path(field), error))
}

/// The same error with the path that stands in the body.
fn at(path: &str, error: MemoryError) -> ApiError {
    match error {
        MemoryError::Invalid { message, .. } => ApiError::invalid_value(path, format!("`{path}` {message}")),
        other => other.into(),
    }
}

/// A domain may become a directory's name, so it is safe as one.
fn read_domain(path: &str, text: &str) -> Result<Name, ApiError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !text.bytes().all(good) || text.starts_with('.') {
        let shown: String = text.chars().take(64).collect();
        return Err(ApiError::invalid_value(
            path,
            format!("`{path}` is `{shown}`, must be letters, digits and `._-`, and not begin with a dot"),
        ));
    }
    Name::new("domain", text).map_err(|error| at(path, error))
}

/// Reads `kinds`; absent: all.
pub fn read_kinds(fields: &mut Fields) -> Result<Vec<Kind>, ApiError> {
    let path = fields.path("kinds");
    let kinds = fields.list("kinds", Kind::ALL.len())?.unwrap_or_default();
    kinds.iter().enumerate().map(|(index, kind)| read_kind(&format!("{path}[{index}]"), kind)).collect()
}

/// One kind.
pub(crate) fn read_kind(path: &str, value: &Value) -> Result<Kind, ApiError> {
    let Value::String(text) = value else {
        return Err(wrong_type(path, value, "a string"));
    };
    text.parse().map_err(|error| match error {
        MemoryError::Invalid { .. } => {
            let shown: String = text.chars().take(64).collect();
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            ApiError::invalid_value(path, format!("`{path}` is `{shown}`, must be one of {}", known.join(", ")))
        }
        other => other.into(),
    })
}
