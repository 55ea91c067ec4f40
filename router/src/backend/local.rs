//! Sequences handed to the engine of this process, and the text that comes back from all of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_inference::{
    Detokenizer, FinishReason, GenerateRequest, Logprobs, TextAssembler, TextEvent, TextStream, TextToken, TokenStream,
    Usage as EngineUsage,
};
use engram_models::detokenize::{DecodeOptions, DecodeStream};
use engram_models::tokenizer::Tokenizer;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};

use super::ServedModel;
use crate::access::Facts;
use crate::app::AppState;
use crate::auth::Tenant;
use crate::drain::{Drain, Phase};
use crate::error::{ApiError, ErrorCode};
use crate::openai::options::Options;
use crate::openai::response::{Finish, ScoredPosition, ScoredToken, Usage};

/// One sequence to generate, and how its tokens become text.
#[derive(Debug, Clone)]
pub struct Job {
    /// What the engine is asked.
    pub request: GenerateRequest,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Leave the stop string in the text.
    pub include_stop: bool,
    /// The output is a text of its own (a chat's answer), not the rest of the prompt: it matters to
    /// SentencePiece vocabularies, whose texts begin with a space that is not there.
    pub text_start: bool,
}

impl Job {
    /// The job that `options` describe, for a prompt that is ids already.
    pub fn new(model: &ServedModel, options: &Options, prompt: Vec<u32>, max_tokens: usize, tenant: &Tenant) -> Self {
        let mut request = GenerateRequest::new(prompt, options.sampling.clone(), max_tokens);
        request.stop_ids = options.stop_token_ids.clone();
        if !options.sampling.ignore_eos {
            request.stop_ids.extend(&model.stop_ids);
        }
        request.priority = options.priority;
        request.tenant = tenant.salt;
        Self { request, stop: options.stop.clone(), include_stop: options.include_stop, text_start: false }
    }

    /// Ends at these ids too, unless the client wants to go through the model's ends.
    pub fn stop_at(&mut self, ids: impl IntoIterator<Item = u32>) {
        if !self.request.sampling.ignore_eos {
            self.request.stop_ids.extend(ids);
        }
    }

    /// The same job `count` times. With a seed, choice i draws from seed + i: the choices differ, and
    /// each is the same again when asked again.
    pub fn choices(self, count: usize) -> Vec<Self> {
        (0..count as u64)
            .map(|number| {
                let mut job = self.clone();
                job.request.sampling.seed = self.request.sampling.seed.map(|seed| seed.wrapping_add(number));
                job
            })
            .collect()
    }
}

/// What a sequence gives, in this order: perhaps `Prompt`, any number of `Text`, one `End`.
#[derive(Debug, Clone)]
pub enum Event {
    /// Log-probabilities of the prompt.
    Prompt(Vec<ScoredPosition>),
    /// More text, and its positions if log-probabilities are wanted.
    Text {
        /// The text.
        text: String,
        /// Its positions.
        positions: Vec<ScoredPosition>,
    },
    /// It ended as it should.
    End {
        /// Why.
        finish: Finish,
        /// Its token counts.
        usage: EngineUsage,
    },
}

/// Events of one sequence, with its place among the jobs.
type Sequence = BoxStream<'static, (usize, Result<Event, ApiError>)>;

/// Sequences that are being generated, read as one. Dropping it aborts all that have not ended.
pub struct Generation {
    running: SelectAll<Sequence>,
    sequences: usize,
    /// Read before the head of the answer was written.
    first: VecDeque<(usize, Result<Event, ApiError>)>,
    drain: Drain,
    failed: bool,
}

