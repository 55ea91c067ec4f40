//! `POST /v1/chat/completions`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{JsonBody, blocking};
use crate::access::Facts;
use crate::app::AppState;
use crate::auth::Tenant;
use crate::backend::{Event, Generation, Job, Output, ServedModel, Tally};
use crate::context::{self, Attached, Exchange, question};
use crate::error::ApiError;
use crate::memory::extension::MemoryWish;
use crate::openai::chat::ChatRequest;
use crate::openai::response::{Envelope, Finish, ScoredPosition, chat_logprobs, fresh_id};
use crate::openai::tool_calls::{Piece, ToolCallParser};
use crate::request_id::RequestId;
use crate::sse;

/// Answers a chat, at once or as a stream.
pub async fn create(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Extension(facts): Extension<Facts>,
    Extension(id): Extension<RequestId>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let bytes = body.len();
    let (mut request, model, wish) = {
        let (state, tenant) = (state.clone(), tenant.clone());
        blocking(move || parse(&state, &tenant, &body)).await?
    };
    facts.expect_tokens(bytes, request.max_tokens, request.options.n)?;
    facts.served_locally(&model.id, &model.id);
    let attached = match wish {
        Some(wish) => {
            let query = wish.recall.as_ref().and_then(|_| context::query_of_chat(&request.messages));
            Some(Attached::recall(&state, &model, wish, query).await)
        }
        None => None,
    };
    let question = attached.as_ref().filter(|attached| attached.remembers()).map(|_| question(&request.messages));
    let (request, attached, jobs) = {
        let (state, model) = (state.clone(), Arc::clone(&model));
        blocking(move || {
            let mut attached = attached;
            let jobs = prepare(&state, &tenant, received, &model, &mut request, attached.as_mut())?;
            Ok((request, attached, jobs))
        })
        .await?
    };
    let tally = Tally::new(jobs.len(), 1, facts);
    let generation = Generation::start(&state, &model, jobs).await?;
    let shape =
        Shape { tools: tool_names(&request.tools), logprobs: request.logprobs.is_some(), choices: request.options.n };
    let exchange = attached.map(|attached| Exchange::new(attached, question, &model.id, &id));
    if request.options.stream {
        let envelope = Envelope::new("chatcmpl-", "chat.completion.chunk", &model.id);
        let chat = ChatStream::new(generation, envelope, tally, shape, request.options.include_usage, exchange);
        return Ok(sse::response(futures::stream::unfold(chat, ChatStream::step), state.settings().keep_alive));
    }
    let envelope = Envelope::new("chatcmpl-", "chat.completion", &model.id);
    Ok(Json(answer(generation, &envelope, tally, &shape, exchange).await?).into_response())
}

/// Parses the body, and says what the memory has to do with it.
fn parse(
    state: &AppState,
    tenant: &Tenant,
    body: &[u8],
) -> Result<(ChatRequest, Arc<ServedModel>, Option<MemoryWish>), ApiError> {
    let mut request = ChatRequest::from_slice(body)?;
    let model = state.models().find_for(request.options.model.as_deref(), tenant)?;
    let wish = MemoryWish::resolve(request.memory.take(), tenant, state.memory().settings())?;
    Ok((request, model, wish))
}

/// Renders the prompt and checks the room: all that needs no engine.
fn prepare(
    state: &AppState,
    tenant: &Tenant,
    received: Instant,
    model: &ServedModel,
    request: &mut ChatRequest,
    attached: Option<&mut Attached>,
) -> Result<Vec<Job>, ApiError> {
    let (prompt, max_tokens) = prompt(model, request, attached)?;
    let mut job = Job::new(model, &request.options, prompt, max_tokens, tenant);
    job.request.deadline = state.deadline(received, request.options.timeout);
    job.request.sampling.logprobs = request.logprobs;
    job.text_start = true;
    Ok(job.choices(request.options.n))
}

/// Ids of the prompt and the room for an answer. What was recalled is left out where the two do not fit together.
fn prompt(
    model: &ServedModel,
    request: &mut ChatRequest,
    attached: Option<&mut Attached>,
) -> Result<(Vec<u32>, usize), ApiError> {
    let kwargs = std::mem::take(&mut request.template_kwargs);
    if let Some(attached) = attached
        && let Some(block) = attached.block()
    {
        let messages = context::with_block(&request.messages, &block);
        let prompt = model.chat_prompt(&messages, &request.tools, kwargs.clone())?;
        match model.room(prompt.len(), request.max_tokens) {
            Ok(room) => return Ok((prompt, room)),
            Err(error) if context::is_too_long(&error) => {
                attached.leave_out("what was recalled did not fit into the context and was left out");
            }
            Err(error) => return Err(error),
        }
    }
    let prompt = model.chat_prompt(&request.messages, &request.tools, kwargs)?;
    let room = model.room(prompt.len(), request.max_tokens)?;
    Ok((prompt, room))
}

/// What the answer's choices look like.
struct Shape {
    /// Tools that were offered; none: text is text.
    tools: Vec<String>,
    logprobs: bool,
    choices: usize,
}

fn tool_names(tools: &[Value]) -> Vec<String> {
    tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).map(str::to_owned).collect()
}

/// The whole answer in one piece.
async fn answer(
    generation: Generation,
    envelope: &Envelope,
    mut tally: Tally,
    shape: &Shape,
    exchange: Option<Exchange>,
) -> Result<Value, ApiError> {
    let outputs = generation.collect(&mut tally).await?;
    let choices = outputs.iter().enumerate().map(|(index, output)| choice(index, output, shape)).collect();
    let mut value = envelope.with(choices, Some(Some(tally.usage())));
    if let Some(mut exchange) = exchange {
        value["memory"] = exchange.member();
        exchange.heard(&outputs[0].text);
        exchange.complete();
    }
    Ok(value)
}

