//! An answer as events: chunks in, from whichever backend, server-sent events out.
//!
//! `[DONE]` is written only after an answer that came to its end. A stream that fails ends with an error event, unless
//! the request allows that another backend goes on from the text so far: then an event without choices says where the
//! seam is, and who goes on.

use std::collections::VecDeque;

use axum::body::Bytes;
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};

use super::begin::{Begun, Chunks, finished, said};
use super::kept::Keep;
use super::serve::Way;
use crate::cache::Assembler;
use crate::context::Exchange;
use crate::error::ApiError;
use crate::prices::TokenCount;
use crate::remote::{Chunk, usage_of};
use crate::routing::{Bill, Report};
use crate::sse;

/// Bytes of the largest answer that is put together to be kept.
const MOST_KEPT: usize = 1 << 20;

/// The streamed answer.
pub(super) fn response(mut way: Way, begun: Begun, bill: Bill, mut report: Report) -> Response {
    report.upstream = begun.upstream().cloned();
    let (headers, keep_alive) = (report.headers(None), way.state.settings().keep_alive);
    let exchange =
        way.attached.take().map(|attached| Exchange::new(attached, way.question.take(), &report.model, &way.caller.id));
    let first = Extras {
        memory: exchange.as_ref().map(Exchange::member),
        engram: way.state.routing().is_in_use().then(|| report.member()),
    };
    let keep = std::mem::take(&mut way.keep);
    let kept = keep.is_wanted().then(|| (Assembler::new(way.asked.endpoint, way.choices(), MOST_KEPT), keep));
    let out = Out {
        kept,
        bill: Some(bill),
        remote: matches!(begun, Begun::Remote(..)),
        chunks: begun.chunks(),
        keeps_text: way.may_continue(),
        way,
        report,
        exchange,
        first: Some(first),
        id: None,
        text: String::new(),
        pieces: 0,
        pieces_before: 0,
        parts: Vec::new(),
        seam: false,
        ready: VecDeque::new(),
        ended: false,
    };
    let mut response = sse::response(futures::stream::unfold(out, Out::step), keep_alive);
    response.headers_mut().extend(headers);
    response
}

/// Members that only the first chunk carries.
struct Extras {
    memory: Option<Value>,
    engram: Option<Value>,
}

/// One backend's part of an answer.
struct Part {
    backend: String,
    model: String,
    usage: TokenCount,
    /// It ended without telling its usage.
    estimated: bool,
}

