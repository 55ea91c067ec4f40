//! One request, from its body to its answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::Response;

use super::asked::check_there_is_a_prompt;
use super::begin::{Begun, another_may_do_it};
use super::kept::{Keep, Looked};
use super::{Asked, Endpoint, stream, whole};
use crate::access::Facts;
use crate::api::blocking;
use crate::app::AppState;
use crate::auth::Tenant;
use crate::context::{self, Attached, Counter};
use crate::drain::Phase;
use crate::error::{ApiError, ErrorCode};
use crate::memory::extension::MemoryWish;
use crate::placement::Placed;
use crate::request_id::RequestId;
use crate::routing::{Admission, Bill, Candidate, Plan, Refusal, Report, Target};
use crate::trace::TraceContext;

/// A body up to this many bytes is parsed where it arrives; a larger one off the threads that serve connections.
const PARSED_AT_ONCE: usize = 64 << 10;

/// Who asks, and what the layers around learn of it.
pub struct Caller {
    /// Whose key it is.
    pub tenant: Tenant,
    /// For the log line.
    pub facts: Facts,
    /// The request's id.
    pub id: RequestId,
    /// The request's headers.
    pub headers: HeaderMap,
    /// Its place in a trace, which calls made for it name as theirs.
    pub trace: TraceContext,
}

/// A request on its way: what is the same whoever answers.
pub(super) struct Way {
    pub state: AppState,
    pub caller: Caller,
    pub asked: Asked,
    pub attached: Option<Attached>,
    pub question: Option<String>,
    pub deadline: Option<Instant>,
    pub first_by: Option<Instant>,
    /// Where the answer is to be kept.
    pub keep: Keep,
    /// Candidates that have not been asked.
    pub rest: VecDeque<Candidate>,
    /// When the last one was.
    pub since: Instant,
}

/// Answers a chat or a completion.
pub async fn serve(state: AppState, caller: Caller, endpoint: Endpoint, body: Bytes) -> Result<Response, ApiError> {
    let received = Instant::now();
    let bytes = body.len();
    let asked = if body.len() <= PARSED_AT_ONCE {
        Asked::read(endpoint, &body)?
    } else {
        blocking(move || Asked::read(endpoint, &body)).await?
    };
    check_there_is_a_prompt(&asked)?;
    caller.facts.expect_tokens(bytes, asked.bound(), asked.sequences())?;
    if state.drain().phase() != Phase::Serving {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "the server drains and takes no new requests")
            .with_retry_after(std::time::Duration::from_secs(5)));
    }
    let table = state.routing().table();
    let plan = Plan::new(&asked, &table, state.models(), &caller.tenant)?;
    caller.facts.note(|served| {
        let first = plan.candidates.first().map(|candidate| candidate.model.clone());
        served.asked = asked.model.clone().or(first);
    });
    let mut way = Way::new(state, caller, asked, received);
    way.recall(&plan).await?;
    let cache = match way.look(&plan).await? {
        Looked::Found(answer, status) => return Ok(way.replay(&plan, &answer, status)),
        Looked::Keep(keep, status) => {
            way.keep = keep;
            status
        }
    };
    way.state.routing().metrics().cached(cache.as_str());
    let (begun, bill, mut report) = way.cascade(plan).await?;
    report.cache = cache;
    if way.asked.stream {
        Ok(stream::response(way, begun, bill, report))
    } else {
        whole::response(way, begun, bill, report).await
    }
}

impl Way {
    fn new(state: AppState, caller: Caller, asked: Asked, received: Instant) -> Self {
        // The older `timeout`, in seconds, is OpenAI clients' habit; the shorter of both holds.
        let timeout =
            asked.body.get("timeout").and_then(serde_json::Value::as_f64).filter(|s| *s > 0.0 && *s <= 86_400.0);
        let timeout = timeout.map(std::time::Duration::from_secs_f64);
        let wanted = timeout.into_iter().chain(asked.wish.deadline).min();
        let deadline = state.deadline(received, wanted);
        let first_by = asked.wish.first_token.and_then(|wait| received.checked_add(wait));
        Self {
            state,
            caller,
            asked,
            attached: None,
            question: None,
            deadline,
            first_by,
            keep: Keep::default(),
            rest: VecDeque::new(),
            since: received,
        }
    }

