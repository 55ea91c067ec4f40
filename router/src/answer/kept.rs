//! What was answered before: the response cache before a plan is followed, and after an answer is whole.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::serve::Way;
use crate::backend::Encoders;
use crate::cache::{
    Answer, Asked as Found, Asker, CacheKey, Embed, EmbedFailed, Look, Question, Recorder, Unanswered, cacheable,
    choices, replay,
};
use crate::error::{ApiError, ErrorCode};
use crate::money::Usd;
use crate::routing::{CacheStatus, Plan, Report};
use crate::sse;

/// The places where a whole answer is to be kept.
#[derive(Default)]
pub(super) struct Keep {
    recorder: Option<Recorder>,
    unanswered: Option<Unanswered>,
}

/// What the cache has for a request.
pub(super) enum Looked {
    /// An answer.
    Found(Arc<Answer>, CacheStatus),
    /// None; the answer may be kept.
    Keep(Keep, CacheStatus),
}

impl Keep {
    /// Whether a whole answer is of any use.
    pub fn is_wanted(&self) -> bool {
        self.recorder.is_some() || self.unanswered.is_some()
    }

    /// Keeps a whole answer, and gives it to all who wait for it.
    pub fn complete(self, answer: &Arc<Answer>) {
        if let Some(recorder) = self.recorder {
            recorder.complete(answer);
        }
        if let Some(unanswered) = self.unanswered {
            unanswered.keep(answer, Instant::now());
        }
    }
}

impl Way {
    /// Choices of a whole answer, as the cache counts them.
    pub(super) fn choices(&self) -> usize {
        choices(self.asked.endpoint, &self.asked.body)
    }

    /// Looks for an answer that was given before, or is just being given.
    ///
    /// Where the memory adds to a request nothing is kept: what it adds changes.
    pub(super) async fn look(&self, plan: &Plan) -> Result<Looked, ApiError> {
        let table = self.state.routing().table();
        let nothing = Looked::Keep(Keep::default(), CacheStatus::Off);
        let wanted = self.asked.wish.cache.unwrap_or(table.settings.cache);
        if !wanted || self.attached.is_some() {
            return Ok(nothing);
        }
        let mut models: Vec<String> = plan.candidates.iter().map(|candidate| candidate.model.to_lowercase()).collect();
        models.dedup();
        // Two keys of a tenant may see different domains of its memory, but its memory has no part in this.
        let asker = Asker { endpoint: self.asked.endpoint, tenant: &self.caller.tenant.name, plan: &models };
        let mut keep = Keep::default();
        if cacheable(self.asked.endpoint, &self.asked.body) {
            let key = CacheKey::of(asker, &self.asked.body);
            // Who wants a first token soon does not wait for another's last one longer than that.
            let patience = self.first_by.into_iter().chain(self.deadline).min();
            match self.state.routing().cache().ask(key, patience).await {
                Ok(Found::Hit(answer)) => return Ok(Looked::Found(answer, CacheStatus::Hit)),
                Ok(Found::Followed(answer)) => return Ok(Looked::Found(answer, CacheStatus::Shared)),
                Ok(Found::Miss(recorder)) => keep.recorder = Some(recorder),
                Err(waited) if self.first_by.is_none() => {
                    return Err(ApiError::new(ErrorCode::DeadlineExceeded, waited.to_string()));
                }
                Err(_) => {}
            }
        }
        let semantic = table.route(&plan.rule).and_then(|route| route.semantic_cache);
        if semantic.unwrap_or(table.settings.semantic_cache)
            && let Some(cache) = self.state.routing().semantic()
            && let Some(question) = Question::of(asker, &self.asked.body)
        {
            match cache.look(question, Instant::now()).await {
                Ok(Look::Near { answer, .. }) => return Ok(Looked::Found(answer, CacheStatus::Semantic)),
                Ok(Look::Far(unanswered)) => keep.unanswered = Some(unanswered),
                Err(error) => tracing::debug!(%error, "no search for a like question"),
            }
        }
        let status = if keep.is_wanted() { CacheStatus::Miss } else { CacheStatus::Off };
        Ok(Looked::Keep(keep, status))
    }

    /// An answer from before, whole or as a stream, as the request wants it. It costs nothing.
    pub(super) fn replay(self, plan: &Plan, answer: &Answer, status: CacheStatus) -> Response {
        let model = answer.body()["model"].as_str().unwrap_or_default().to_owned();
        let report =
            Report { rule: plan.rule.clone(), backend: "cache".into(), model, cache: status, ..Report::default() };
        self.state.routing().metrics().cached(status.as_str());
        self.caller.facts.routed(&report, Usd::ZERO);
        let headers = report.headers(Some(Usd::ZERO));
        let member = self.state.routing().is_in_use().then(|| {
            let mut member = report.member();
            member["cost_usd"] = json!(0.0);
            member
        });
        let mut response = if self.asked.stream {
            let mut chunks = replay(answer, self.asked.include_usage);
            if let (Some(member), Some(first)) = (member, chunks.first_mut()) {
                first["engram"] = member;
            }
            let events: Vec<_> = chunks.iter().map(sse::event).chain([sse::DONE]).collect();
            sse::response(futures::stream::iter(events).boxed(), self.state.settings().keep_alive)
        } else {
            let mut body = answer.body().clone();
            if let Some(member) = member {
                body["engram"] = member;
            }
            Json(body).into_response()
        };
        response.headers_mut().extend(headers);
        response
    }

    /// Keeps a whole answer, as it came.
    pub(super) fn keep(&mut self, body: &Value) {
        let keep = std::mem::take(&mut self.keep);
        if !keep.is_wanted() {
            return;
        }
        match Answer::whole(self.asked.endpoint, self.choices(), body.clone()) {
            Ok(answer) => keep.complete(&answer),
            Err(error) => tracing::debug!(%error, "the answer is not kept"),
        }
    }
}

/// The memory's encoder, for questions that mean the same.
pub struct QuestionEncoder(Encoders);

impl QuestionEncoder {
    /// Over the encoder that is served, once it is loaded.
    pub fn new(encoders: Encoders) -> Self {
        Self(encoders)
    }
}

impl Embed for QuestionEncoder {
    fn embed<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Vec<f32>, EmbedFailed>> {
        Box::pin(async move {
            let handle = self.0.find(None).map_err(|error| EmbedFailed(error.to_string()))?;
            let text = text.to_owned();
            let encoded = tokio::task::spawn_blocking(move || {
                handle.embed(&[text.as_str()], engram_models::embedding::Side::Query)
            });
            let vectors = encoded.await.map_err(|error| EmbedFailed(error.to_string()))?;
            let mut vectors = vectors.map_err(|error| EmbedFailed(error.to_string()))?;
            vectors.pop().ok_or_else(|| EmbedFailed("the encoder gave no vector".into()))
        })
    }
}
