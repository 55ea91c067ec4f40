//! A completion answered by the engine of this process.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::chat::Asker;
use super::chunks::{Chunking, chunks};
use super::{Chunks, Event, Generation, Job, Output, ServedModel, Tally};
use crate::api::blocking;
use crate::app::AppState;
use crate::context::{self, Attached};
use crate::error::ApiError;
use crate::openai::completion::{CompletionRequest, Prompt};
use crate::openai::response::{Envelope, Finish, ScoredPosition, completion_logprobs};

/// A completion whose first event is there.
pub struct LocalCompletion {
    generation: Generation,
    model: String,
    tally: Tally,
    shape: Shape,
    include_usage: bool,
}

impl LocalCompletion {
    /// Makes the prompts, hands them to the engine and waits for the first event.
    ///
    /// What was recalled is left out of `attached` where it does not fit.
    pub async fn begin(
        state: &AppState,
        model: &Arc<ServedModel>,
        asker: &Asker,
        request: CompletionRequest,
        attached: &mut Option<Attached>,
    ) -> Result<Self, ApiError> {
        let (taken, prepared) = {
            let (model, asker, mut taken) = (Arc::clone(model), asker.clone(), attached.take());
            blocking(move || {
                let prepared = prepare_with(&asker, &model, request, taken.as_mut());
                Ok((taken, prepared))
            })
            .await?
        };
        *attached = taken;
        let Prepared { request, jobs, echoes } = prepared?;
        let tally = Tally::new(jobs.len(), request.best_of, asker.facts.clone());
        let generation = Generation::start(state, model, jobs).await?;
        let shape = Shape { logprobs: request.logprobs, echoes, n: request.options.n, best_of: request.best_of };
        let include_usage = request.options.include_usage;
        Ok(Self { generation, model: model.id.clone(), tally, shape, include_usage })
    }

    /// The whole answer in one piece.
    pub async fn whole(mut self) -> Result<Value, ApiError> {
        let envelope = Envelope::new("cmpl-", "text_completion", &self.model);
        let outputs = self.generation.collect(&mut self.tally).await?;
        let shape = &self.shape;
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
        Ok(envelope.with(choices, Some(Some(self.tally.usage()))))
    }

    /// The answer as it comes; the last chunk carries the usage and no choice.
    pub fn chunks(self) -> Chunks {
        let envelope = Envelope::new("cmpl-", "text_completion", &self.model);
        let (generation, stream) = CompletionStream::new(self, envelope);
        chunks(generation, stream)
    }
}

/// [`prepare`] with what was recalled, or without it where the two do not fit together.
fn prepare_with(
    asker: &Asker,
    model: &ServedModel,
    request: CompletionRequest,
    attached: Option<&mut Attached>,
) -> Result<Prepared, ApiError> {
    let Some(attached) = attached else {
        return prepare(asker, model, request);
    };
    let Some(with) = with_recalled(&request, attached) else {
        return prepare(asker, model, request);
    };
    match prepare(asker, model, with) {
        Err(error) if context::is_too_long(&error) => {
            attached.leave_out("what was recalled did not fit into the context and was left out");
            prepare(asker, model, request)
        }
        prepared => prepared,
    }
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

/// Makes the prompts, checks the room: all that needs no engine.
fn prepare(asker: &Asker, model: &ServedModel, request: CompletionRequest) -> Result<Prepared, ApiError> {
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
        let mut job = Job::new(model, &request.options, ids, max_tokens, &asker.tenant);
        job.request.deadline = asker.deadline;
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

/// A streamed answer: events of the generation in, chunks out.
struct CompletionStream {
    envelope: Envelope,
    tally: Tally,
    shape: Shape,
    include_usage: bool,
    /// Characters given out so far, a sequence.
    offsets: Vec<usize>,
    ready: VecDeque<Value>,
}

impl CompletionStream {
    fn new(completion: LocalCompletion, envelope: Envelope) -> (Generation, Self) {
        let LocalCompletion { generation, tally, shape, include_usage, .. } = completion;
        let (offsets, ready) = (vec![0; generation.sequences()], VecDeque::new());
        let mut stream = Self { envelope, tally, shape, include_usage, offsets, ready };
        // With log-probabilities the prompt comes when they do; without, it is there now.
        if stream.shape.logprobs.is_none() {
            for index in 0..stream.offsets.len() {
                stream.push_echo(index, Vec::new());
            }
        }
        (generation, stream)
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
        let chunk = self.envelope.with(vec![choice], self.include_usage.then_some(None));
        self.ready.push_back(chunk);
    }
}

impl Chunking for CompletionStream {
    fn take(&mut self, index: usize, event: Event) {
        match event {
            // Asked for without log-probabilities only to score nothing: the echo is out already.
            Event::Prompt(_) if self.shape.logprobs.is_none() => {}
            Event::Prompt(positions) => self.push_echo(index, positions),
            Event::Text { text, positions } => {
                self.push(index, &text, &positions, None);
            }
            Event::End { finish, usage } => {
                self.tally.add(index, usage);
                self.push(index, "", &[], Some(finish));
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
