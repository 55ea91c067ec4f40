//! `POST /v1/completions`: text goes on, or a gap in it is filled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use engram_memory::Kind;
use serde_json::{Value, json};

use super::{JsonBody, blocking};
use crate::access::Facts;
use crate::app::AppState;
use crate::auth::Tenant;
use crate::backend::{Event, Generation, Job, Output, ServedModel, Tally};
use crate::context::{self, Attached, Exchange};
use crate::error::ApiError;
use crate::memory::extension::MemoryWish;
use crate::openai::completion::{CompletionRequest, Prompt};
use crate::openai::response::{Envelope, Finish, ScoredPosition, completion_logprobs};
use crate::request_id::RequestId;
use crate::sse;

/// Completes prompts, at once or as a stream.
pub async fn create(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Extension(facts): Extension<Facts>,
    Extension(id): Extension<RequestId>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let bytes = body.len();
    let (request, model, wish) = {
        let (state, tenant) = (state.clone(), tenant.clone());
        blocking(move || parse(&state, &tenant, &body)).await?
    };
    facts.expect_tokens(bytes, Some(request.max_tokens), request.prompts.len() * request.best_of)?;
    facts.served_locally(&model.id, &model.id);
    let attached = match wish {
        Some(wish) => Some(recall(&state, &model, &request, wish).await),
        None => None,
    };
    let question = attached.as_ref().filter(|attached| attached.remembers()).and_then(|_| first_text(&request));
    let (Prepared { request, jobs, echoes }, attached) = {
        let (state, model) = (state.clone(), Arc::clone(&model));
        blocking(move || {
            let mut attached = attached;
            let with = attached.as_ref().and_then(|attached| with_recalled(&request, attached));
            let prepared = match with {
                None => prepare(&state, &tenant, received, &model, request)?,
                Some(with) => match prepare(&state, &tenant, received, &model, with) {
                    Err(error) if context::is_too_long(&error) => {
                        if let Some(attached) = &mut attached {
                            attached.leave_out("what was recalled did not fit into the context and was left out");
                        }
                        prepare(&state, &tenant, received, &model, request)?
                    }
                    prepared => prepared?,
                },
            };
            Ok((prepared, attached))
        })
        .await?
    };
    let exchange = attached.map(|attached| Exchange::new(attached, question, &model.id, &id));
    let tally = Tally::new(jobs.len(), request.best_of, facts);
    let generation = Generation::start(&state, &model, jobs).await?;
    let shape = Shape { logprobs: request.logprobs, echoes, n: request.options.n, best_of: request.best_of };
    let envelope = Envelope::new("cmpl-", "text_completion", &model.id);
    if request.options.stream {
        let stream = CompletionStream::new(generation, envelope, tally, shape, request.options.include_usage, exchange);
        return Ok(sse::response(futures::stream::unfold(stream, CompletionStream::step), state.settings().keep_alive));
    }
    Ok(Json(answer(generation, &envelope, tally, &shape, exchange).await?).into_response())
}

struct Prepared {
    request: CompletionRequest,
    /// `best_of` jobs a prompt, prompt after prompt.
    jobs: Vec<Job>,
    /// One a prompt; `None` unless prompts are echoed.
    echoes: Option<Vec<Echo>>,
}

/// A prompt as it is given back.
struct Echo {
    text: String,
    /// Begin-of-sequence ids that the server put before the text: not part of what is given back.
    added: usize,
}

/// Parses the body, and says what the memory has to do with it.
fn parse(
    state: &AppState,
    tenant: &Tenant,
    body: &[u8],
) -> Result<(CompletionRequest, Arc<ServedModel>, Option<MemoryWish>), ApiError> {
    let mut request = CompletionRequest::from_slice(body)?;
    let model = state.models().find_for(request.options.model.as_deref(), tenant)?;
    let wish = MemoryWish::resolve(request.memory.take(), tenant, state.memory().settings())?;
    Ok((request, model, wish))
}

