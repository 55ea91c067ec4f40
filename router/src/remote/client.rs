//! The HTTP client of a backend: one pool of connections each, so that a stuck backend holds up no other.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::{Certificate, Client, Url};

use super::settings::{RemoteError, RemoteSettings};

/// Shorter than most servers keep a connection; where one closes first, the request that raced it is a `Reset`, which heals.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// A peer that vanished without a word is noticed within three of these.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A client for these settings: HTTP/1.1, no redirects, no proxy from the environment, bodies as they are.
pub(super) fn build(settings: &RemoteSettings, url: &Url) -> Result<Client, RemoteError> {
    let mut builder = Client::builder()
        .http1_only()
        .tcp_nodelay(true)
        .tcp_keepalive(TCP_KEEP_ALIVE)
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(IDLE_CONNECTION)
        .pool_max_idle_per_host(settings.max_in_flight)
        // A redirect would carry prompts and keys to a host that nobody configured.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(concat!("engram/", env!("CARGO_PKG_VERSION")));
    let roots = roots(settings)?;
    builder = match url.scheme() {
        // Without TLS no roots are read: a bare container has none, and must still reach its neighbours.
        "http" => builder.tls_certs_only(roots),
        _ => builder.tls_certs_merge(roots),
    };
    builder.build().map_err(|error| {
        let reason = StdError::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        RemoteError::Client { backend: settings.name.clone(), reason }
    })
}

fn roots(settings: &RemoteSettings) -> Result<Vec<Certificate>, RemoteError> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let invalid = |reason: String| settings.invalid("ca_file", format!("{}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| invalid(error.to_string()))?;
    let roots = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if roots.is_empty() {
        return Err(invalid("holds no PEM certificate; it needs `-----BEGIN CERTIFICATE-----` blocks".into()));
    }
    Ok(roots)
}

/// The base URL, checked, without a slash at its end.
pub(super) fn base(settings: &RemoteSettings) -> Result<Url, RemoteError> {
    let invalid = |reason: &str| settings.invalid("url", reason);
    let url = Url::parse(settings.url.trim_end_matches('/'))
        .map_err(|error| invalid(&format!("{error}; write it as `http://host:port/v1`")))?;
    match url.scheme() {
        "http" | "https" => {}
        other => return Err(invalid(&format!("`{other}` is no scheme of HTTP, known: `http`, `https`"))),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("holds a user or password; use `api_key` or `headers`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("ends in a query or fragment; give the base, such as `http://host:port/v1`"));
    }
    Ok(url)
}