struct Out {
    way: Way,
    chunks: Chunks,
    report: Report,
    /// `None` once it is settled.
    bill: Option<Bill>,
    /// What comes now is another server's.
    remote: bool,
    /// The answer as it grows, and where it is kept once it is whole.
    kept: Option<(Assembler, Keep)>,
    exchange: Option<Exchange>,
    first: Option<Extras>,
    /// Id of the answer, the same across a seam.
    id: Option<Value>,
    /// The text is kept, for another backend may have to go on from it.
    keeps_text: bool,
    text: String,
    /// Chunks with text: about as many tokens.
    pieces: usize,
    /// Those of the parts that have ended.
    pieces_before: usize,
    /// Parts that have ended.
    parts: Vec<Part>,
    /// What comes now follows a seam.
    seam: bool,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Out {
    /// The next event; `None` after the last.
    async fn step(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some((bytes, self));
            }
            if self.ended {
                return None;
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.take(chunk),
                Some(Err(error)) => self.go_on(error).await,
                None => self.end(),
            }
        }
    }

    fn take(&mut self, mut chunk: Chunk) {
        let endpoint = self.way.asked.endpoint;
        if let Some((assembler, _)) = &mut self.kept {
            assembler.push(&chunk.value);
        }
        if let Some(text) = said(endpoint, &chunk.value).filter(|text| !text.is_empty()) {
            self.pieces += 1;
            if self.keeps_text {
                self.text.push_str(text);
            }
            if let Some(exchange) = &mut self.exchange {
                exchange.heard(text);
            }
        }
        let usage = usage_of(&chunk.value);
        let is_usage = usage.is_some() && chunk.value["choices"].as_array().is_none_or(Vec::is_empty);
        if let Some(usage) = usage {
            self.settle(usage, false);
            if is_usage && !self.way.asked.include_usage {
                return;
            }
            self.mark_usage(&mut chunk);
        }
        if self.seam {
            // A second beginning says nothing that the client does not know.
            let says_nothing = said(endpoint, &chunk.value).is_none_or(str::is_empty);
            if says_nothing && !is_usage && !finished(&chunk.value) {
                return;
            }
            if let Some(id) = &self.id {
                chunk.change(|value| value["id"] = id.clone());
            }
        } else if self.id.is_none() {
            self.id = chunk.value.get("id").cloned();
        }
        if let Some(Extras { memory, engram }) = self.first.take() {
            for (name, member) in [("memory", memory), ("engram", engram)] {
                if let Some(member) = member {
                    chunk.change(|value| value[name] = member);
                }
            }
        }
        self.ready.push_back(sse::chunk(&chunk));
    }

    /// The usage that the client sees is that of the whole answer, whoever made its parts; with it goes what it cost.
    fn mark_usage(&self, chunk: &mut Chunk) {
        if !self.way.state.routing().is_in_use() {
            return;
        }
        let cost = self.way.caller.facts.cost();
        let parts = &self.parts;
        chunk.change(|value| {
            let mut member = json!({"cost_usd": cost.as_dollars()});
            if parts.iter().any(|part| part.estimated) {
                member["estimated"] = true.into();
            }
            if parts.len() > 1 {
                let sum = |count: fn(&TokenCount) -> u64| parts.iter().map(|part| count(&part.usage)).sum::<u64>();
                let (prompt, completion) = (sum(|usage| usage.prompt), sum(|usage| usage.completion));
                value["usage"]["prompt_tokens"] = prompt.into();
                value["usage"]["completion_tokens"] = completion.into();
                value["usage"]["total_tokens"] = (prompt + completion).into();
                member["parts"] = parts.iter().map(describe).collect();
            }
            value["engram"] = member;
        });
    }

    /// What this part cost. A part is settled once.
    fn settle(&mut self, usage: TokenCount, estimated: bool) {
        let Some(bill) = self.bill.take() else {
            return;
        };
        let cost = bill.settle(&usage);
        let facts = &self.way.caller.facts;
        if self.remote {
            facts.add_tokens(usage.prompt as usize, usage.cached as usize, usage.completion as usize);
        }
        facts.routed(&self.report, cost);
        let (backend, model) = (self.report.backend.clone(), self.report.model.clone());
        self.parts.push(Part { backend, model, usage, estimated });
    }

    /// What has come so far, where nobody has said how many tokens it is.
    fn estimated(&self) -> TokenCount {
        // Who goes on from a text has it in the prompt.
        let prompt = self.way.asked.prompt_tokens + self.pieces_before;
        TokenCount { prompt: prompt as u64, cached: 0, completion: (self.pieces - self.pieces_before) as u64 }
    }

    /// The stream broke: another backend goes on where that is allowed and one can; else the client hears of it.
    async fn go_on(&mut self, error: ApiError) {
        let estimated = self.estimated();
        self.settle(estimated, true);
        // The broken stream and its place go before the next is asked.
        self.chunks = futures::stream::empty().boxed();
        self.report.broke(&error, self.way.since.elapsed());
        let next = if self.keeps_text {
            self.way.continue_from(&self.text, self.pieces, &mut self.report).await
        } else {
            None
        };
        let Some((begun, bill)) = next else {
            return self.fail(&error);
        };
        error.log();
        // An answer of two parts is nobody else's.
        self.kept = None;
        let mut seam = json!({"after_characters": self.text.chars().count(), "reason": error.message()});
        seam["from"] = self.parts.last().map(describe).unwrap_or_default();
        seam["to"] = json!({"backend": self.report.backend, "model": self.report.model});
        let mut event = self.without_choices();
        event["engram"] = json!({"seam": seam});
        self.ready.push_back(sse::event(&event));
        self.bill = Some(bill);
        self.remote = matches!(begun, Begun::Remote(..));
        self.chunks = begun.chunks();
        self.pieces_before = self.pieces;
        self.seam = true;
    }

    /// An event of ours: what it says stands beside the answer.
    fn without_choices(&self) -> Value {
        let object =
            if self.way.asked.endpoint == super::Endpoint::Chat { "chat.completion.chunk" } else { "text_completion" };
        json!({
            "id": self.id, "object": object, "created": crate::openai::response::unix_now(),
            "model": self.report.model, "choices": [],
        })
    }

    /// Whoever answered did not tell its usage, though it was asked to. The client gets what it is reckoned to be.
    fn tell_estimate(&mut self, usage: TokenCount) {
        let mut value = self.without_choices();
        value["usage"] = json!({
            "prompt_tokens": usage.prompt, "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
        });
        let mut chunk = Chunk::from(value);
        self.mark_usage(&mut chunk);
        self.ready.push_back(sse::chunk(&chunk));
    }

    /// The answer is complete.
    fn end(&mut self) {
        self.ended = true;
        if self.bill.is_some() {
            let estimated = self.estimated();
            self.settle(estimated, true);
            if self.way.asked.include_usage {
                self.tell_estimate(estimated);
            }
        }
        if let Some((assembler, keep)) = self.kept.take() {
            match assembler.finish() {
                Ok(answer) => keep.complete(&answer),
                Err(error) => tracing::debug!(%error, "the answer is not kept"),
            }
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.complete();
        }
        self.ready.push_back(sse::DONE);
    }

    /// The answer will not be complete: the client is told, and no `[DONE]` follows.
    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        self.kept = None;
        error.log();
        self.way.caller.facts.fail_in_stream();
        self.ready.push_back(sse::error_event(error));
    }
}

impl Drop for Out {
    /// A client that left pays for what was made.
    fn drop(&mut self) {
        if self.bill.is_some() {
            let estimated = self.estimated();
            self.settle(estimated, true);
        }
    }
}

fn describe(part: &Part) -> Value {
    json!({
        "backend": part.backend, "model": part.model, "estimated": part.estimated,
        "prompt_tokens": part.usage.prompt, "completion_tokens": part.usage.completion,
    })
}