/// Recalls for a single prompt of text: code around a gap, unless other kinds are asked for.
async fn recall(
    state: &AppState,
    model: &Arc<ServedModel>,
    request: &CompletionRequest,
    mut wish: MemoryWish,
) -> Attached {
    let query = match (&request.fim, request.prompts.as_slice()) {
        _ if request.echo => None,
        (Some(fim), [Prompt::Text(prefix)]) => Some(context::query_of_gap(prefix, &fim.suffix)),
        (None, [Prompt::Text(prompt)]) => Some(context::query_of_gap(prompt, "")),
        _ => None,
    };
    if let Some(recall) = wish.recall.as_mut().filter(|recall| request.fim.is_some() && recall.kinds.is_empty()) {
        recall.kinds = vec![Kind::Code];
    }
    Attached::recall(state, model, wish, query).await
}

/// The request with what was recalled in it: as files before those that the client sent, or before the prompt.
fn with_recalled(request: &CompletionRequest, attached: &Attached) -> Option<CompletionRequest> {
    let block = attached.block()?;
    let mut request = request.clone();
    match (&mut request.fim, request.prompts.as_mut_slice()) {
        (Some(fim), _) => {
            let sent = std::mem::take(&mut fim.context);
            fim.context = attached.files().into_iter().chain(sent).collect();
        }
        (None, [Prompt::Text(prompt)]) => *prompt = format!("{block}\n{prompt}"),
        _ => return None,
    }
    Some(request)
}

