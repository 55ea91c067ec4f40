//! What a backend's settings say, and what can be wrong with them.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{PortkeyCache, Secret};

/// What kind of server a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// Another inference server of ours: Engram, vLLM, llama-server.
    Peer,
    /// A Portkey gateway, one's own or the hosted one.
    Portkey,
    /// Anything else that speaks OpenAI's API: OpenRouter and the like.
    OpenAiCompatible,
}

/// What only a Portkey gateway understands.
#[derive(Debug, Clone, Default)]
pub struct PortkeySettings {
    /// The account at the hosted gateway. The backend's `api_key` is the provider's key, and goes on to the provider.
    pub api_key: Option<Secret>,
    /// The provider whose dialect the model behind it speaks, such as `openai`.
    pub provider: Option<String>,
    /// A saved config's id (`pc-...`), or a config as inline JSON.
    pub config: Option<String>,
    /// A key kept in the gateway's vault.
    pub virtual_key: Option<Secret>,
    /// Base URL of the provider, where it is not the provider's own.
    pub custom_host: Option<String>,
    /// A JSON object that goes into the gateway's log.
    pub metadata: Option<String>,
    /// Tries again by the gateway itself, 0 to 5.
    pub retries: u32,
    /// Its cache.
    pub cache: PortkeyCache,
}

/// One remote backend.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Its name in the configuration, in reports and metrics.
    pub name: String,
    /// What it is.
    pub kind: RemoteKind,
    /// Base URL up to and including the version: `http://10.0.0.2:8080/v1`.
    pub url: String,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// Sent along with every request: `name: value`.
    pub headers: Vec<String>,
    /// PEM file of certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A connection, TLS included, must stand within this.
    pub connect_timeout: Duration,
    /// The first token of a stream must come within this.
    pub first_token_timeout: Duration,
    /// Within an answer, something must come this often.
    pub idle_timeout: Duration,
    /// A whole answer may take this.
    pub timeout: Duration,
    /// Most idle connections that are kept open: as many as requests may be in flight.
    pub max_in_flight: usize,
    /// For `portkey` backends.
    pub portkey: PortkeySettings,
}

impl RemoteSettings {
    /// Settings with the documented defaults.
    pub fn new(name: impl Into<String>, kind: RemoteKind, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            url: url.into(),
            api_key: None,
            headers: Vec::new(),
            ca_file: None,
            connect_timeout: Duration::from_secs(2),
            first_token_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            max_in_flight: 256,
            portkey: PortkeySettings::default(),
        }
    }
}

/// Settings that no backend can be made of.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A key's value is wrong.
    #[error("`backends.{backend}.{key}`: {reason}")]
    Invalid {
        /// The backend.
        backend: String,
        /// The key of its table.
        key: &'static str,
        /// What is wrong and what would be right; no secret.
        reason: String,
    },
    /// The HTTP client could not be made, for lack of root certificates as a rule.
    #[error("backend `{backend}`: no HTTP client: {reason}; `backends.{backend}.ca_file` can name root certificates")]
    Client {
        /// The backend.
        backend: String,
        /// What the TLS side said.
        reason: String,
    },
}

impl RemoteSettings {
    /// An error about one key.
    pub(super) fn invalid(&self, key: &'static str, reason: impl Into<String>) -> RemoteError {
        RemoteError::Invalid { backend: self.name.clone(), key, reason: reason.into() }
    }
}
