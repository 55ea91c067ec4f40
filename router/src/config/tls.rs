//! `[tls]`: the certificate that the server shows.

use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::getter::Getter;

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate with its chain, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// Time a client has for its handshake.
    pub handshake_timeout: Duration,
}

pub(super) fn build(get: &Getter<'_>, errors: &mut Vec<ConfigError>) -> Option<TlsConfig> {
    let handshake_timeout = get.seconds("tls.handshake_timeout_s");
    match (get.path("tls.cert_file"), get.path("tls.key_file")) {
        (Some(cert_file), Some(key_file)) => Some(TlsConfig { cert_file, key_file, handshake_timeout }),
        (None, None) => None,
        (cert, _) => {
            let missing = if cert.is_none() { "tls.cert_file" } else { "tls.key_file" };
            errors.push(get.bad(missing, "is unset: a certificate and its key come together; write both".into()));
            None
        }
    }
}
