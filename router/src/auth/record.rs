//! What is kept of a key, and how a new one comes to be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, FreshKey, fresh_id};
use super::scope::{Scope, Scopes};
use super::tenant::{KeyLimits, Tenant, may_be_name};

/// Most models in an allow-list.
pub const MAX_MODELS: usize = 256;
/// Most keys of one record that were rotated out and still open.
const MAX_RETIRING: usize = 8;

/// A key that was rotated out and opens for a while yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retiring {
    /// What is kept of it.
    pub sha256: Digest,
    /// Until then, in seconds since 1970.
    pub until: u64,
}

/// One key as the store has it; the key itself is nowhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Sixteen hexadecimal digits; a rotation keeps them.
    pub id: String,
    /// What people call it; no two are called the same.
    pub name: String,
    /// Whose memory it opens.
    pub tenant: String,
    /// The one domain of it that it sees; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The first characters of the key.
    pub prefix: String,
    /// What is kept of the key.
    pub sha256: Digest,
    /// Keys before it that still open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<Retiring>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it was last rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<u64>,
    /// It opens until then; absent: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The models it sees; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// How much it may use.
    #[serde(default)]
    pub limits: KeyLimits,
}

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// Whose memory it opens; `None`: that of a tenant of its own name.
    pub tenant: Option<String>,
    /// The one domain that it sees.
    pub domain: Option<String>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The models it sees.
    pub models: Option<Vec<String>>,
    /// How much it may use.
    pub limits: KeyLimits,
    /// It opens for so long.
    pub expires_in: Option<Duration>,
}

impl NewKey {
    /// A key of this name with the scopes that most programs need: inference and memory.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            tenant: None,
            domain: None,
            scopes: [Scope::Inference, Scope::Memory].into_iter().collect(),
            models: None,
            limits: KeyLimits::default(),
            expires_in: None,
        }
    }
}

/// What is wrong with a new key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct BadKey {
    /// `name`, `limits.rpm` and so on, as bodies have it.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl NewKey {
    /// The record of such a key made at `now`, and the key.
    pub fn issue(self, now: u64) -> Result<(KeyRecord, String), BadKey> {
        self.check()?;
        let fresh = FreshKey::draw();
        let record = KeyRecord {
            id: fresh_id(),
            tenant: self.tenant.unwrap_or_else(|| self.name.clone()),
            name: self.name,
            domain: self.domain,
            prefix: fresh.prefix(),
            sha256: fresh.digest(),
            retiring: Vec::new(),
            created: now,
            rotated: None,
            expires: self.expires_in.map(|time| now.saturating_add(time.as_secs())),
            scopes: self.scopes,
            models: self.models,
            limits: self.limits,
        };
        Ok((record, fresh.reveal()))
    }

    fn check(&self) -> Result<(), BadKey> {
        const NAME: &str = "must be 1 to 64 letters, digits and `._-`, and neither `anonymous` nor begin with `key-`";
        let bad = |field, problem: &str| Err(BadKey { field, problem: problem.to_owned() });
        if !may_be_name(&self.name) {
            return bad("name", NAME);
        }
        if self.tenant.as_deref().is_some_and(|tenant| !may_be_name(tenant)) {
            return bad("tenant", NAME);
        }
        if self.domain.as_deref().is_some_and(|domain| !may_be_domain(domain)) {
            return bad("domain", "must be 1 to 64 letters, digits and `._-`, and not begin with a dot");
        }
        if self.scopes.is_empty() {
            return bad("scopes", "is empty: the key could be used for nothing");
        }
        if let Some(models) = &self.models {
            let good = |name: &String| (1..=256).contains(&name.len()) && !name.chars().any(char::is_control);
            if models.is_empty() || models.len() > MAX_MODELS || !models.iter().all(good) {
                return bad("models", &format!("must be 1 to {MAX_MODELS} names, or absent for all models"));
            }
        }
        if self.expires_in.is_some_and(|time| time.as_secs() == 0) {
            return bad("expires_in_s", "must be at least 1 second");
        }
        check_limits(&self.limits)
    }
}

fn check_limits(limits: &KeyLimits) -> Result<(), BadKey> {
    let counts = [
        ("limits.rpm", limits.rpm),
        ("limits.tpm", limits.tpm),
        ("limits.concurrency", limits.concurrency.map(u64::from)),
    ];
    if let Some((field, _)) = counts.into_iter().find(|(_, limit)| *limit == Some(0)) {
        return Err(BadKey { field, problem: "is 0, which lets nothing pass: revoke the key instead".into() });
    }
    for (field, dollars) in [("limits.day_usd", limits.day_usd), ("limits.month_usd", limits.month_usd)] {
        if dollars.is_some_and(|dollars| !dollars.is_finite() || dollars <= 0.0) {
            return Err(BadKey { field, problem: "must be more than 0 US dollars".into() });
        }
    }
    Ok(())
}

