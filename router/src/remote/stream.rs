//! A streamed answer: handed over at its first token, ended cleanly only if it was whole.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::time::{Instant, Sleep, timeout};

use super::answer::{Scrub, failure_in, is_text};
use super::failure::{Failure, FailureKind};
use super::patience::Patience;
use super::portkey::Upstream;
use super::sse::{Event, Parser};
use super::usage;
use crate::prices::TokenCount;

/// Largest event, and largest sum of what comes before the first token.
const EVENT_LIMIT: usize = 4 << 20;
/// Most choices that are watched.
const MAX_CHOICES: u64 = 128;
/// How long a finished body may take to end, for its connection to be used again.
const LINGER: Duration = Duration::from_secs(1);

/// One event of the answer.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The event's JSON.
    pub value: Value,
    /// The same as it came; empty where nobody sent it, or it was changed.
    pub raw: Bytes,
}

impl Chunk {
    /// Changes the event: what came is no longer what it says.
    pub fn change(&mut self, change: impl FnOnce(&mut Value)) {
        self.raw = Bytes::new();
        change(&mut self.value);
    }
}

impl From<Value> for Chunk {
    fn from(value: Value) -> Self {
        Self { value, raw: Bytes::new() }
    }
}

type Body = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// The events of an answer, from the first on.
///
/// It ends with `None` only after every choice had a finish reason and `[DONE]` came. Whatever else happens is one
/// `Err`, then `None`. Dropping it closes the connection, so that the backend stops.
pub struct RemoteStream {
    /// `None` once the answer has ended, one way or the other.
    body: Option<Body>,
    parser: Parser,
    /// What came up to the first token.
    kept: VecDeque<Chunk>,
    kept_bytes: usize,
    progress: Progress,
    patience: Patience,
    /// Since when the wire is silent and someone waits; a client that reads slowly is no silence.
    waiting: Option<Instant>,
    /// Rings at or before the limit: it is moved when it rings, not at every chunk.
    alarm: Pin<Box<Sleep>>,
    upstream: Upstream,
    scrub: Arc<Scrub>,
}

/// How far the answer is.
#[derive(Debug, Default)]
struct Progress {
    events: u64,
    started: bool,
    /// One bit a choice: seen, and ended by a finish reason.
    seen: u128,
    finished: u128,
    usage: Option<TokenCount>,
}

impl RemoteStream {
    /// Reads on to the first event that carries output.
    pub(super) async fn open(
        response: reqwest::Response,
        upstream: Upstream,
        patience: Patience,
        scrub: Arc<Scrub>,
    ) -> Result<Self, Failure> {
        let alarm = Box::pin(tokio::time::sleep_until(patience.first_token().by));
        let mut stream = Self {
            body: Some(Box::pin(response.bytes_stream())),
            parser: Parser::new(EVENT_LIMIT),
            kept: VecDeque::new(),
            kept_bytes: 0,
            progress: Progress::default(),
            patience,
            waiting: None,
            alarm,
            upstream,
            scrub,
        };
        while !stream.progress.started {
            match poll_fn(|cx| stream.poll_chunk(cx)).await {
                Some(Ok(chunk)) => stream.keep(chunk)?,
                Some(Err(failure)) => return Err(failure),
                None => return Err(Failure::new(FailureKind::Cut, "the stream ended before its first token")),
            }
        }
        Ok(stream)
    }

    /// What the answer's headers and events said of its way here.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The last usage that came; as a rule with the last event.
    pub fn usage(&self) -> Option<TokenCount> {
        self.progress.usage
    }

