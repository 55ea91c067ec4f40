//! A client of the API: `engram chat` and `engram complete` speak to a server like any other program.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::Value;

use crate::config::Secret;

/// Longest line of an event stream; a longer one is no answer of ours.
const MAX_LINE: usize = 16 << 20;

/// Talks to one server.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<Secret>,
}

/// How an answer ended.
#[derive(Debug, Default, PartialEq)]
pub struct Ended {
    /// `stop`, `length`.
    pub finish_reason: Option<String>,
    /// Token counts.
    pub usage: Option<Value>,
}

impl Client {
    /// A client of the server at `url`, with or without its `/v1`.
    pub fn new(url: &str, key: Option<Secret>) -> anyhow::Result<Self> {
        let base = base_of(url);
        let parsed = reqwest::Url::parse(&base).with_context(|| format!("{url:?} is not the address of a server"))?;
        let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
        // A proxy of the environment is for the world outside.
        if parsed.host_str().is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
        Ok(Self { http: builder.build()?, base, key })
    }

    /// Where it talks to.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether an Engram answers there, within half a second.
    pub async fn is_engram(&self) -> bool {
        let ask = async {
            let response = self.get("/ready").send().await.ok()?;
            // 503 is one too: it loads, or drains.
            matches!(response.status().as_u16(), 200 | 503).then_some(())?;
            response.json::<Value>().await.ok()
        };
        matches!(tokio::time::timeout(Duration::from_millis(500), ask).await, Ok(Some(_)))
    }

    /// The ids the server serves.
    pub async fn models(&self) -> anyhow::Result<Vec<String>> {
        let response = self.get("/v1/models").send().await.with_context(|| self.unreachable())?;
        let body = whole(response).await?;
        let ids = body["data"].as_array().into_iter().flatten();
        Ok(ids.filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    /// Posts a request and reads the whole answer.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let response = self.request(path, body).send().await.with_context(|| self.unreachable())?;
        whole(response).await
    }

    /// Sends a request by any method and reads the whole answer; a body that is `null` is none. A server that
    /// says when to come again, as one whose memory is still being opened does, is asked again for a minute.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let begun = Instant::now();
        loop {
            let method = reqwest::Method::from_bytes(method.as_bytes())?;
            let mut request = self.signed(self.http.request(method, format!("{}{path}", self.base)));
            if !body.is_null() {
                request = request.json(body);
            }
            let response = request.send().await.with_context(|| self.unreachable())?;
            match retry_after(&response).filter(|wait| begun.elapsed() + *wait < PATIENCE) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return whole(response).await,
            }
        }
    }

    /// Posts a streaming request and hands on each piece of text as it comes.
    ///
    /// A stream that ends without its `[DONE]` was cut off, and is an error.
    pub async fn stream(
        &self,
        path: &str,
        body: &Value,
        mut on_text: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Ended> {
        let response = self.request(path, body).send().await.with_context(|| self.unreachable())?;
        if !response.status().is_success() {
            whole(response).await?;
            bail!("the server answered without an event stream");
        }
        let mut lines = Lines::default();
        let mut ended = Ended::default();
        let mut bytes = response.bytes_stream();
        while let Some(part) = bytes.next().await {
            lines.push(&part.context("the connection broke in mid-answer")?)?;
            while let Some(line) = lines.next() {
                let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
                if data == "[DONE]" {
                    return Ok(ended);
                }
                let event: Value = serde_json::from_str(data).context("the server sent an event that is not JSON")?;
                if let Some(text) = take_event(&event, &mut ended)? {
                    on_text(&text)?;
                }
            }
        }
        bail!("the answer was cut off: the stream ended without [DONE]")
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.signed(self.http.get(format!("{}{path}", self.base)))
    }

    fn request(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.signed(self.http.post(format!("{}{path}", self.base)).json(body))
    }

    fn signed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    fn unreachable(&self) -> String {
        format!("no answer from {}; is `engram serve` running there?", self.base)
    }
}

/// How long a server that cannot serve now asks to be left alone.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    (response.status().as_u16() == 503).then(|| Duration::from_secs(seconds))
}

/// `http://host:port`, whatever was typed.
fn base_of(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The JSON of an answer, or its error in the server's words.
async fn whole(response: reqwest::Response) -> anyhow::Result<Value> {
    let status = response.status();
    let text = response.text().await.context("the connection broke in mid-answer")?;
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success() && !body.is_null() {
        return Ok(body);
    }
    match body["error"]["message"].as_str() {
        Some(message) => bail!("the server refused ({}): {message}", status.as_u16()),
        None => bail!("the server answered {status}, and not as an OpenAI API does"),
    }
}

/// The text of an event, if it has some; notes how the answer ended.
fn take_event(event: &Value, ended: &mut Ended) -> anyhow::Result<Option<String>> {
    if !event["error"].is_null() {
        bail!("the server broke off: {}", event["error"]["message"].as_str().unwrap_or("without a reason"));
    }
    if !event["usage"].is_null() {
        ended.usage = Some(event["usage"].clone());
    }
    let choice = &event["choices"][0];
    if let Some(reason) = choice["finish_reason"].as_str() {
        ended.finish_reason = Some(reason.to_owned());
    }
    let text = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str());
    Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
}

/// Lines of a stream of bytes; a line may come in pieces, and a piece may end inside a character.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Bytes already looked through for a line's end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.buffer.len() + bytes.len() > MAX_LINE {
            bail!("the server sent a line of more than {MAX_LINE} bytes");
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
        self.searched = 0;
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses() {
        for (typed, base) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080"),
            ("localhost:9000", "http://localhost:9000"),
            ("https://engram.example.org/code", "https://engram.example.org/code"),
        ] {
            assert_eq!(base_of(typed), base);
        }
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(!is_loopback("example.org") && !is_loopback("10.0.0.1"));
        assert!(Client::new("http://[::1", None).is_err());
    }

    #[test]
    fn lines_survive_any_cut() {
        let text = "data: é\r\n\r\n: comment\ndata: 2\n".as_bytes();
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in text.chunks(size) {
                lines.push(part).unwrap();
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(found, ["data: é", "", ": comment", "data: 2"], "{size}");
        }
    }

    #[test]
    fn events() {
        let mut ended = Ended::default();
        let mut take = |event: Value| take_event(&event, &mut ended);
        assert_eq!(take(json!({"choices": [{"delta": {"role": "assistant"}}]})).unwrap(), None);
        assert_eq!(take(json!({"choices": [{"delta": {"content": "a"}}]})).unwrap().as_deref(), Some("a"));
        assert_eq!(take(json!({"choices": [{"text": "b", "finish_reason": "length"}]})).unwrap().as_deref(), Some("b"));
        assert_eq!(take(json!({"choices": [], "usage": {"total_tokens": 3}})).unwrap(), None);
        assert!(take(json!({"error": {"message": "deadline"}})).unwrap_err().to_string().contains("deadline"));
        assert_eq!(ended.finish_reason.as_deref(), Some("length"));
        assert_eq!(ended.usage, Some(json!({"total_tokens": 3})));
    }
}