impl Generation {
    /// Hands in all jobs and waits for the first event.
    ///
    /// So a full queue, a deadline that passes in it and a first forward pass that fails are errors
    /// with a status of their own; after this only the stream itself can tell.
    pub async fn start(state: &AppState, model: &Arc<ServedModel>, jobs: Vec<Job>) -> Result<Self, ApiError> {
        if state.drain().phase() != Phase::Serving {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "the server drains and takes no new requests")
                .with_retry_after(Duration::from_secs(5)));
        }
        tracing::Span::current().record("model", model.id.as_str());
        let sequences = jobs.len();
        let mut running = SelectAll::new();
        for (index, job) in jobs.into_iter().enumerate() {
            // An error drops `running`, which aborts the jobs before this one.
            running.push(sequence(index, model, job)?);
        }
        let mut generation =
            Self { running, sequences, first: VecDeque::new(), drain: state.drain().clone(), failed: false };
        match generation.next().await {
            Some((_, Err(error))) => Err(error),
            Some(event) => {
                generation.first.push_back(event);
                Ok(generation)
            }
            None => Ok(generation),
        }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// The next event of any sequence; `None` when all have ended. After an error there is nothing
    /// more: the other sequences are aborted.
    pub async fn next(&mut self) -> Option<(usize, Result<Event, ApiError>)> {
        if let Some(event) = self.first.pop_front() {
            return Some(event);
        }
        if self.failed {
            return None;
        }
        let event = tokio::select! {
            biased;
            event = self.running.next() => event?,
            () = self.drain.reached(Phase::Stopping) => {
                let error = ApiError::new(ErrorCode::ShuttingDown, "the server stopped before the answer was complete");
                (0, Err(error))
            }
        };
        if event.1.is_err() {
            self.failed = true;
            self.running.clear();
        }
        Some(event)
    }

    /// Everything, once it is there; one output a job.
    pub async fn collect(mut self, tally: &mut Tally) -> Result<Vec<Output>, ApiError> {
        let mut outputs: Vec<Output> = (0..self.sequences).map(|_| Output::default()).collect();
        while let Some((index, event)) = self.next().await {
            match event? {
                Event::Prompt(positions) => outputs[index].prompt_positions = positions,
                Event::Text { text, positions } => {
                    outputs[index].text.push_str(&text);
                    outputs[index].positions.extend(positions);
                }
                Event::End { finish, usage } => {
                    outputs[index].finish = finish;
                    tally.add(index, usage);
                }
            }
        }
        Ok(outputs)
    }
}

/// A finished sequence.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its text.
    pub text: String,
    /// Positions of the prompt, if they were asked for.
    pub prompt_positions: Vec<ScoredPosition>,
    /// Positions of the text, if log-probabilities were asked for.
    pub positions: Vec<ScoredPosition>,
    /// Why it ended.
    pub finish: Finish,
}

impl Default for Output {
    fn default() -> Self {
        Self { text: String::new(), prompt_positions: Vec::new(), positions: Vec::new(), finish: Finish::Stop }
    }
}

impl Output {
    /// Mean log-probability of its tokens, by which `best_of` ranks; the lowest if there are none.
    pub fn mean_logprob(&self) -> f64 {
        if self.positions.is_empty() {
            return f64::NEG_INFINITY;
        }
        let sum: f64 = self.positions.iter().filter_map(|position| position.token.logprob).map(f64::from).sum();
        sum / self.positions.len() as f64
    }
}

/// Token counts of an answer as its sequences end.
#[derive(Debug)]
pub struct Tally {
    /// Of each prompt: its tokens, and how many were cached for the choice that found fewest.
    prompts: Vec<Option<(usize, usize)>>,
    completion_tokens: usize,
    choices: usize,
    facts: Facts,
}

impl Tally {
    /// For `sequences` sequences, `choices` of each prompt.
    pub fn new(sequences: usize, choices: usize, facts: Facts) -> Self {
        let choices = choices.max(1);
        Self { prompts: vec![None; sequences.div_ceil(choices)], completion_tokens: 0, choices, facts }
    }

    /// Takes the counts of the sequence at `index`.
    pub fn add(&mut self, index: usize, usage: EngineUsage) {
        self.completion_tokens += usage.completion_tokens;
        let Some(prompt) = self.prompts.get_mut(index / self.choices) else {
            return;
        };
        match prompt {
            // Choices share their prompt: the later ones find it cached because the first computed it.
            Some((_, cached)) => {
                *cached = (*cached).min(usage.cached_tokens);
                self.facts.add_tokens(0, 0, usage.completion_tokens);
            }
            None => {
                *prompt = Some((usage.prompt_tokens, usage.cached_tokens));
                self.facts.add_tokens(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens);
            }
        }
    }

    /// The sum so far.
    pub fn usage(&self) -> Usage {
        let prompts = self.prompts.iter().flatten();
        let (prompt, cached) = prompts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Usage::new(prompt, self.completion_tokens, cached)
    }

    /// Where the log line's facts are kept.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// The model's decoder, as the engine's output side wants it.
struct Decoder(DecodeStream);

impl Detokenizer for Decoder {
    fn push(&mut self, id: u32) -> Option<String> {
        self.0.push(id)
    }

