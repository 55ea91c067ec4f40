//! TLS at the doors: certificate and key from files, changed when the files change.
//!
//! New connections get the certificate of now; those that are open keep theirs. Files that do not go together (one
//! of a pair is replaced first) leave the old pair in use until they do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsConfig;
use crate::reload::Live;

/// Largest certificate or key file: a chain is a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The certificate of now. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Tls(Live<Shown>);

/// One certificate and what was read to get it.
struct Shown {
    config: TlsConfig,
    stamps: [Stamp; 2],
    server: Arc<ServerConfig>,
}

/// What changes with a file's content.
type Stamp = Option<(SystemTime, u64)>;

/// A certificate that was read, and is to be shown from now on.
pub struct Loaded(Shown);

impl Tls {
    /// Reads the files.
    pub fn new(config: &TlsConfig) -> anyhow::Result<Self> {
        Ok(Self(Live::new(load(config)?.0)))
    }

    /// Shows another certificate to new connections.
    pub fn show(&self, loaded: Loaded) {
        self.0.store(loaded.0);
    }

    /// Shakes hands with a client.
    pub async fn accept(&self, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let shown = self.0.load();
        let acceptor = TlsAcceptor::from(Arc::clone(&shown.server));
        let limit = shown.config.handshake_timeout;
        match tokio::time::timeout(limit, acceptor.accept(stream)).await {
            Ok(stream) => Ok(stream?),
            Err(_) => bail!("no handshake within {limit:?}"),
        }
    }

    /// Looks at the files every `interval`, for good; what cannot be used is told once and not taken.
    pub async fn follow_files(&self, interval: Duration) {
        let mut told = None;
        loop {
            tokio::time::sleep(interval).await;
            let shown = self.0.load();
            let stamps = stamps(&shown.config);
            if stamps == shown.stamps || told == Some(stamps) {
                continue;
            }
            let config = shown.config.clone();
            let loaded = tokio::task::spawn_blocking(move || load(&config)).await;
            match loaded.map_err(anyhow::Error::from).and_then(|loaded| loaded) {
                Ok(loaded) => {
                    self.show(loaded);
                    tracing::info!("the certificate was replaced by the one that is in its file now");
                }
                Err(error) => {
                    tracing::error!("the certificate stays as it was: {error:#}");
                    told = Some(stamps);
                }
            }
        }
    }
}

/// Reads a certificate with its key and checks that they go together.
pub fn load(config: &TlsConfig) -> anyhow::Result<Loaded> {
    // Before the files are read: what is written meanwhile is noticed at the next look.
    let stamps = stamps(config);
    let chain = chain(&config.cert_file).context("`tls.cert_file`")?;
    let key = key(&config.key_file).context("`tls.key_file`")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| {
            let (cert, key) = (config.cert_file.display(), config.key_file.display());
            format!("`tls.cert_file` {cert} and `tls.key_file` {key} cannot be used together")
        })?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded(Shown { config: config.clone(), stamps, server: Arc::new(server) }))
}

fn chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.with_context(|| format!("{} is not PEM", path.display()))?;
    if chain.is_empty() {
        bail!("{} holds no certificate; it must have a block `-----BEGIN CERTIFICATE-----`", path.display());
    }
    Ok(chain)
}

fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let pem = read(path)?;
    // The reason is left out of the message: nothing of what the file holds may get into it.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let path = path.display();
        anyhow::anyhow!(
            "{path} holds no private key that can be read; it must have a block `-----BEGIN PRIVATE KEY-----`"
        )
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let told = || format!("cannot read {}", path.display());
    let metadata = path.metadata().with_context(told)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        bail!("{} is not a regular file of at most {MAX_FILE_BYTES} bytes", path.display());
    }
    std::fs::read(path).with_context(told)
}

fn stamps(config: &TlsConfig) -> [Stamp; 2] {
    [&config.cert_file, &config.key_file].map(|path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

#[cfg(test)]
#[path = "tls_tests.rs"]
pub(crate) mod tests;
