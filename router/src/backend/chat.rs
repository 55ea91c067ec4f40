//! A chat answered by the engine of this process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::chunks::{Chunking, chunks};
use super::{Chunks, Event, Generation, Job, Output, ServedModel, Tally};
use crate::access::Facts;
use crate::api::blocking;
use crate::app::AppState;
use crate::auth::Tenant;
use crate::context::{self, Attached};
use crate::error::ApiError;
use crate::openai::chat::ChatRequest;
use crate::openai::response::{Envelope, Finish, ScoredPosition, chat_logprobs, fresh_id};
use crate::openai::tool_calls::{Piece, ToolCallParser};

/// A chat whose first event is there.
pub struct LocalChat {
    generation: Generation,
    model: String,
    tally: Tally,
    shape: Shape,
    include_usage: bool,
}

impl LocalChat {
    /// Renders the prompt, hands it to the engine and waits for the first event.
    ///
    /// What was recalled is left out of `attached` where it does not fit.
    pub async fn begin(
        state: &AppState,
        model: &Arc<ServedModel>,
        asker: &Asker,
        mut request: ChatRequest,
        attached: &mut Option<Attached>,
    ) -> Result<Self, ApiError> {
        let (request, taken, jobs) = {
            let (model, asker, mut taken) = (Arc::clone(model), asker.clone(), attached.take());
            blocking(move || {
                let jobs = prepare(&asker, &model, &mut request, taken.as_mut());
                Ok((request, taken, jobs))
            })
            .await?
        };
        *attached = taken;
        let jobs = jobs?;
        let tally = Tally::new(jobs.len(), 1, asker.facts.clone());
        let generation = Generation::start(state, model, jobs).await?;
        let shape = Shape {
            tools: tool_names(&request.tools),
            logprobs: request.logprobs.is_some(),
            choices: request.options.n,
        };
        let include_usage = request.options.include_usage;
        Ok(Self { generation, model: model.id.clone(), tally, shape, include_usage })
    }

    /// The whole answer in one piece.
    pub async fn whole(mut self) -> Result<Value, ApiError> {
        let envelope = Envelope::new("chatcmpl-", "chat.completion", &self.model);
        let outputs = self.generation.collect(&mut self.tally).await?;
        let shape = &self.shape;
        let choices = outputs.iter().enumerate().map(|(index, output)| choice(index, output, shape)).collect();
        Ok(envelope.with(choices, Some(Some(self.tally.usage()))))
    }

    /// The answer as it comes; the last chunk carries the usage and no choice.
    pub fn chunks(self) -> Chunks {
        let envelope = Envelope::new("chatcmpl-", "chat.completion.chunk", &self.model);
        let (generation, stream) = ChatStream::new(self, envelope);
        chunks(generation, stream)
    }
}

/// Who asks the engine, and until when.
#[derive(Clone)]
pub struct Asker {
    /// Whose KV blocks it may share.
    pub tenant: Tenant,
    /// When the answer must be complete.
    pub deadline: Option<Instant>,
    /// For the log line.
    pub facts: Facts,
}

/// Renders the prompt and checks the room: all that needs no engine.
fn prepare(
    asker: &Asker,
    model: &ServedModel,
    request: &mut ChatRequest,
    attached: Option<&mut Attached>,
) -> Result<Vec<Job>, ApiError> {
    let (prompt, max_tokens) = prompt(model, request, attached)?;
    let mut job = Job::new(model, &request.options, prompt, max_tokens, &asker.tenant);
    job.request.deadline = asker.deadline;
    job.request.sampling.logprobs = request.logprobs;
    // What goes on from a text is no text of its own.
    job.text_start = request.continues.is_none();
    Ok(job.choices(request.options.n))
}

/// Ids of the prompt and the room for an answer. What was recalled is left out where the two do not fit together.
fn prompt(
    model: &ServedModel,
    request: &mut ChatRequest,
    attached: Option<&mut Attached>,
) -> Result<(Vec<u32>, usize), ApiError> {
    let kwargs = std::mem::take(&mut request.template_kwargs);
    let begun = request.continues.as_deref().map(|text| model.answer_so_far(text)).unwrap_or_default();
    if let Some(attached) = attached
        && let Some(block) = attached.block()
    {
        let messages = context::with_block(&request.messages, &block);
        let mut prompt = model.chat_prompt(&messages, &request.tools, kwargs.clone())?;
        prompt.extend(&begun);
        match model.room(prompt.len(), request.max_tokens) {
            Ok(room) => return Ok((prompt, room)),
            Err(error) if context::is_too_long(&error) => {
                attached.leave_out("what was recalled did not fit into the context and was left out");
            }
            Err(error) => return Err(error),
        }
    }
    let mut prompt = model.chat_prompt(&request.messages, &request.tools, kwargs)?;
    prompt.extend(&begun);
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

/// A streamed answer: events of the generation in, chunks out.
struct ChatStream {
    envelope: Envelope,
    tally: Tally,
    shape: Shape,
    include_usage: bool,
    choices: Vec<ChoiceState>,
    ready: VecDeque<Value>,
}

impl ChatStream {
    fn new(chat: LocalChat, envelope: Envelope) -> (Generation, Self) {
        let LocalChat { generation, tally, shape, include_usage, .. } = chat;
        let choices = (0..shape.choices).map(|_| ChoiceState::new(&shape)).collect();
        let ready = VecDeque::new();
        let mut stream = Self { envelope, tally, shape, include_usage, choices, ready };
        for index in 0..stream.choices.len() {
            stream.push(index, json!({"role": "assistant", "content": "", "refusal": null}), None);
        }
        (generation, stream)
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
        let chunk = self.envelope.with(vec![choice], self.include_usage.then_some(None));
        self.ready.push_back(chunk);
    }
}

impl Chunking for ChatStream {
    fn take(&mut self, index: usize, event: Event) {
        match event {
            // Chats ask for no prompt scores.
            Event::Prompt(_) => {}
            Event::Text { text, positions } => {
                self.choices[index].positions.extend(positions);
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

    fn ready(&mut self) -> &mut VecDeque<Value> {
        &mut self.ready
    }

    fn last(&self) -> Value {
        self.envelope.with(Vec::new(), Some(Some(self.tally.usage())))
    }
}