    fn finish(&mut self) -> String {
        self.0.finish()
    }
}

/// Hands in one job; its events carry `index`.
fn sequence(index: usize, model: &Arc<ServedModel>, job: Job) -> Result<Sequence, ApiError> {
    let submitted = Instant::now();
    let options = DecodeOptions { skip_special: true, text_start: job.text_start };
    let assembler = TextAssembler::new(Decoder(model.tokenizer.decode_stream(options)), job.stop, job.include_stop);
    let scorer = Scorer {
        tokenizer: Arc::clone(&model.tokenizer),
        prompt: if job.request.prompt_logprobs.is_some() { job.request.prompt.clone() } else { Vec::new() },
        wanted: job.request.sampling.logprobs.is_some(),
    };
    let tokens: TokenStream = model.engine.submit(job.request)?;
    let text = TextStream::new(tokens, assembler);
    let events = futures::stream::unfold((text, scorer), move |(mut text, scorer)| async move {
        loop {
            if let Some(event) = scorer.event(text.recv_async().await?, submitted) {
                return Some(((index, event), (text, scorer)));
            }
        }
    });
    Ok(events.boxed())
}

/// Turns the engine's ids into what answers show.
struct Scorer {
    tokenizer: Arc<Tokenizer>,
    /// Kept only if its positions are to be scored.
    prompt: Vec<u32>,
    wanted: bool,
}

impl Scorer {
    /// `None` for an event with nothing to show.
    fn event(&self, event: TextEvent, submitted: Instant) -> Option<Result<Event, ApiError>> {
        match event {
            TextEvent::Prompt(scores) => {
                let positions = self.prompt.iter().zip(&scores).map(|(&id, score)| self.position(id, score.as_ref()));
                Some(Ok(Event::Prompt(positions.collect())))
            }
            TextEvent::Delta(piece) => {
                let positions = self.positions(&piece.tokens);
                let nothing = piece.text.is_empty() && positions.is_empty();
                (!nothing).then_some(Ok(Event::Text { text: piece.text, positions }))
            }
            TextEvent::Finished { reason: FinishReason::Deadline, usage, .. } => {
                let message = format!(
                    "the deadline passed after {:.1} s and {} generated tokens",
                    submitted.elapsed().as_secs_f64(),
                    usage.completion_tokens
                );
                Some(Err(ApiError::new(ErrorCode::DeadlineExceeded, message).with_param("timeout")))
            }
            TextEvent::Finished { reason: FinishReason::Stop, usage, .. } => {
                Some(Ok(Event::End { finish: Finish::Stop, usage }))
            }
            TextEvent::Finished { reason: FinishReason::Length, usage, .. } => {
                Some(Ok(Event::End { finish: Finish::Length, usage }))
            }
            TextEvent::Failed(error) => Some(Err(error.into())),
        }
    }

    fn positions(&self, tokens: &[TextToken]) -> Vec<ScoredPosition> {
        if !self.wanted {
            return Vec::new();
        }
        tokens.iter().map(|token| self.position(token.id, token.logprobs.as_ref())).collect()
    }

    fn position(&self, id: u32, score: Option<&Logprobs>) -> ScoredPosition {
        ScoredPosition {
            token: self.token(id, score.map(|score| score.logprob)),
            top: score
                .map(|score| score.top.iter().map(|&(id, logprob)| self.token(id, Some(logprob))).collect())
                .unwrap_or_default(),
        }
    }

    fn token(&self, id: u32, logprob: Option<f32>) -> ScoredToken {
        let bytes = self.tokenizer.token_bytes(id).map(<[u8]>::to_vec).unwrap_or_default();
        ScoredToken { bytes, logprob }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: usize, cached_tokens: usize, completion_tokens: usize) -> EngineUsage {
        EngineUsage { prompt_tokens, cached_tokens, completion_tokens }
    }

    #[test]
    fn a_prompt_counts_once_however_many_choices() {
        let mut tally = Tally::new(4, 2, Facts::default());
        tally.add(1, usage(10, 8, 3));
        tally.add(0, usage(10, 0, 4));
        tally.add(2, usage(5, 0, 1));
        tally.add(3, usage(5, 4, 2));
        assert_eq!(tally.usage(), Usage::new(15, 10, 0));
    }

    #[test]
    fn best_is_by_mean_logprob() {
        let scored = |logprobs: &[f32]| Output {
            positions: logprobs
                .iter()
                .map(|&logprob| ScoredPosition {
                    token: ScoredToken { bytes: Vec::new(), logprob: Some(logprob) },
                    top: Vec::new(),
                })
                .collect(),
            ..Output::default()
        };
        assert!(scored(&[-1.0, -1.0, -1.0]).mean_logprob() > scored(&[-2.0]).mean_logprob());
        assert!(scored(&[-9.0]).mean_logprob() > scored(&[]).mean_logprob());
    }
}
