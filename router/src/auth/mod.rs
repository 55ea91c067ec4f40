//! Keys, the tenants they stand for, what they may do and how much, and the doors that ask for them.
//!
//! Two kinds of keys open. Those of the configuration (`server.api_keys`) are the operator's own: they may do
//! everything and are not limited. Those of the store are made by `engram keys` or `/v1/admin/keys`, each with its
//! scopes, its tenant, its domain, its models and its limits; a running server takes over what a command changes
//! within [`keys::FOLLOW`].

pub mod bucket;
pub mod credential;
pub mod digest;
pub mod doors;
pub mod gate;
pub mod keys;
pub mod rate_headers;
pub mod record;
pub mod scope;
pub mod store;
pub mod tenant;

use std::net::IpAddr;

pub use keys::{ApiKeys, Credential, Denied, KeyError};
pub use record::{KeyRecord, NewKey};
pub use scope::{Scope, Scopes};
pub use store::{KeyStore, StoreError};
pub use tenant::{KeyLimits, Tenant};

/// Why a server may not listen on an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "refusing to listen on {addr} without API keys: anyone who reaches it could use it. \
     Make one with `engram keys create NAME`, set `server.api_keys`, listen on 127.0.0.1, or say --insecure-no-auth"
)]
pub struct OpenBind {
    /// The address.
    pub addr: IpAddr,
}

/// Whether only this machine reaches the address. An IPv4-mapped loopback (::ffff:127.0.0.1) is loopback too.
pub fn is_loopback(addr: IpAddr) -> bool {
    addr.to_canonical().is_loopback()
}

/// A server without keys may listen on loopback only, unless `insecure_no_auth` says that this is meant.
pub fn check_bind(addr: IpAddr, keys: &ApiKeys, insecure_no_auth: bool) -> Result<(), OpenBind> {
    match is_loopback(addr) || !keys.is_open() || insecure_no_auth {
        true => Ok(()),
        false => Err(OpenBind { addr }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_needs_keys_or_a_word() {
        let some = ApiKeys::new(["sk-alpha-1"]).expect("a good key");
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
