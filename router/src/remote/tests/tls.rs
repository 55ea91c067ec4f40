//! TLS: a certificate that is not trusted, one that is, and a server without.

use std::io::Write;
use std::sync::Arc;

use engram_benches::upstream::{Upstream, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::FailureKind;
use super::{call, remote_at};

/// A TLS door before a server: its URL and its certificate.
async fn door(upstream: &Upstream, host: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server's settings");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let inner = upstream.address;
    tokio::spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outside = acceptor.accept(outside).await?;
                let mut inside = TcpStream::connect(inner).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    (format!("https://localhost:{port}/v1"), made.cert.pem())
}

#[tokio::test]
async fn only_trusted_certificates_are_taken() {
    let answer = json("200 OK", r#"{"choices": [{"finish_reason": "stop"}]}"#);
    let upstream = Upstream::start(move |_| vec![answer.clone()]).await.expect("a port");
    let (url, certificate) = door(&upstream, "localhost").await;
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(certificate.as_bytes()).expect("written");

    let trusting = remote_at(&url, |settings| settings.ca_file = Some(file.path().into()));
    trusting.whole(call("{}")).await.expect("a certificate that is trusted");

    let (elsewhere, _) = door(&upstream, "localhost").await;
    let (misnamed, its_own) = door(&upstream, "elsewhere.example").await;
    let mut own = tempfile::NamedTempFile::new().expect("a file");
    own.write_all(its_own.as_bytes()).expect("written");
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let without = format!("https://{}/v1", plain.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            // What a plain server says to a handshake.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let table = [
        ("unknown to anyone", elsewhere, file.path()),
        ("for another host", misnamed, own.path()),
        ("no TLS", without, file.path()),
    ];
    for (name, url, ca_file) in table {
        let remote = remote_at(&url, |settings| settings.ca_file = Some(ca_file.into()));
        let failure = remote.whole(call("{}")).await.expect_err(name);
        assert_eq!(failure.kind, FailureKind::Tls, "{name}: {failure}");
        assert!(failure.message.starts_with("TLS: "), "{name}: {failure}");
        assert!(!failure.kind.heals() && failure.kind.moves_on() && failure.kind.counts());
    }
}
