//! Certificates made for the occasion: shown, changed with their files, refused when broken.

use std::path::PathBuf;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::*;

/// A certificate for `localhost` in two files.
pub(crate) struct Files {
    dir: TempDir,
    pub(crate) config: TlsConfig,
}

impl Files {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = TlsConfig {
            cert_file: dir.path().join("cert.pem"),
            key_file: dir.path().join("key.pem"),
            handshake_timeout: Duration::from_millis(300),
        };
        Self { dir, config }
    }

    /// Writes a new pair, and returns what trusts it.
    pub(crate) fn renew(&self) -> ClientConfig {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&self.config.cert_file, cert.pem()).unwrap();
        std::fs::write(&self.config.key_file, signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

/// Says `hi` to everyone who shakes hands.
async fn greeter(tls: Tls) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = tls.accept(stream).await {
                    let _ = stream.write_all(b"hi").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}

async fn greeting(address: std::net::SocketAddr, client: &ClientConfig) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client.clone())).connect(name, stream).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_new_certificate_is_shown_once_its_files_are_both_there() {
    let files = Files::new();
    let first = files.renew();
    let tls = Tls::new(&files.config).unwrap();
    let address = greeter(tls.clone()).await;
    tokio::spawn(async move { tls.follow_files(Duration::from_millis(20)).await });
    assert_eq!(greeting(address, &first).await.unwrap(), "hi");

    // Half a pair, and a file that is none: the old one stays.
    let key = std::fs::read(&files.config.key_file).unwrap();
    let second = files.renew();
    let new_key = std::fs::read(&files.config.key_file).unwrap();
    std::fs::write(&files.config.key_file, &key).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(greeting(address, &first).await.unwrap(), "hi");
    std::fs::write(&files.config.key_file, b"nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(greeting(address, &first).await.unwrap(), "hi");

    std::fs::write(&files.config.key_file, &new_key).unwrap();
    let mut tries = 0;
    while greeting(address, &second).await.is_err() {
        tries += 1;
        assert!(tries < 100, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(greeting(address, &first).await.is_err(), "the old certificate is still shown");
}

#[tokio::test]
async fn who_does_not_shake_hands_is_cut_off() {
    let files = Files::new();
    let client = files.renew();
    let address = greeter(Tls::new(&files.config).unwrap()).await;
    let begun = std::time::Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    // An alert, then the end; no HTTP.
    let _ = plain.read_to_end(&mut bytes).await;
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
    // Others are served meanwhile.
    assert_eq!(greeting(address, &client).await.unwrap(), "hi");
    bytes.clear();
    let _ = silent.read_to_end(&mut bytes).await;
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(3), "{waited:?}");
}

#[test]
fn files_that_cannot_be_used_are_told_with_key_and_cure() {
    let (files, other) = (Files::new(), Files::new());
    files.renew();
    other.renew();
    let junk = files.dir.path().join("junk");
    std::fs::write(&junk, "sk-secret, not PEM").unwrap();
    let good = &files.config;
    let cases: [(PathBuf, PathBuf, &[&str]); 6] = [
        ("/nowhere/cert.pem".into(), good.key_file.clone(), &["`tls.cert_file`", "cannot read /nowhere/cert.pem"]),
        (good.cert_file.clone(), "/nowhere/key.pem".into(), &["`tls.key_file`", "cannot read /nowhere/key.pem"]),
        (files.dir.path().into(), good.key_file.clone(), &["`tls.cert_file`", "is not a regular file"]),
        (junk.clone(), good.key_file.clone(), &["holds no certificate", "-----BEGIN CERTIFICATE-----"]),
        (good.cert_file.clone(), junk, &["`tls.key_file`", "-----BEGIN PRIVATE KEY-----"]),
        (good.cert_file.clone(), other.config.key_file.clone(), &["cannot be used together"]),
    ];
    for (cert_file, key_file, parts) in cases {
        let config = TlsConfig { cert_file, key_file, handshake_timeout: good.handshake_timeout };
        let Err(error) = load(&config) else { panic!("{config:?} was taken") };
        let message = format!("{error:#}");
        for part in parts {
            assert!(message.contains(part), "{message}\n  missing: {part}");
        }
        assert!(!message.contains("sk-secret"), "{message}");
    }
    assert!(load(good).is_ok());
}
