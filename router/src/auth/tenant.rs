//! Who asks, and what the key of this request lets them do.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::scope::Scopes;

/// How much one key may use; `None`: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyLimits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u64>,
    /// Tokens a minute, those read and those written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u64>,
    /// Requests at once, counted to the end of their answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// US dollars a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day_usd: Option<f64>,
    /// US dollars a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month_usd: Option<f64>,
}

/// Who asks. Keys of one tenant share its memory and its prefix cache; what each of them may do is its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Its name, for logs and as the tenant of its memory: `anonymous`, the tenant of a stored key, the name that
    /// stands before a configured one (`team-a sk-...`), or `key-` and the first sixteen hex digits of its sha256.
    pub name: String,
    /// Salt of the prefix cache: tenants never share, nor can they time, each other's blocks.
    pub salt: u64,
    /// Id of the key: what its limits and its spending are counted under, also after it was rotated.
    pub key_id: String,
    /// The one domain of the memory that the key sees; `None`: whichever a request names.
    pub domain: Option<String>,
    /// What the key may be used for.
    pub scopes: Scopes,
    /// Ids or aliases of the models that the key sees; `None`: all.
    pub models: Option<Vec<String>>,
    /// How much the key may use.
    pub limits: KeyLimits,
}

impl Tenant {
    /// The one tenant of a server without keys.
    pub fn anonymous() -> Self {
        Self { salt: 0, ..Self::of("anonymous".into(), 0, "anonymous".into()) }
    }

    /// The tenant of this name, through a key without restrictions.
    pub fn named(name: &str) -> Self {
        Self::of(name.to_owned(), salt(&Digest::of(name.as_bytes())), name.to_owned())
    }

    /// The tenant that a configured key without a name is. Name and salt are separate hashes of it, so that
    /// neither tells the other.
    pub fn of_key(digest: &Digest) -> Self {
        let id = key_id(digest);
        Self::of(id.clone(), salt(digest), id)
    }

    fn of(name: String, salt: u64, key_id: String) -> Self {
        Self { name, salt, key_id, domain: None, scopes: Scopes::ALL, models: None, limits: KeyLimits::default() }
    }

    /// Whether the key may see the model that goes by these names.
    pub fn may_ask<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let Some(models) = &self.models else {
            return true;
        };
        names.into_iter().any(|name| models.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)))
    }
}

/// Id of a configured key.
pub fn key_id(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("key-{}", &hex[..16])
}

fn salt(digest: &Digest) -> u64 {
    let text = [b"engram prefix cache tenant".as_slice(), digest.as_bytes()].concat();
    Digest::of(&text).head()
}

/// Whether a tenant may be called so: no name of the server's own, and one that files, headers and logs can bear.
pub fn may_be_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with("key-") && name != "anonymous"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_any_of_their_names_in_any_case() {
        let all = Tenant::named("ada");
        let some = Tenant { models: Some(vec!["Qwen".into(), "abc".into()]), ..all.clone() };
        for (names, expected) in
            [(vec!["qwen"], true), (vec!["other", "ABC"], true), (vec!["qwen2"], false), (vec![""], false)]
        {
            assert!(all.may_ask(names.clone()));
            assert_eq!(some.may_ask(names.clone()), expected, "{names:?}");
        }
        assert!(!Tenant { models: Some(Vec::new()), ..all }.may_ask(["qwen"]));
    }

    #[test]
    fn names() {
        for (name, good) in [
            ("ada", true),
            ("Team_1.x-y", true),
            ("", false),
            ("key-1", false),
            ("anonymous", false),
            ("a/b", false),
            ("a b", false),
            ("é", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(may_be_name(name), good, "{name:?}");
        }
    }
}
