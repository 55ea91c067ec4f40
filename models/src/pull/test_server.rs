//! A small HTTP/1.1 server on a loopback port that behaves well or badly, as a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path with query.
    pub(crate) path: String,
    /// First byte of a `Range` header.
    pub(crate) from: Option<usize>,
    pub(crate) authorization: Option<String>,
}

/// What to answer.
pub(crate) enum Reply {
    /// A document of this content type.
    Document(&'static str, String),
    /// A file; ranges are honoured.
    File(Arc<Vec<u8>>),
    /// A file; ranges are ignored.
    Rangeless(Arc<Vec<u8>>),
    /// A file; ranges are honoured, and the connection closes after this many bytes.
    Cut(Arc<Vec<u8>>, usize),
    /// A file sent in pieces of 8 KiB, with this pause before each.
    Slow(Arc<Vec<u8>>, Duration),
    /// Nothing but a status.
    Status(u16),
    /// The headers of a file on the hub: ETag and size.
    Head(String, usize),
    /// A redirect.
    Redirect(String),
    /// No answer; the connection stays open.
    Hang,
}

type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// Serves until the process ends; the port is freed then.
pub(crate) struct Server {
    pub(crate) address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `handler` gets the request and how many came before it for the same method and path.
    pub(crate) fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("address"));
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&shared));
                std::thread::spawn(move || {
                    let _ = serve(stream, &handler, &log); // a client that hangs up is part of many tests
                });
            }
        });
        Self { address, log }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("log").clone()
    }

    /// First bytes of the ranges that were asked of `path`, 0 for none.
    pub(crate) fn ranges(&self, path: &str) -> Vec<usize> {
        let gets = self.requests().into_iter().filter(|request| request.method == "GET" && request.path == path);
        gets.map(|request| request.from.unwrap_or(0)).collect()
    }
}

fn serve(mut stream: TcpStream, handler: &Arc<Handler>, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_string(), words.next().unwrap_or_default().to_string());
    let mut request = Request { method, path, from: None, authorization: None };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let from = value.trim().trim_start_matches("bytes=").split('-').next();
                request.from = from.and_then(|from| from.parse().ok());
            }
            "authorization" => request.authorization = Some(value.trim().to_string()),
            _ => {}
        }
    }
    let before = {
        let mut log = log.lock().expect("log");
        let same = |other: &&Request| other.method == request.method && other.path == request.path;
        let before = log.iter().filter(same).count();
        log.push(request.clone());
        before
    };
    let reply = handler(&request, before);
    answer(&mut stream, &request, reply)
}

fn answer(stream: &mut TcpStream, request: &Request, reply: Reply) -> std::io::Result<()> {
    let end = "Connection: close\r\n\r\n";
    match reply {
        Reply::Document(kind, text) => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{end}", text.len());
            stream.write_all(head.as_bytes())?;
            stream.write_all(text.as_bytes())
        }
        Reply::File(bytes) => send_file(stream, request, &bytes, usize::MAX, Duration::ZERO),
        Reply::Cut(bytes, after) => send_file(stream, request, &bytes, after, Duration::ZERO),
        Reply::Slow(bytes, pause) => send_file(stream, request, &bytes, usize::MAX, pause),
        Reply::Rangeless(bytes) => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{end}", bytes.len());
            stream.write_all(head.as_bytes())?;
            stream.write_all(&bytes)
        }
        Reply::Status(status) => {
            stream.write_all(format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n{end}").as_bytes())
        }
        Reply::Head(etag, bytes) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-Linked-ETag: \"{etag}\"\r\nX-Linked-Size: {bytes}\r\nETag: \"other\"\r\n\
                 Content-Length: {bytes}\r\n{end}"
            );
            stream.write_all(head.as_bytes())
        }
        Reply::Redirect(location) => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n{end}");
            stream.write_all(head.as_bytes())
        }
        Reply::Hang => {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
    }
}

fn send_file(
    stream: &mut TcpStream,
    request: &Request,
    bytes: &[u8],
    at_most: usize,
    pause: Duration,
) -> std::io::Result<()> {
    let total = bytes.len();
    let from = request.from.unwrap_or(0);
    if request.from.is_some() && from >= total {
        let head = format!(
            "HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return stream.write_all(head.as_bytes());
    }
    let status = match request.from {
        Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
        None => "200 OK".to_string(),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", total - from);
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    for piece in bytes[from..total.min(from.saturating_add(at_most))].chunks(8 << 10) {
        std::thread::sleep(pause);
        stream.write_all(piece)?;
    }
    stream.flush()
}
