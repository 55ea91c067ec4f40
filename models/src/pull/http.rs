//! One file over HTTP, whatever happens on the way.
//!
//! Bytes go to a `.part` file that survives a crash; each request asks for what is missing (RFC 9110, section 14,
//! range requests). An attempt that brought bytes is not a failure, so a slow or flapping line ends in a whole file;
//! three attempts in a row without a byte are one. Nothing here trusts the server: the caller checks the sha256.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use reqwest::{StatusCode, Url};

use super::error::{PullError, chain};
use super::progress::Progress;

/// Attempts in a row that bring nothing before a transfer is given up.
const BARREN_ATTEMPTS: u32 = 3;

/// Time limits of a connection. A closed network may refuse at once or swallow packets; neither may hang a start.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// Between two pieces of data.
    pub idle: Duration,
    /// Before a failed attempt is made again; it doubles with each.
    pub retry: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), idle: Duration::from_secs(20), retry: Duration::from_millis(500) }
    }
}

/// An HTTP client for large files.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    following: Client,
    stopping: Client, // does not follow redirects: the hub's own headers are on the first answer
    timeouts: Timeouts,
}

/// What is to be fetched.
#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    pub(crate) name: &'a str,
    pub(crate) url: &'a Url,
    pub(crate) token: Option<&'a str>,
    pub(crate) bytes: Option<u64>,
}

impl Http {
    pub(crate) fn new(timeouts: Timeouts) -> Result<Self, PullError> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("engram/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(timeouts.connect)
                .timeout(timeouts.idle) // of the blocking client: for the headers, and for each read
        };
        let refused =
            |error: reqwest::Error| PullError::Transport { url: "HTTP client".to_string(), reason: chain(&error) };
        let following = builder().build().map_err(refused)?;
        let stopping = builder().redirect(reqwest::redirect::Policy::none()).build().map_err(refused)?;
        Ok(Self { following, stopping, timeouts })
    }

    /// A small document, at most `cap` bytes, with its content type.
    pub(crate) fn get_document(&self, url: &Url, accept: &str, cap: u64) -> Result<(Vec<u8>, String), PullError> {
        let request = self.following.get(url.clone()).header(ACCEPT, accept);
        let response = request.send().map_err(|error| transport(url, &error))?;
        let response = success(url, response)?;
        let kind = header(response.headers(), "content-type").unwrap_or_default();
        let mut body = Vec::new();
        response.take(cap + 1).read_to_end(&mut body).map_err(|error| transport(url, &error))?;
        if body.len() as u64 > cap {
            return Err(protocol(url, format!("more than {cap} bytes")));
        }
        Ok((body, kind))
    }

    /// The headers of `url`. Redirects on the same host are followed (a renamed repository), others are not (a CDN).
    pub(crate) fn head(&self, url: &Url, token: Option<&str>) -> Result<HeaderMap, PullError> {
        let mut at = url.clone();
        for _ in 0..5 {
            let mut request = self.stopping.head(at.clone());
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.send().map_err(|error| transport(&at, &error))?;
            if !response.status().is_redirection() {
                return Ok(success(&at, response)?.headers().clone());
            }
            let headers = response.headers().clone();
            let target = header(&headers, LOCATION.as_str()).and_then(|location| at.join(&location).ok());
            match target {
                Some(target) if target.origin() == at.origin() && !headers.contains_key("x-linked-etag") => at = target,
                _ => return Ok(headers),
            }
        }
        Err(protocol(url, "more than 5 redirects".to_string()))
    }

    /// Fetches what is missing of `transfer` into `part`, and returns how many bytes it then has.
    pub(crate) fn fetch(
        &self,
        transfer: &Transfer<'_>,
        part: &Path,
        progress: &dyn Progress,
    ) -> Result<u64, PullError> {
        let mut barren = 0;
        let mut started = false;
        loop {
            let before = part.metadata().map_or(0, |metadata| metadata.len());
            if transfer.bytes == Some(before) {
                if started {
                    progress.finish();
                }
                return Ok(before);
            }
            if !started {
                progress.start(transfer.name, before, transfer.bytes);
                started = true;
            }
            let outcome = self.attempt(transfer, part, progress);
            let after = part.metadata().map_or(0, |metadata| metadata.len());
            let failure = match outcome {
                Ok(total) if after == total => {
                    progress.finish();
                    return Ok(after);
                }
                Ok(total) => PullError::WrongSize { name: transfer.name.to_string(), expected: total, found: after },
                Err(failure) => failure,
            };
            barren = if after > before { 0 } else { barren + 1 };
            if barren >= BARREN_ATTEMPTS || is_final(&failure) {
                progress.finish();
                return Err(failure);
            }
            tracing::debug!("{}: {}; trying again at byte {after}", transfer.name, failure.chain());
            std::thread::sleep(self.timeouts.retry * 2_u32.pow(barren));
        }
    }

    /// One request; returns how many bytes the whole file has, after writing as many as came.
    fn attempt(&self, transfer: &Transfer<'_>, part: &Path, progress: &dyn Progress) -> Result<u64, PullError> {
        let url = transfer.url;
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(PullError::io("open", part))?;
        let mut done = file.metadata().map_err(PullError::io("inspect", part))?.len();
        if transfer.bytes.is_some_and(|bytes| done > bytes) {
            done = restart(&file, part)?;
        }
        let mut request = self.following.get(url.clone());
        if let Some(token) = transfer.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}")); // dropped on a redirect to another host
        }
        if done > 0 {
            request = request.header(RANGE, format!("bytes={done}-"));
        }
        let response = request.send().map_err(|error| transport(url, &error))?;
        let total = match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = content_range(response.headers()).and_then(|range| range.total);
                if total == Some(done) {
                    return Ok(done);
                }
                restart(&file, part)?;
                return Err(protocol(url, format!("no bytes from {done} on")));
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = content_range(response.headers());
                if range.as_ref().and_then(|range| range.start) != Some(done) {
                    restart(&file, part)?;
                    return Err(protocol(url, format!("byte {done} was asked for, another range came")));
                }
                range.and_then(|range| range.total)
            }
            _ => {
                let response_len = response.content_length();
                if done > 0 && response.status().is_success() {
                    done = restart(&file, part)?; // a server without ranges sends all of it
                }
                response_len
            }
        };
        let mut response = success(url, response)?;
        let total = transfer.bytes.or(total);
        copy(&mut response, &mut file, part, &mut done, total, progress).map_err(|failure| match failure {
            Failure::Read(error) => transport(url, &error),
            Failure::Write(error) => error,
        })?;
        Ok(total.unwrap_or(done))
    }
}

