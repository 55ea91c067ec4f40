//! A real `engram serve` process on a free port of the loopback interface.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The running server; killed when dropped.
pub struct Server {
    child: Child,
    port: u16,
    data: tempfile::TempDir,
    /// From spawn to the first successful `/ready`.
    pub started_in: Duration,
    /// Blocks of the KV cache, as told before the first request.
    pub blocks_total: f64,
}

/// The binary under test; `make test` builds it first.
pub fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let path = target.join("release/engram");
    assert!(path.exists(), "{} is missing: run `cargo build --release` (or `make test`)", path.display());
    path
}

/// A port nobody listens on right now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

impl Server {
    /// Starts `engram serve --model MODEL` with more flags and waits until it is ready.
    pub fn start(model: &str, flags: &[&str]) -> Self {
        Self::start_at(free_port(), model, flags)
    }

    /// The same at a port of one's choice.
    pub fn start_at(port: u16, model: &str, flags: &[&str]) -> Self {
        super::gguf(model); // pulled outside the start-up time
        let mut server = Self::spawn(port, tempfile::tempdir().expect("a temporary folder"), model, flags);
        server.blocks_total = server.metric("engram_kv_blocks", "");
        server
    }

    /// Starts a node without a model, which asks the backends of this configuration, and waits until one is up.
    pub fn front(config: &str) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let file = data.path().join("engram.toml");
        std::fs::write(&file, format!("[memory]\nenabled = false\n{config}")).expect("a configuration");
        Self::spawn(free_port(), data, "none", &["--config", file.to_str().expect("a path")])
    }

    fn spawn(port: u16, data: tempfile::TempDir, model: &str, flags: &[&str]) -> Self {
        let begun = Instant::now();
        let child = Command::new(binary())
            .args(["serve", "--model", model, "--host", "127.0.0.1", "--port", &port.to_string(), "--data-dir"])
            .arg(data.path())
            .args(flags)
            // Tests ask the same thing twice and mean the engine, unless their config says otherwise.
            .env("ENGRAM_ROUTING_CACHE", "false")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(std::fs::File::create(data.path().join("stderr.log")).expect("a log file")))
            .spawn()
            .expect("spawn engram");
        let mut server = Self { child, port, data, started_in: Duration::ZERO, blocks_total: 0.0 };
        while !server.is_ready() {
            if let Some(status) = server.child.try_wait().expect("wait") {
                panic!("engram ended with {status}:\n{}", server.log());
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "not ready after 60 s:\n{}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server.started_in = begun.elapsed();
        server
    }

    fn is_ready(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && self.blocking_get("/ready").is_some_and(|(status, _)| status == 200)
    }

    /// Status and body of a GET, without an async runtime.
    pub fn blocking_get(&self, path: &str) -> Option<(u16, String)> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split_whitespace().nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// Where it keeps what outlives it; gone when this is dropped.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("stderr.log")).unwrap_or_default()
    }

    /// `http://127.0.0.1:PORT` + path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The value of a metric, its series of this label summed: `label` such as `state="free"`, or nothing.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, body) = self.blocking_get("/metrics").expect("metrics");
        let series: Vec<f64> = body
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(!series.is_empty(), "no metric {name} {label} in:\n{body}");
        series.iter().sum()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("procfs");
        let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("VmRSS") * 1024
    }

    /// Ends the process as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(libc::SIGHUP);
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill has no memory effects; the pid is our own child, not yet waited for.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal}");
    }

    /// What `/v1/admin/backends` says of one backend.
    pub fn backend(&self, name: &str) -> Value {
        let (_, body) = self.blocking_get("/v1/admin/backends").expect("the backends");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let mut backends = body["backends"].as_array().expect("a list").iter();
        backends.find(|backend| backend["name"] == name).unwrap_or_else(|| panic!("no {name} in {body}")).clone()
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(begun.elapsed() < limit, "still running after {limit:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one SSE stream brought.
#[derive(Debug, Default)]
pub struct Streamed {
    /// HTTP status.
    pub status: u16,
    /// Concatenated text of choice 0.
    pub text: String,
    /// Chunks that carried text.
    pub deltas: usize,
    /// Whether `[DONE]` came.
    pub done: bool,
    /// An error event or error body.
    pub error: Option<Value>,
    /// The last finish reason.
    pub finish_reason: Option<String>,
    /// The usage object, if one came.
    pub usage: Option<Value>,
    /// From request to the end of the stream.
    pub elapsed: Duration,
    /// From request to the first text.
    pub first: Option<Duration>,
}

/// Posts a streaming request and reads it to its end, or until `leave_after` text deltas.
pub async fn stream(client: &reqwest::Client, url: &str, body: &Value, leave_after: Option<usize>) -> Streamed {
    use futures::StreamExt;
    let begun = Instant::now();
    let mut out = Streamed::default();
    let response = client.post(url).json(body).send().await.expect("the server answers");
    out.status = response.status().as_u16();
    if out.status != 200 {
        out.error = response.json().await.ok();
        out.elapsed = begun.elapsed();
        return out;
    }
    let mut bytes = response.bytes_stream();
    let mut buffer = Vec::new();
    while let Some(part) = bytes.next().await {
        buffer.extend_from_slice(&part.expect("an unbroken body"));
        while let Some(end) = buffer.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8(line).expect("SSE is UTF-8");
            let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                out.done = true;
                continue;
            }
            let event: Value = serde_json::from_str(data).expect("each event is JSON");
            if !event["error"].is_null() {
                out.error = Some(event["error"].clone());
            }
            if !event["usage"].is_null() {
                out.usage = Some(event["usage"].clone());
            }
            let choice = &event["choices"][0];
            let text = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str()).unwrap_or("");
            if !text.is_empty() {
                out.text.push_str(text);
                out.deltas += 1;
                out.first.get_or_insert_with(|| begun.elapsed());
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                out.finish_reason = Some(reason.to_owned());
            }
        }
        if leave_after.is_some_and(|n| out.deltas >= n) {
            break;
        }
    }
    out.elapsed = begun.elapsed();
    out
}
