//! The real Portkey gateway, as a process of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::server::free_port;

/// The gateway's process; killed when dropped.
pub struct Gateway {
    child: Child,
    port: u16,
}

impl Gateway {
    /// Starts it on a free port and waits until it listens.
    pub fn start() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("node");
        let script = folder.join("node_modules/@portkey-ai/gateway/build/start-server.js");
        assert!(script.exists(), "{} is missing: `make gateway` fetches it", script.display());
        let port = free_port();
        let child = Command::new("node")
            .arg(script)
            .args([&format!("--port={port}"), "--headless"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("node, of version 18 or newer");
        let gateway = Self { child, port };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the gateway does not listen after 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