enum Failure {
    Read(std::io::Error),
    Write(PullError),
}

/// Appends what the response brings. More than `total` bytes are not written: the caller sees the wrong size.
fn copy(
    response: &mut Response,
    file: &mut File,
    part: &Path,
    done: &mut u64,
    total: Option<u64>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let mut buffer = vec![0_u8; 256 << 10];
    loop {
        let n = match response.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Read(error)),
        };
        file.write_all(&buffer[..n]).map_err(|error| Failure::Write(PullError::io("write", part)(error)))?;
        *done += n as u64;
        if total.is_some_and(|total| *done > total) {
            return Ok(());
        }
        progress.at(*done);
    }
}

fn restart(file: &File, part: &Path) -> Result<u64, PullError> {
    file.set_len(0).map_err(PullError::io("truncate", part))?;
    Ok(0)
}

/// Whether another attempt cannot help.
fn is_final(error: &PullError) -> bool {
    match error {
        PullError::Status { status, .. } => *status < 500 && !matches!(status, 408 | 425 | 429),
        PullError::WrongSize { expected, found, .. } => found > expected,
        PullError::Io { .. } | PullError::DiskFull { .. } | PullError::NoSpace { .. } => true,
        _ => false,
    }
}

struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

/// `bytes 100-199/1000`, or `bytes */1000`; an unknown total is `*`.
fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let value = header(headers, CONTENT_RANGE.as_str())?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    Some(ContentRange { start, total: total.trim().parse().ok() })
}

/// A header as text.
pub(crate) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string)
}

fn success(url: &Url, response: Response) -> Result<Response, PullError> {
    let status = response.status();
    if status.is_success() { Ok(response) } else { Err(PullError::Status { url: shown(url), status: status.as_u16() }) }
}

/// An address without the credentials it may carry.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None); // signed links carry their secret there
    url.to_string()
}

fn transport(url: &Url, error: &(dyn std::error::Error + 'static)) -> PullError {
    let reason = chain(error);
    let reason = reason.replace(url.as_str(), "the address"); // reqwest quotes the URL, credentials and all
    PullError::Transport { url: shown(url), reason }
}

pub(crate) fn protocol(url: &Url, reason: String) -> PullError {
    PullError::Protocol { url: shown(url), reason }
}
