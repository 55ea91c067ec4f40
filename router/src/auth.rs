//! API keys, the tenants they stand for, and the rule about where a server without keys may listen.
//!
//! A key is kept as its sha256: comparing digests takes the same time whatever the lengths, and a
//! core dump holds no key. Every configured key is compared on every request, in constant time.

use std::fmt;
use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ApiError;

/// Shortest key that is taken: shorter ones can be guessed.
pub const MIN_KEY_LEN: usize = 8;

/// Who asks: one API key is one tenant, and keys of one name are one too, so that a key can be changed
/// without losing what was remembered under the old one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Its name, for logs and as the tenant of its memory: `anonymous`, the name that stands before the key
    /// (`team-a sk-...`), or `key-` and the first sixteen hex digits of the key's sha256.
    pub name: String,
    /// Salt of the prefix cache: tenants never share, nor can they time, each other's blocks.
    pub salt: u64,
    /// Id of the key.
    pub key_id: String,
    /// How much the key may use.
    pub limits: KeyLimits,
}

/// How much one key may use; `None`: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct KeyLimits {
    /// US dollars a day.
    pub day_usd: Option<f64>,
    /// US dollars a month.
    pub month_usd: Option<f64>,
}

impl Tenant {
    /// The one tenant of a server without keys.
    pub fn anonymous() -> Self {
        Self { name: "anonymous".into(), salt: 0, key_id: "anonymous".into(), limits: KeyLimits::default() }
    }

    /// All keys of this name.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), salt: salt(&sha256(name.as_bytes())), key_id: name.into(), limits: KeyLimits::default() }
    }
}

/// A configured key that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Too short.
    #[error("API key number {index} has {len} characters, at least {MIN_KEY_LEN} are needed")]
    TooShort {
        /// Place in the list, from 0.
        index: usize,
        /// Its length.
        len: usize,
    },
    /// Its name may not be one.
    #[error(
        "API key number {index} has a name that cannot be used: take 1 to 64 letters, digits and `._-`, and neither \
         `anonymous` nor one that begins with `key-`, which are the server's own"
    )]
    BadName {
        /// Place in the list, from 0.
        index: usize,
    },
    /// A header cannot carry it.
    #[error("API key number {index} holds a character that no HTTP header can carry: use visible ASCII without spaces")]
    NotVisible {
        /// Place in the list, from 0.
        index: usize,
    },
}

/// The configured keys; none at all means that everyone may ask.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Vec<([u8; 32], Tenant)>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} configured)", self.keys.len())
    }
}

impl ApiKeys {
    /// Takes the keys in plain text, each with or without a name before it (`team-a sk-...`); equal keys count
    /// once.
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self, KeyError> {
        let mut found: Vec<([u8; 32], Tenant)> = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            let (name, key) = match key.as_ref().trim().split_once(char::is_whitespace) {
                Some((name, key)) => (Some(name), key.trim_start()),
                None => (None, key.as_ref()),
            };
            if name.is_some_and(|name| !may_be_name(name)) {
                return Err(KeyError::BadName { index });
            }
            if key.len() < MIN_KEY_LEN {
                return Err(KeyError::TooShort { index, len: key.len() });
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(KeyError::NotVisible { index });
            }
            let digest = sha256(key.as_bytes());
            if found.iter().all(|(known, _)| *known != digest) {
                found.push((digest, name.map_or_else(|| tenant_of(&digest), Tenant::named)));
            }
        }
        Ok(Self { keys: found })
    }

    /// One key, made for the occasion, that stands for this tenant.
    pub fn of(key: &str, tenant: Tenant) -> Self {
        Self { keys: vec![(sha256(key.as_bytes()), tenant)] }
    }

    /// The tenant of the first key.
    pub fn first(&self) -> Option<Tenant> {
        self.keys.first().map(|(_, tenant)| tenant.clone())
    }

    /// Whether no key is configured.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who sends these headers; an error if keys are configured and none of them is there.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        if self.keys.is_empty() {
            return Ok(Tenant::anonymous());
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(ApiError::unauthorized("no API key: send it as `Authorization: Bearer KEY`"));
        };
        let Some(key) = bearer(value.as_bytes()) else {
            return Err(ApiError::unauthorized("the Authorization header is not of the form `Bearer KEY`"));
        };
        let digest = sha256(key);
        let mut found = None;
        for (known, tenant) in &self.keys {
            // No early exit: the time says nothing about which key it is.
            if bool::from(known.ct_eq(&digest)) {
                found = Some(tenant);
            }
        }
        found.cloned().ok_or_else(|| ApiError::unauthorized("the API key is not one of this server's"))
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The name from the key's digest, the salt from a second hash of it, so that neither tells the other.
fn tenant_of(digest: &[u8; 32]) -> Tenant {
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Tenant { name: format!("key-{hex}"), salt: salt(digest), key_id: hex, limits: KeyLimits::default() }
}