/// The rule that requests' domains are held to.
fn may_be_domain(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}

impl KeyRecord {
    /// Takes a new key in place of the one it has, which opens for `grace` longer.
    pub fn rotate(&mut self, grace: Duration, now: u64) -> String {
        let fresh = FreshKey::draw();
        self.retiring.retain(|old| old.until > now);
        if grace.as_secs() > 0 {
            self.retiring.push(Retiring { sha256: self.sha256, until: now.saturating_add(grace.as_secs()) });
        }
        let surplus = self.retiring.len().saturating_sub(MAX_RETIRING);
        self.retiring.drain(..surplus);
        (self.sha256, self.prefix, self.rotated) = (fresh.digest(), fresh.prefix(), Some(now));
        fresh.reveal()
    }

    /// Whether it opens nothing any more.
    pub fn expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Every key that opens through this record, and until when.
    pub fn digests(&self) -> impl Iterator<Item = (Digest, u64)> {
        let end = self.expires.unwrap_or(u64::MAX);
        let retiring = self.retiring.iter().map(move |old| (old.sha256, old.until.min(end)));
        std::iter::once((self.sha256, end)).chain(retiring)
    }

    /// Who asks with this key.
    pub fn tenant(&self) -> Tenant {
        Tenant {
            key_id: self.id.clone(),
            domain: self.domain.clone(),
            scopes: self.scopes,
            models: self.models.clone(),
            limits: self.limits,
            ..Tenant::named(&self.tenant)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_key_is_refused_by_field() {
        let good = NewKey::named("ci");
        assert!(good.clone().issue(0).is_ok());
        let limits = |limits: KeyLimits| NewKey { limits, ..good.clone() };
        let table: Vec<(NewKey, &str)> = vec![
            (NewKey::named(""), "name"),
            (NewKey::named("key-1"), "name"),
            (NewKey { tenant: Some("a b".into()), ..good.clone() }, "tenant"),
            (NewKey { domain: Some("..".into()), ..good.clone() }, "domain"),
            (NewKey { domain: Some("a/b".into()), ..good.clone() }, "domain"),
            (NewKey { scopes: Scopes::default(), ..good.clone() }, "scopes"),
            (NewKey { models: Some(Vec::new()), ..good.clone() }, "models"),
            (NewKey { models: Some(vec!["a\nb".into()]), ..good.clone() }, "models"),
            (NewKey { expires_in: Some(Duration::from_millis(999)), ..good.clone() }, "expires_in_s"),
            (limits(KeyLimits { rpm: Some(0), ..KeyLimits::default() }), "limits.rpm"),
            (limits(KeyLimits { tpm: Some(0), ..KeyLimits::default() }), "limits.tpm"),
            (limits(KeyLimits { concurrency: Some(0), ..KeyLimits::default() }), "limits.concurrency"),
            (limits(KeyLimits { day_usd: Some(0.0), ..KeyLimits::default() }), "limits.day_usd"),
            (limits(KeyLimits { month_usd: Some(f64::NAN), ..KeyLimits::default() }), "limits.month_usd"),
        ];
        for (new, field) in table {
            let shown = format!("{new:?}");
            assert_eq!(new.issue(0).expect_err(&shown).field, field, "{shown}");
        }
    }

    #[test]
    fn a_rotation_leaves_the_old_key_its_grace_and_no_more() {
        let (mut record, first) = NewKey::named("ci").issue(100).expect("good");
        let (id, old) = (record.id.clone(), record.sha256);
        let second = record.rotate(Duration::from_secs(60), 200);
        assert_ne!(first, second);
        assert_eq!(record.id, id);
        assert_eq!(record.sha256, Digest::of(second.as_bytes()));
        assert_eq!(record.digests().collect::<Vec<_>>(), [(record.sha256, u64::MAX), (old, 260)]);
        record.rotate(Duration::ZERO, 259);
        assert_eq!(record.digests().count(), 2, "the first key's grace goes on, the second got none");
        record.rotate(Duration::ZERO, 260);
        assert_eq!(record.digests().count(), 1);
        record.expires = Some(300);
        record.rotate(Duration::from_secs(3600), 270);
        assert!(record.digests().all(|(_, until)| until == 300), "no grace outlives the key");
        for _ in 0..20 {
            record.rotate(Duration::from_secs(3600), 270);
        }
        assert_eq!(record.retiring.len(), MAX_RETIRING);
    }

    #[test]
    fn the_tenant_has_what_the_record_says() {
        let new = NewKey { tenant: Some("ada".into()), domain: Some("web".into()), ..NewKey::named("ci") };
        let (record, _) = new.issue(0).expect("good");
        let tenant = record.tenant();
        assert_eq!((tenant.name.as_str(), tenant.salt), ("ada", Tenant::named("ada").salt));
        assert_eq!((tenant.key_id, tenant.domain), (record.id, Some("web".into())));
    }
}