fn choice(index: usize, output: &Output, shape: &Shape) -> Value {
    let mut message = json!({"role": "assistant", "content": output.text, "refusal": null});
    let mut finish = output.finish;
    if !shape.tools.is_empty() {
        let mut parser = ToolCallParser::new(shape.tools.clone());
        let mut pieces = parser.push(&output.text);
        pieces.extend(parser.finish());
        let mut text = String::new();
        let mut calls = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(part) => text.push_str(&part),
                Piece::Call { name, arguments } => calls.push(call(&name, &arguments)),
            }
        }
        if !calls.is_empty() {
            message["content"] = if text.is_empty() { Value::Null } else { text.into() };
            message["tool_calls"] = calls.into();
            finish = finish_with_calls(finish);
        }
    }
    json!({
        "index": index,
        "message": message,
        "logprobs": shape.logprobs.then(|| chat_logprobs(&output.positions)),
        "finish_reason": finish,
    })
}

fn call(name: &str, arguments: &str) -> Value {
    json!({"id": fresh_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// An answer that was cut off stays so, calls or not.
fn finish_with_calls(finish: Finish) -> Finish {
    match finish {
        Finish::Stop | Finish::ToolCalls => Finish::ToolCalls,
        Finish::Length => Finish::Length,
    }
}

/// One choice of a stream.
struct ChoiceState {
    parser: ToolCallParser,
    /// Positions whose text is still held back.
    positions: Vec<ScoredPosition>,
}

impl ChoiceState {
    fn new(shape: &Shape) -> Self {
        Self { parser: ToolCallParser::new(shape.tools.clone()), positions: Vec::new() }
    }
}

/// A streamed answer: events of the generation in, SSE chunks out.
struct ChatStream {
    generation: Generation,
    envelope: Envelope,
    tally: Tally,
    shape: Shape,
    include_usage: bool,
    choices: Vec<ChoiceState>,
    /// What the memory has to do with it; the first chunk tells what was recalled.
    exchange: Option<Exchange>,
    member: Option<Value>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl ChatStream {
    fn new(
        generation: Generation,
        envelope: Envelope,
        tally: Tally,
        shape: Shape,
        include_usage: bool,
        exchange: Option<Exchange>,
    ) -> Self {
        let choices = (0..shape.choices).map(|_| ChoiceState::new(&shape)).collect();
        let member = exchange.as_ref().map(Exchange::member);
        let mut stream = Self {
            generation,
            envelope,
            tally,
            shape,
            include_usage,
            choices,
            exchange,
            member,
            ready: VecDeque::new(),
            ended: false,
        };
        for index in 0..stream.choices.len() {
            stream.push(index, json!({"role": "assistant", "content": "", "refusal": null}), None);
        }
        stream
    }

    /// The next chunk; `None` after the last.
    async fn step(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some((bytes, self));
            }
            if self.ended {
                return None;
            }
            match self.generation.next().await {
                Some((index, Ok(event))) => self.take(index, event),
                Some((_, Err(error))) => self.fail(&error),
                None => self.end(),
            }
        }
    }

    fn take(&mut self, index: usize, event: Event) {
        match event {
            // Chats ask for no prompt scores.
            Event::Prompt(_) => {}
            Event::Text { text, positions } => {
                self.choices[index].positions.extend(positions);
                if let Some(exchange) = self.exchange.as_mut().filter(|_| index == 0) {
                    exchange.heard(&text);
                }
                if self.shape.tools.is_empty() {
                    return self.push(index, json!({"content": text}), None);
                }
                let pieces = self.choices[index].parser.push(&text);
                self.push_pieces(index, pieces);
            }
            Event::End { finish, usage } => {
                self.tally.add(index, usage);
                let mut finish = finish;
                if !self.shape.tools.is_empty() {
                    let pieces = self.choices[index].parser.finish();
                    self.push_pieces(index, pieces);
                    if self.choices[index].parser.calls() > 0 {
                        finish = finish_with_calls(finish);
                    }
                }
                self.push(index, json!({}), Some(finish));
            }
        }
    }

    fn push_pieces(&mut self, index: usize, pieces: Vec<Piece>) {
        let calls = pieces.iter().filter(|piece| matches!(piece, Piece::Call { .. })).count();
        // Those of these pieces are counted already.
        let mut number = self.choices[index].parser.calls() - calls;
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => json!({"content": text}),
                Piece::Call { name, arguments } => {
                    let mut call = call(&name, &arguments);
                    call["index"] = number.into();
                    number += 1;
                    json!({"tool_calls": [call]})
                }
            };
            self.push(index, delta, None);
        }
    }

    fn push(&mut self, index: usize, delta: Value, finish: Option<Finish>) {
        let positions = std::mem::take(&mut self.choices[index].positions);
        let logprobs = (self.shape.logprobs && !positions.is_empty()).then(|| chat_logprobs(&positions));
        let choice = json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        let mut chunk = self.envelope.with(vec![choice], self.include_usage.then_some(None));
        if let Some(member) = self.member.take() {
            chunk["memory"] = member;
        }
        self.ready.push_back(sse::event(&chunk));
    }

    /// The answer is complete.
    fn end(&mut self) {
        self.ended = true;
        if let Some(exchange) = self.exchange.take() {
            exchange.complete();
        }
        if self.include_usage {
            let usage = self.tally.usage();
            self.ready.push_back(sse::event(&self.envelope.with(Vec::new(), Some(Some(usage)))));
        }
        self.ready.push_back(sse::DONE);
    }

    /// The answer will not be complete: the client is told, and no `[DONE]` follows.
    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        error.log();
        self.tally.facts().fail_in_stream();
        self.ready.push_back(sse::error_event(error));
    }
}
