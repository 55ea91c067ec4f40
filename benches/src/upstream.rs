//! A server that says what it is told to, byte by byte: the other end in tests of remote backends and in measurements of
//! the router's overhead.
//!
//! A script turns each request into steps: bytes to write, pauses, a clean or a brutal end. So every fault of a real
//! server can be had on cue. HTTP/1.1 with kept connections; requests need a `content-length`, as all of ours have.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One thing that the server does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Writes these bytes at once.
    Write(Arc<[u8]>),
    /// Does nothing for so long, unless the client leaves.
    Pause(Duration),
    /// Writes these bytes one by one, with a pause after each.
    Trickle(Arc<[u8]>, Duration),
    /// Closes the connection as a program that ended well does.
    Close,
    /// Resets the connection.
    Reset,
    /// Does nothing until the client leaves.
    Hang,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// `POST`.
    pub method: String,
    /// `/v1/chat/completions`.
    pub path: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How many requests came to this server before it.
    pub before: u64,
}

impl Received {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the server saw.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Requests read.
    pub requests: AtomicU64,
    /// Answers that the client did not wait for.
    pub left: AtomicU64,
}

type Script = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

/// The running server; it stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it saw.
    pub counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Starts on a free port of the loopback interface.
    pub async fn start(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_at("127.0.0.1:0", script).await
    }

    /// Starts at an address.
    pub async fn start_at(
        address: &str,
        script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let script: Arc<Script> = Arc::new(script);
        let accepting = tokio::spawn(accept(listener, script, Arc::clone(&counts)));
        Ok(Self { address, counts, accepting })
    }

    /// `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>, counts: Arc<Counts>) {
    // With the listener go its connections: a dropped set aborts its tasks.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&counts)));
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the requests of one connection until either side ends it.
async fn serve(mut stream: TcpStream, script: Arc<Script>, counts: Arc<Counts>) {
    // A batch of small writes must not wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(8 << 10);
    while let Some(mut request) = read_request(&mut stream, &mut buffer).await {
        request.before = counts.requests.fetch_add(1, Ordering::Relaxed);
        for step in script(&request) {
            match act(&mut stream, step).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    counts.left.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

/// Does a step. `Ok(false)`: the connection is over; an error: the client left.
async fn act(stream: &mut TcpStream, step: Step) -> io::Result<bool> {
    match step {
        Step::Write(bytes) => stream.write_all(&bytes).await?,
        Step::Pause(span) => wait(stream, span).await?,
        Step::Trickle(bytes, span) => {
            for byte in bytes.iter() {
                stream.write_all(&[*byte]).await?;
                wait(stream, span).await?;
            }
        }
        Step::Close => {
            let _ = stream.shutdown().await;
            return Ok(false);
        }
        Step::Reset => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Step::Hang => {
            while stream.read(&mut [0; 1024]).await? > 0 {}
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    Ok(true)
}

/// Pauses; an error if the client leaves meanwhile.
async fn wait(stream: &TcpStream, span: Duration) -> io::Result<()> {
    let gone = async {
        let mut byte = [0];
        match stream.peek(&mut byte).await {
            Ok(0) => io::Error::from(io::ErrorKind::ConnectionAborted),
            Err(error) => error,
            // The next request, sent before the answer: no reason to hurry.
            Ok(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        error = gone => Err(error),
        () = tokio::time::sleep(span) => Ok(()),
    }
}

/// The next request; `None` when the client is done or sends what is no request.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let mut searched = 0;
    let head_end = loop {
        if let Some(at) = buffer[searched..].windows(4).position(|four| four == b"\r\n\r\n") {
            break searched + at + 4;
        }
        searched = buffer.len().saturating_sub(3);
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = std::str::from_utf8(&buffer[..head_end]).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let mut request =
        Received { method: first.next()?.to_owned(), path: first.next()?.to_owned(), ..Received::default() };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length: usize = request.header("content-length").map_or(Ok(0), str::parse).ok()?;
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    request.body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Some(request)
}

/// Writes text.
pub fn write(text: impl AsRef<[u8]>) -> Step {
    Step::Write(text.as_ref().into())
}

/// A whole answer: status line such as `200 OK`, more header lines, a body.
pub fn answer(status: &str, headers: &[&str], body: &str) -> Step {
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    write(text)
}

/// A whole JSON answer.
pub fn json(status: &str, body: &str) -> Step {
    answer(status, &["content-type: application/json"], body)
}

/// The head of an event stream, in chunked encoding.
pub fn stream_head() -> Step {
    write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
}

/// One chunk of a chunked body.
pub fn chunk(text: &str) -> Step {
    write(format!("{:x}\r\n{text}\r\n", text.len()))
}

/// One event, as a chunk of its own.
pub fn event(data: &str) -> Step {
    chunk(&format!("data: {data}\n\n"))
}

/// The end of a chunked body.
pub fn stream_end() -> Step {
    write("0\r\n\r\n")
}
