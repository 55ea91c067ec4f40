//! Connections to PostgreSQL: TLS, timeouts, and what the driver's errors mean.

use std::sync::Arc;
use std::time::Duration;

use postgres::config::{Host, SslMode};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresConfig;
use crate::backend::pool::Connect;
use crate::backend::secret::scrub;
use crate::error::{MemoryError, Result};

/// Opens connections that are set up alike.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    setup: String,
    password: String,
}

impl Connector {
    pub(super) fn new(config: &PostgresConfig) -> Result<Self> {
        let url = config.url.expose();
        // The driver's message may quote the URL, password and all: it says only what is wrong with its form.
        let mut parsed: Config = url.parse().map_err(|_| {
            invalid("url", "is not `postgresql://user:password@host:port/database?sslmode=require`, or `host=..` pairs")
        })?;
        parsed.connect_timeout(config.connect_timeout);
        if parsed.get_application_name().is_none() {
            parsed.application_name("engram");
        }
        let password = parsed.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let setup = format!(
            "SET search_path TO {schema}, public; SET statement_timeout TO {statement}; SET jit TO off",
            schema = schema_name(&config.schema)?,
            statement = timeout_ms(config.statement_timeout),
        );
        let tls = wants_tls(&parsed).then(tls).transpose()?;
        Ok(Self { config: parsed, tls, setup, password: password.unwrap_or_default() })
    }

    /// What the driver says, as ours, without the password.
    pub(super) fn failed(&self, error: &postgres::Error) -> MemoryError {
        let message = match error.as_db_error() {
            Some(said) => format!("{} ({})", said.message(), said.code().code()),
            None => chain(error),
        };
        let message = scrub(&message, &[&self.password]);
        MemoryError::Backend { backend: super::NAME, message, retryable: retryable(error) }
    }
}

impl Connect for Connector {
    type Connection = Client;

    fn connect(&self) -> Result<Client> {
        let client = match &self.tls {
            Some(tls) => self.config.connect(tls.clone()),
            None => self.config.connect(NoTls),
        };
        let mut client = client.map_err(|error| self.failed(&error))?;
        client.batch_execute(&self.setup).map_err(|error| self.failed(&error))?;
        Ok(client)
    }

    fn broken(&self, client: &Client) -> bool {
        client.is_closed()
    }

    fn answers(&self, client: &mut Client) -> bool {
        client.is_valid(Duration::from_secs(1)).is_ok()
    }
}

/// Two transactions met and one must be run again; the engine is well.
pub(super) fn collided(error: &postgres::Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED
        || *code == SqlState::T_R_SERIALIZATION_FAILURE)
}

/// Whether the engine is unwell, rather than the statement: connection trouble, no resources, shutdown or
/// timeout (classes 08, 53, 57, 58 of PostgreSQL's appendix A).
fn retryable(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => ["08", "53", "57", "58", "40"].iter().any(|class| code.code().starts_with(class)),
        None => {
            let io = std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
            error.is_closed() || io || error.to_string().contains("connecting")
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// A UNIX socket is the machine's own; else `sslmode` decides, and `prefer` is the driver's default.
fn wants_tls(config: &Config) -> bool {
    let remote = config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
    remote && config.get_ssl_mode() != SslMode::Disable
}

/// Certificates are checked against the system's roots and the host's name, as `sslmode=verify-full` does.
fn tls() -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let config = builder
        .with_safe_default_protocol_versions()
        .and_then(|builder| Ok(builder.with_platform_verifier()?.with_no_client_auth()));
    let config = config.map_err(|error| invalid("url", &format!("asks for TLS, which cannot be set up: {error}")))?;
    Ok(MakeRustlsConnect::new(config))
}

/// The schema's name stands in statements as it is, so it is held to what needs no quotes.
pub(super) fn schema_name(name: &str) -> Result<&str> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let plain =
        name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit());
    if plain && name.len() <= 63 && !name.starts_with("pg_") {
        return Ok(name);
    }
    Err(invalid("schema", "is 1 to 63 of a-z, 0-9 and _, not beginning with a digit or `pg_`"))
}

fn timeout_ms(timeout: Duration) -> u128 {
    timeout.as_millis().clamp(1, i32::MAX as u128)
}

fn invalid(key: &str, message: &str) -> MemoryError {
    MemoryError::Invalid { field: format!("memory.postgres_{key}"), message: message.to_owned() }
}