    fn keep(&mut self, chunk: Chunk) -> Result<(), Failure> {
        self.kept_bytes += chunk.raw.len();
        if self.kept_bytes > EVENT_LIMIT {
            let message = format!("{} bytes came before the first token, the limit is {EVENT_LIMIT}", self.kept_bytes);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        self.kept.push_back(chunk);
        Ok(())
    }

    /// The next event from the wire.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Failure>>> {
        while self.body.is_some() {
            let step = match self.parser.next() {
                Ok(Some(event)) => self.take(event),
                Ok(None) => match ready!(self.poll_body(cx)) {
                    Ok(()) => continue,
                    Err(failure) => Err(failure),
                },
                Err(over) => {
                    let message = format!("an event has more than {} bytes", over.limit);
                    Err(Failure::new(FailureKind::TooLarge, message))
                }
            };
            match step {
                Ok(Some(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Ok(None) => {}
                Err(failure) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(Failure { usage: self.progress.usage, ..failure })));
                }
            }
        }
        Poll::Ready(None)
    }

    /// Gives the parser its next bytes, or says why there are none.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        match body.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.waiting = None;
                self.parser.push(bytes);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Failure::from_http(&error))),
            Poll::Ready(None) => return Poll::Ready(Err(self.progress.cut("[DONE]"))),
            Poll::Pending => {}
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let limit = match self.progress.started {
            true => self.patience.next(since),
            false => self.patience.first_token(),
        };
        if self.alarm.deadline() > limit.by {
            self.alarm.as_mut().reset(limit.by);
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            if limit.is_over() {
                return Poll::Ready(Err(limit.failure()));
            }
            self.alarm.as_mut().reset(limit.by);
        }
    }

    /// What an event means: a chunk, nothing, the end, or a failure.
    fn take(&mut self, event: Event) -> Result<Option<Chunk>, Failure> {
        self.progress.events += 1;
        if event.data == "[DONE]"[..] {
            self.progress.whole()?;
            self.let_go();
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&event.data).map_err(|error| {
            let (number, column) = (self.progress.events, error.column());
            Failure::new(FailureKind::Garbage, format!("event {number} is not JSON at column {column}"))
        })?;
        if let Some(failure) = failure_in(&value, &self.scrub) {
            return Err(failure);
        }
        if event.name.as_deref() == Some(b"error") {
            return Err(Failure::new(FailureKind::ServerError, "an error event without an error object"));
        }
        self.progress.see(&value)?;
        if self.upstream.model.is_none() {
            self.upstream.model = value.get("model").and_then(Value::as_str).map(str::to_owned);
        }
        Ok(Some(Chunk { value, raw: event.data }))
    }

    /// Has the finished body read to its end, so that the connection goes back to the pool.
    fn let_go(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        let rest = async move { while let Some(Ok(_)) = body.next().await {} };
        tokio::spawn(timeout(LINGER, rest));
    }
}

impl Progress {
    /// Notes what a chunk brings.
    fn see(&mut self, value: &Value) -> Result<(), Failure> {
        if !value.is_object() {
            let message = format!("event {} is not a JSON object", self.events);
            return Err(Failure::new(FailureKind::Garbage, message));
        }
        if let Some(usage) = usage::of(value) {
            self.usage = Some(usage);
        }
        for choice in value.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            if index >= MAX_CHOICES {
                let message = format!("event {} is for choice {index}, the limit is {MAX_CHOICES}", self.events);
                return Err(Failure::new(FailureKind::Garbage, message));
            }
            self.seen |= 1 << index;
            let finished = is_text(choice.get("finish_reason"));
            if finished {
                self.finished |= 1 << index;
            }
            self.started |= finished || carries_output(choice);
        }
        Ok(())
    }

    /// Whether the answer may end here.
    fn whole(&self) -> Result<(), Failure> {
        if self.seen == 0 || self.seen != self.finished { Err(self.cut("a finish_reason")) } else { Ok(()) }
    }

    fn cut(&self, missing: &str) -> Failure {
        let open = self.seen & !self.finished;
        let which = if open == 0 { String::new() } else { format!(", choice {} was open", open.trailing_zeros()) };
        let message = format!("the stream ended after {} events without {missing}{which}", self.events);
        Failure::new(FailureKind::Cut, message)
    }
}

/// Whether a choice brings some of the answer: text, reasoning, a tool call, anything but the role.
fn carries_output(choice: &Value) -> bool {
    if is_text(choice.get("text")) {
        return true;
    }
    let Some(delta) = choice.get("delta").and_then(Value::as_object) else { return false };
    delta.iter().any(|(name, value)| match value {
        _ if name == "role" => false,
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    })
}

impl Stream for RemoteStream {
    type Item = Result<Chunk, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.kept.pop_front() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None => self.poll_chunk(cx),
        }
    }
}

impl fmt::Debug for RemoteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStream").field("progress", &self.progress).field("upstream", &self.upstream).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn output_is_anything_but_a_role() {
        let table = [
            (json!({"delta": {"role": "assistant"}}), false),
            (json!({"delta": {"role": "assistant", "content": ""}}), false),
            (json!({"delta": {"content": null, "tool_calls": []}}), false),
            (json!({"delta": {"content": "a"}}), true),
            (json!({"delta": {"reasoning_content": "a"}}), true),
            (json!({"delta": {"tool_calls": [{"index": 0}]}}), true),
            (json!({"text": ""}), false),
            (json!({"text": "a"}), true),
            (json!({}), false),
        ];
        for (choice, expected) in table {
            assert_eq!(carries_output(&choice), expected, "{choice}");
        }
    }
}