fn salt(digest: &[u8; 32]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(b"engram prefix cache tenant");
    hasher.update(digest);
    let salt: [u8; 32] = hasher.finalize().into();
    u64::from_le_bytes([salt[0], salt[1], salt[2], salt[3], salt[4], salt[5], salt[6], salt[7]])
}

fn may_be_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= 64 && name.bytes().all(good) && !name.starts_with("key-") && name != "anonymous"
}

/// Why a server may not listen on an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "refusing to listen on {addr} without API keys: anyone who reaches it could use it. \
     Set `server.api_keys`, listen on 127.0.0.1, or say --insecure-no-auth"
)]
pub struct OpenBind {
    /// The address.
    pub addr: IpAddr,
}

/// A server without keys may listen on loopback only, unless `insecure_no_auth` says that this is meant.
pub fn check_bind(addr: IpAddr, keys: &ApiKeys, insecure_no_auth: bool) -> Result<(), OpenBind> {
    // An IPv4-mapped loopback (::ffff:127.0.0.1) is loopback too.
    if addr.to_canonical().is_loopback() || !keys.is_empty() || insecure_no_auth {
        Ok(())
    } else {
        Err(OpenBind { addr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[&str]) -> ApiKeys {
        ApiKeys::new(list).expect("good keys")
    }

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().expect("a header value"));
        headers
    }

    #[test]
    fn only_a_configured_key_opens() {
        let keys = keys(&["sk-alpha-1", "sk-beta-22"]);
        let table = [
            ("Bearer sk-alpha-1", true),
            ("bearer sk-beta-22", true),
            ("BEARER   sk-beta-22 ", true),
            ("Bearer sk-alpha-2", false),
            ("Bearer sk-alpha-", false),
            ("Bearer sk-alpha-11", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic sk-alpha-1", false),
            ("sk-alpha-1", false),
        ];
        for (value, open) in table {
            assert_eq!(keys.authenticate(&headers(value)).is_ok(), open, "{value:?}");
        }
        assert!(keys.authenticate(&HeaderMap::new()).is_err());
    }

    #[test]
    fn each_key_is_a_tenant_of_its_own_and_stays_it() {
        let one = keys(&["sk-alpha-1", "sk-beta-22"]);
        let a = one.authenticate(&headers("Bearer sk-alpha-1")).expect("known");
        let b = one.authenticate(&headers("Bearer sk-beta-22")).expect("known");
        assert_ne!(a.salt, b.salt);
        assert_ne!(a.name, b.name);
        assert!(!a.name.contains("alpha"));
        let again = keys(&["sk-alpha-1"]);
        assert_eq!(again.authenticate(&headers("Bearer sk-alpha-1")).expect("known"), a);
    }

    #[test]
    fn without_keys_everyone_is_one_tenant() {
        let open = ApiKeys::default();
        assert_eq!(open.authenticate(&HeaderMap::new()).expect("open"), Tenant::anonymous());
        assert_eq!(open.authenticate(&headers("Bearer what")).expect("open"), Tenant::anonymous());
    }

    #[test]
    fn bad_keys_are_refused_by_their_place() {
        assert_eq!(ApiKeys::new(["sk-alpha-1", "short"]).expect_err("short"), KeyError::TooShort { index: 1, len: 5 });
        assert_eq!(ApiKeys::new(["with a space in"]).expect_err("space"), KeyError::NotVisible { index: 0 });
        for name in ["key-1", "anonymous", "a/b", "é"] {
            let error = ApiKeys::new([format!("{name} sk-alpha-1")]).expect_err(name);
            assert_eq!(error, KeyError::BadName { index: 0 });
        }
    }

    #[test]
    fn keys_of_one_name_are_one_tenant() {
        let keys = keys(&["ada sk-alpha-1", "ada sk-alpha-2", "bob sk-beta-22"]);
        let tenant = |key: &str| keys.authenticate(&headers(&format!("Bearer {key}"))).expect("known");
        assert_eq!(tenant("sk-alpha-1"), tenant("sk-alpha-2"));
        assert_eq!(tenant("sk-alpha-1").name, "ada");
        assert_ne!(tenant("sk-beta-22").salt, tenant("sk-alpha-1").salt);
        assert!(keys.authenticate(&headers("Bearer ada sk-alpha-1")).is_err());
    }

    #[test]
    fn beyond_loopback_needs_keys_or_a_word() {
        let some = keys(&["sk-alpha-1"]);
        let none = ApiKeys::default();
        let table = [
            ("127.0.0.1", &none, false, true),
            ("127.8.9.1", &none, false, true),
            ("::1", &none, false, true),
            ("::ffff:127.0.0.1", &none, false, true),
            ("0.0.0.0", &none, false, false),
            ("::", &none, false, false),
            ("192.168.1.5", &none, false, false),
            ("0.0.0.0", &none, true, true),
            ("0.0.0.0", &some, false, true),
        ];
        for (addr, keys, insecure, allowed) in table {
            let addr: IpAddr = addr.parse().expect("an address");
            assert_eq!(check_bind(addr, keys, insecure).is_ok(), allowed, "{addr} {insecure}");
        }
    }
}
