//! Requests to Qdrant: connections, time limits, and what its answers mean.

use std::sync::Arc;

use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, http::Response};

use super::{NAME, QdrantConfig};
use crate::backend::pool::{Connect, Lent, Pool};
use crate::backend::secret::{Secret, scrub};
use crate::error::{MemoryError, Result};

/// Longest answer read, bytes: more than any page that is asked for.
const MAX_ANSWER: u64 = 1 << 30;

/// Makes agents that keep one connection each.
pub(super) struct Maker {
    config: ureq::config::Config,
}

/// One kept connection, or the right to open one.
pub(super) struct Link {
    agent: Agent,
    broken: bool,
}

impl Connect for Maker {
    type Connection = Link;

    fn connect(&self) -> Result<Link> {
        Ok(Link { agent: Agent::new_with_config(self.config.clone()), broken: false })
    }

    fn broken(&self, link: &Link) -> bool {
        link.broken
    }

    /// The agent itself sees that its connection was closed, and opens another.
    fn answers(&self, _: &mut Link) -> bool {
        true
    }
}

/// Where Qdrant is, and the connections to it.
pub(super) struct Client {
    pool: Pool<Maker>,
    base: String,
    api_key: Option<Secret>,
}

impl Client {
    /// Made ready; nothing is connected yet.
    pub(super) fn new(config: &QdrantConfig) -> Result<Self> {
        let base = config.url.trim_end_matches('/');
        let host = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://"));
        let plain = |host: &str| !host.is_empty() && !host.contains(['@', '?', '#', ' ', '\\']);
        if !host.is_some_and(plain) {
            let message = "is not `http://host:6333` or `https://host:6333`; the key goes in `memory.qdrant_api_key`";
            return Err(MemoryError::Invalid { field: "memory.qdrant_url".to_owned(), message: message.to_owned() });
        }
        let graphic = |key: &Secret| key.expose().bytes().all(|byte| byte.is_ascii_graphic());
        if config.api_key.as_ref().is_some_and(|key| !graphic(key)) {
            let message = "is no text that an HTTP header can hold: letters, digits and signs of ASCII";
            let field = "memory.qdrant_api_key".to_owned();
            return Err(MemoryError::Invalid { field, message: message.to_owned() });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent("engram")
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .timeout_connect(Some(config.connect_timeout))
            .timeout_global(Some(config.timeout))
            .tls_config(tls)
            .build();
        let pool = Pool::new((NAME, "memory.workers"), config.pool, Maker { config: agent });
        Ok(Self { pool, base: base.to_owned(), api_key: config.api_key.clone() })
    }

    /// Takes a connection for some requests.
    pub(super) fn session(&self) -> Result<Session<'_>> {
        Ok(Session { link: self.pool.get()?, client: self })
    }

    /// Connections lent, and at most.
    pub(super) fn usage(&self) -> (u32, u32) {
        self.pool.usage()
    }
}

/// Some requests on one connection.
pub(super) struct Session<'a> {
    link: Lent<'a, Maker>,
    client: &'a Client,
}

impl Session<'_> {
    /// Reads; the answer's `result`.
    pub(super) fn get(&mut self, path: &str) -> Result<Value> {
        let mut request = self.link.agent.get(format!("{}{path}", self.client.base));
        if let Some(key) = &self.client.api_key {
            request = request.header("api-key", key.expose());
        }
        let response = request.call();
        self.result(response)
    }

    /// The server's version (`1.20.0`), which it tells at its root, outside of any `result`.
    pub(super) fn version(&mut self) -> Result<String> {
        let response = self.link.agent.get(format!("{}/", self.client.base)).call();
        let root = self.json(response)?;
        let version = root["version"].as_str().map(str::to_owned);
        version.ok_or_else(|| self.failed("`memory.qdrant_url` is not Qdrant's REST API: it tells no version", false))
    }

    /// Asks with a body.
    pub(super) fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let request = self.link.agent.post(format!("{}{path}", self.client.base));
        self.send(request, &body.to_string())
    }

    /// Makes, with a body that is JSON.
    pub(super) fn put(&mut self, path: &str, body: &str) -> Result<Value> {
        let request = self.link.agent.put(format!("{}{path}", self.client.base));
        self.send(request, body)
    }

    fn send(&mut self, mut request: ureq::RequestBuilder<ureq::typestate::WithBody>, body: &str) -> Result<Value> {
        if let Some(key) = &self.client.api_key {
            request = request.header("api-key", key.expose());
        }
        let response = request.header("content-type", "application/json").send(body);
        self.result(response)
    }

    fn result(&mut self, response: Result<Response<Body>, ureq::Error>) -> Result<Value> {
        Ok(self.json(response)?["result"].take())
    }

    fn json(&mut self, response: Result<Response<Body>, ureq::Error>) -> Result<Value> {
        let read = response.and_then(|mut response| {
            let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
            Ok((response.status().as_u16(), body))
        });
        let (status, body) = match read {
            Ok(answer) => answer,
            Err(error) => {
                self.link.broken = true;
                let message = format!("{error}, at `memory.qdrant_url`");
                return Err(self.failed(&message, true));
            }
        };
        if !(200..300).contains(&status) {
            let said = serde_json::from_slice::<Value>(&body).ok();
            let said = said.as_ref().and_then(|said| said.pointer("/status/error")?.as_str());
            let cure = if matches!(status, 401 | 403) { ": check `memory.qdrant_api_key`" } else { "" };
            let message = format!("{} (HTTP {status}){cure}", said.unwrap_or("it gave no reason"));
            return Err(self.failed(&message, status >= 500 || matches!(status, 408 | 429)));
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.failed(&format!("its answer cannot be read: {error}"), false))
    }

    /// An error of this engine, without the key.
    pub(super) fn failed(&self, message: &str, retryable: bool) -> MemoryError {
        let key = self.client.api_key.as_ref().map_or("", Secret::expose);
        MemoryError::Backend { backend: NAME, message: scrub(message, &[key]), retryable }
    }

    /// Reads a `result` as what it should be.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, result: Value) -> Result<T> {
        serde_json::from_value(result).map_err(|error| self.failed(&format!("unexpected answer: {error}"), false))
    }
}