/// The text that is completed, as what was asked.
fn first_text(request: &CompletionRequest) -> Option<String> {
    match request.prompts.first() {
        Some(Prompt::Text(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Makes the prompts, checks the room: all that needs no engine.
fn prepare(
    state: &AppState,
    tenant: &Tenant,
    received: Instant,
    model: &ServedModel,
    request: CompletionRequest,
) -> Result<Prepared, ApiError> {
    let deadline = state.deadline(received, request.options.timeout);
    // The choices are ranked by what the model thinks of them.
    let ranked = request.best_of > request.options.n;
    let mut jobs = Vec::with_capacity(request.prompts.len() * request.best_of);
    let mut echoes = Vec::new();
    for prompt in &request.prompts {
        let ids = prompt_ids(model, &request, prompt)?;
        let max_tokens = model.room(ids.len(), Some(request.max_tokens))?;
        if request.echo {
            echoes.push(echo(model, &request, prompt, &ids));
        }
        let mut job = Job::new(model, &request.options, ids, max_tokens, tenant);
        job.request.deadline = deadline;
        job.request.sampling.logprobs = request.logprobs.or(ranked.then_some(0));
        if request.echo && (request.logprobs.is_some() || max_tokens == 0) {
            job.request.prompt_logprobs = Some(request.logprobs.unwrap_or(0));
        }
        if let (Some(_), Some(fim)) = (&request.fim, &model.fim) {
            job.stop_at(fim.stop_ids().iter().copied());
        }
        jobs.extend(job.choices(request.best_of));
    }
    let echoes = request.echo.then_some(echoes);
    Ok(Prepared { request, jobs, echoes })
}

fn prompt_ids(model: &ServedModel, request: &CompletionRequest, prompt: &Prompt) -> Result<Vec<u32>, ApiError> {
    match (&request.fim, prompt) {
        (Some(fim), Prompt::Text(prefix)) => model.fim_prompt(prefix, fim),
        // Token ids with `suffix` are refused when the body is read.
        (_, prompt) => Ok(model.completion_prompt(prompt, request.add_special, request.parse_special)),
    }
}

fn echo(model: &ServedModel, request: &CompletionRequest, prompt: &Prompt, ids: &[u32]) -> Echo {
    match prompt {
        Prompt::Ids(ids) => Echo { text: model.tokenizer.decode(ids, false), added: 0 },
        Prompt::Text(text) => {
            let begins =
                request.add_special && model.tokenizer.add_bos() && ids.first().copied() == model.tokenizer.bos();
            Echo { text: text.clone(), added: usize::from(begins) }
        }
    }
}

/// What the answer's choices look like.
struct Shape {
    logprobs: Option<usize>,
    echoes: Option<Vec<Echo>>,
    n: usize,
    best_of: usize,
}

impl Shape {
    fn with_top(&self) -> bool {
        self.logprobs.is_some_and(|alternatives| alternatives > 0)
    }

    /// What stands before the text of sequence `index`.
    fn echo(&self, index: usize) -> Option<&Echo> {
        self.echoes.as_ref().and_then(|echoes| echoes.get(index / self.best_of))
    }

    /// The prompt's positions that are given back for sequence `index`.
    fn echoed_positions(&self, index: usize, mut positions: Vec<ScoredPosition>) -> Vec<ScoredPosition> {
        let added = self.echo(index).map_or(0, |echo| echo.added);
        positions.drain(..added.min(positions.len()));
        positions
    }
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
    let mut choices = Vec::new();
    for (prompt, outputs) in outputs.chunks(shape.best_of).enumerate() {
        let mut ranked: Vec<(usize, &Output)> = outputs.iter().enumerate().collect();
        if shape.best_of > shape.n {
            // Best first; the sort is stable, so equal ones keep their order.
            ranked.sort_by(|a, b| b.1.mean_logprob().total_cmp(&a.1.mean_logprob()));
        }
        for (number, output) in ranked.into_iter().take(shape.n) {
            choices.push(choice(choices.len(), prompt * shape.best_of + number, output, shape));
        }
    }
    let mut value = envelope.with(choices, Some(Some(tally.usage())));
    if let Some(mut exchange) = exchange {
        value["memory"] = exchange.member();
        exchange.heard(&outputs[0].text);
        exchange.complete();
    }
    Ok(value)
}

fn choice(place: usize, sequence: usize, output: &Output, shape: &Shape) -> Value {
    let mut text = shape.echo(sequence).map_or_else(String::new, |echo| echo.text.clone());
    text.push_str(&output.text);
    let logprobs = shape.logprobs.map(|_| {
        let mut positions = shape.echoed_positions(sequence, output.prompt_positions.clone());
        positions.extend(output.positions.iter().cloned());
        completion_logprobs(&positions, shape.with_top(), &mut 0)
    });
    json!({"text": text, "index": place, "logprobs": logprobs, "finish_reason": output.finish})
}

/// A streamed answer: events of the generation in, SSE chunks out.
struct CompletionStream {
    generation: Generation,
    envelope: Envelope,
    tally: Tally,
    shape: Shape,
    include_usage: bool,
    /// Characters given out so far, a sequence.
    offsets: Vec<usize>,
    /// What the memory has to do with it; the first chunk tells what was recalled.
    exchange: Option<Exchange>,
    member: Option<Value>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl CompletionStream {
    fn new(
        generation: Generation,
        envelope: Envelope,
        tally: Tally,
        shape: Shape,
        include_usage: bool,
        exchange: Option<Exchange>,
    ) -> Self {
        let offsets = vec![0; generation.sequences()];
        let member = exchange.as_ref().map(Exchange::member);
        let mut stream = Self {
            generation,
            envelope,
            tally,
            shape,
            include_usage,
            offsets,
            exchange,
            member,
            ready: VecDeque::new(),
            ended: false,
        };
        // With log-probabilities the prompt comes when they do; without, it is there now.
        if stream.shape.logprobs.is_none() {
            for index in 0..stream.offsets.len() {
                stream.push_echo(index, Vec::new());
            }
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
            // Asked for without log-probabilities only to score nothing: the echo is out already.
            Event::Prompt(_) if self.shape.logprobs.is_none() => {}
            Event::Prompt(positions) => self.push_echo(index, positions),
            Event::Text { text, positions } => {
                if let Some(exchange) = self.exchange.as_mut().filter(|_| index == 0) {
                    exchange.heard(&text);
                }
                self.push(index, &text, &positions, None);
            }
            Event::End { finish, usage } => {
                self.tally.add(index, usage);
                self.push(index, "", &[], Some(finish));
            }
        }
    }

    fn push_echo(&mut self, index: usize, positions: Vec<ScoredPosition>) {
        let Some(text) = self.shape.echo(index).map(|echo| echo.text.clone()) else {
            return;
        };
        let positions = self.shape.echoed_positions(index, positions);
        self.push(index, &text, &positions, None);
    }

    fn push(&mut self, index: usize, text: &str, positions: &[ScoredPosition], finish: Option<Finish>) {
        let logprobs = (self.shape.logprobs.is_some() && !positions.is_empty())
            .then(|| completion_logprobs(positions, self.shape.with_top(), &mut self.offsets[index]));
        let choice = json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish});
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