    /// Looks into the memory, if the request or its key wants that.
    async fn recall(&mut self, plan: &Plan) -> Result<(), ApiError> {
        let member = self.asked.memory.take();
        let settings = self.state.memory().settings();
        let Some(wish) = MemoryWish::resolve(member, &self.caller.tenant, settings)? else {
            return Ok(());
        };
        let model = plan.candidates.iter().find_map(|candidate| match &candidate.target {
            Target::Local(model) => Some(Arc::clone(model)),
            Target::Remote { .. } => None,
        });
        let counter = model.map_or(Counter::Estimate, Counter::Model);
        let attached = match self.asked.endpoint {
            Endpoint::Completions => context::recall_for_completion(&self.state, counter, &self.asked, wish).await,
            _ => {
                let query = wish.recall.as_ref().and_then(|_| context::query_of_chat(self.asked.messages()));
                Attached::recall(&self.state, counter, wish, query).await
            }
        };
        if attached.remembers() {
            self.question = match self.asked.endpoint {
                Endpoint::Chat => Some(context::question(self.asked.messages())),
                _ => self.asked.prompt().map(str::to_owned),
            };
        }
        self.attached = Some(attached);
        Ok(())
    }

    /// Asks the plan's candidates in order until one has begun to answer.
    async fn cascade(&mut self, plan: Plan) -> Result<(Begun, Bill, Report), ApiError> {
        let mut report = Report { rule: plan.rule, left_out: plan.left_out, ..Report::default() };
        self.rest = self.state.routing().order(plan.candidates).into();
        let (begun, bill) = self.go_through(&mut report, None).await?;
        Ok((begun, bill, report))
    }

    /// The engine here failed within an answer of which the client has seen nothing: the candidates after it are asked.
    pub(super) async fn instead(&mut self, error: ApiError, report: &mut Report) -> Result<(Begun, Bill), ApiError> {
        if !another_may_do_it(error.code()) {
            return Err(error);
        }
        report.broke(&error, self.since.elapsed());
        self.go_through(report, Some(error)).await
    }

    /// Asks who is left until one has begun to answer; `own` is what the engine here said when it failed.
    async fn go_through(&mut self, report: &mut Report, mut own: Option<ApiError>) -> Result<(Begun, Bill), ApiError> {
        while let Some((candidate, placed)) = self.next_candidate() {
            match self.attempt(&candidate, placed, report).await {
                Ok(begun) => return Ok(begun),
                Err(Refusal::LeftOut(out)) => report.left_out.push(*out),
                Err(Refusal::Failed(attempt)) => report.failed.push(*attempt),
                Err(Refusal::Local(attempt, error)) => {
                    report.failed.push(*attempt);
                    own = Some(error);
                }
                Err(Refusal::Fatal(error)) => return Err(error),
            }
        }
        self.caller.facts.note(|served| served.attempts = report.attempts() as u64);
        // Where the engine here was the only one asked, its own words and status are the best.
        match own.filter(|_| report.failed.len() == 1 && report.left_out.is_empty()) {
            Some(error) => Err(error),
            None => Err(std::mem::take(report).into_error()),
        }
    }

    /// Who is asked next. Of several peers with the same model it is the one that likely holds the prompt's KV.
    pub(super) fn next_candidate(&mut self) -> Option<(Candidate, Option<Placed>)> {
        let (chosen, placed) = self.state.routing().place(&self.rest, &self.asked, &self.caller.tenant);
        self.rest.remove(chosen).map(|candidate| (candidate, placed))
    }

    /// Asks one candidate; the report then names it.
    pub(super) async fn attempt(
        &mut self,
        candidate: &Candidate,
        placed: Option<Placed>,
        report: &mut Report,
    ) -> Result<(Begun, Bill), Refusal> {
        self.since = Instant::now();
        let routing = self.state.routing().clone();
        let bill =
            routing.bill(candidate, &self.asked, &self.caller.tenant).map_err(|out| Refusal::LeftOut(Box::new(out)))?;
        let begun = match &candidate.target {
            Target::Local(model) => {
                if let Admission::Late(late) = routing.admission(model, &self.asked, self.first_by, self.deadline) {
                    return Err(late.refusal(candidate));
                }
                self.begin_local(candidate, model).await?
            }
            Target::Remote { backend, upstream } => {
                self.begin_remote(candidate, placed, backend, upstream, &mut report.failed).await?
            }
        };
        report.backend = candidate.backend().to_owned();
        report.model = candidate.model.clone();
        routing.metrics().decided(&report.rule, &report.backend, &report.model);
        Ok((begun, bill))
    }
}
