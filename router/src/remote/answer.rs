//! What an answer means: a body that is whole, or the failure that a status or an error object stands for.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, StatusCode, header};
use reqwest::Response;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Listed;
use super::failure::{Failure, FailureKind};
use super::patience::Patience;
use super::{Endpoint, usage};

/// Largest answer that is read.
pub(super) const BODY_LIMIT: usize = 64 << 20;
/// Largest error body that is looked at.
pub(super) const ERROR_LIMIT: usize = 64 << 10;
/// Longest message of a backend that is passed on, in characters.
const MESSAGE_LIMIT: usize = 300;
/// A backend that wants to rest longer is asked again all the same.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Reads a body to its end.
pub(super) async fn body(response: &mut Response, patience: &Patience, limit: usize) -> Result<Vec<u8>, Failure> {
    let told = response.content_length().unwrap_or(0);
    let mut body = Vec::new();
    let too_large = |size: u64| {
        Failure::new(FailureKind::TooLarge, format!("the answer has {size} bytes or more, the limit is {limit}"))
    };
    if told > limit as u64 {
        return Err(too_large(told));
    }
    let mut last = Instant::now();
    loop {
        let wait = patience.next(last);
        let chunk = match timeout_at(wait.by, response.chunk()).await {
            Err(_) => return Err(wait.failure()),
            Ok(Err(error)) => return Err(Failure::from_http(&error)),
            Ok(Ok(None)) => return Ok(body),
            Ok(Ok(Some(chunk))) => chunk,
        };
        last = Instant::now();
        if body.len() + chunk.len() > limit {
            return Err(too_large((body.len() + chunk.len()) as u64));
        }
        // Told lengths are not believed beyond what came: room for what is here, at most once the told size.
        if body.is_empty() {
            body.reserve_exact((told as usize).min(1 << 20).max(chunk.len()));
        }
        body.extend_from_slice(&chunk);
    }
}

/// An answer that must be whole: each choice ended for a reason.
pub(super) fn whole(endpoint: Endpoint, body: &[u8], kind: &str, scrub: &Scrub) -> Result<Value, Failure> {
    let garbage = |what: String| Failure::new(FailureKind::Garbage, what);
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        garbage(format!(
            "{} bytes of `{kind}` are not JSON at line {}, column {}",
            body.len(),
            error.line(),
            error.column()
        ))
    })?;
    if let Some(failure) = failure_in(&value, scrub) {
        return Err(failure);
    }
    let list = match endpoint {
        Endpoint::Chat | Endpoint::Completions => "choices",
        Endpoint::Embeddings => "data",
    };
    let items = value.get(list).and_then(Value::as_array).filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| garbage(format!("the answer has no `{list}`")))?;
    if list == "choices" {
        let open = items.iter().position(|choice| !is_text(choice.get("finish_reason")));
        if let Some(open) = open {
            let message = format!("the answer was cut: choice {open} has no finish_reason");
            return Err(Failure { usage: usage::of(&value), ..Failure::new(FailureKind::Cut, message) });
        }
    }
    Ok(value)
}

/// The ids in a list of models.
pub(super) fn models(body: &[u8], scrub: &Scrub) -> Result<Vec<Listed>, Failure> {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(failure) = failure_in(&value, scrub) {
        return Err(failure);
    }
    let list = value.get("data").and_then(Value::as_array);
    let list =
        list.ok_or_else(|| Failure::new(FailureKind::Garbage, "the list of models is no JSON object with `data`"))?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let listed = |model: &Value| {
        Some(Listed { id: text(model.get("id"))?, owned_by: text(model.get("owned_by")).unwrap_or_default() })
    };
    Ok(list.iter().filter_map(listed).collect())
}

/// Whether a value is text that is not empty.
pub(super) fn is_text(value: Option<&Value>) -> bool {
    value.and_then(Value::as_str).is_some_and(|text| !text.is_empty())
}

/// The failure of an answer whose status is no success; its body is read for the reason.
pub(super) async fn refused(mut response: Response, patience: &Patience, portkey: bool, scrub: &Scrub) -> Failure {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let exception = response.headers().get("x-portkey-gateway-exception").is_some_and(|value| value == "true");
    // The status is the answer; a body that does not come or is too large takes nothing from it.
    let body = body(&mut response, patience, ERROR_LIMIT).await.unwrap_or_default();
    let said = serde_json::from_slice(&body).ok().and_then(|value| Said::find(&value)).unwrap_or_default();
    let kind = match portkey && (exception || said.by_gateway) {
        true => FailureKind::Gateway,
        false => kind(status.as_u16(), &said),
    };
    let mut message = status.to_string();
    if status.is_redirection() {
        message.push_str(": redirects are not followed, the backend's `url` must be the final one");
    } else if !said.message.is_empty() {
        message.push_str(": ");
        message.push_str(&scrub.clean(&said.message));
    }
    Failure { retry_after, ..Failure::new(kind, message).with_status(status.as_u16()) }
}

/// The failure inside a body or an event that came with a good status.
pub(super) fn failure_in(value: &Value, scrub: &Scrub) -> Option<Failure> {
    value.get("error").filter(|error| !error.is_null())?;
    let said = Said::find(value).unwrap_or_default();
    let status = said.status();
    let message = match said.message.is_empty() {
        true => "an error without a message".to_owned(),
        false => scrub.clean(&said.message),
    };
    let failure = Failure::new(kind(status, &said), message);
    Some(if said.number.is_some() { failure.with_status(status) } else { failure })
}

/// The one table from a status to what it means for us.
fn kind(status: u16, said: &Said) -> FailureKind {
    match status {
        400 | 413 | 422 if status == 413 || said.is_about_context() => FailureKind::ContextExceeded,
        400 | 422 if said.code == "model_not_found" => FailureKind::NoModel,
        401 | 403 => FailureKind::BadKey,
        402 => FailureKind::Unpaid,
        // OpenAI's way to say that the account is empty: no wait heals it.
        429 if said.code == "insufficient_quota" => FailureKind::Unpaid,
        404 | 405 | 410 | 501 => FailureKind::NoModel,
        408 => FailureKind::Timeout,
        409 => FailureKind::Conflict,
        425 | 429 => FailureKind::RateLimited,
        // Another Engram that was given the client's own deadline.
        504 if said.code == "deadline_exceeded" => FailureKind::Deadline,
        407 | 421 | 426 => FailureKind::Garbage,
        400..=499 => FailureKind::Rejected,
        500..=599 => FailureKind::ServerError,
        _ => FailureKind::Garbage,
    }
}

/// What an error body says, whoever wrote it.
#[derive(Debug, Default, PartialEq)]
struct Said {
    message: String,
    code: String,
    class: String,
    /// A status inside the error object.
    number: Option<u16>,
    /// Portkey's own way to fail: `{"status": "failure", "message": ..}`.
    by_gateway: bool,
}

impl Said {
    fn find(body: &Value) -> Option<Self> {
        let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        match body.get("error") {
            Some(Value::String(message)) => Some(Self { message: message.clone(), ..Self::default() }),
            Some(error) => {
                let code = error.get("code");
                let number = code.and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
                Some(Self {
                    message: text(error.get("message")),
                    code: text(code),
                    class: text(error.get("type")),
                    number: number.filter(|number| (400..600).contains(number)),
                    by_gateway: false,
                })
            }
            None => {
                let names = ["message", "detail", "html-message"];
                let message = names.iter().map(|name| text(body.get(*name))).find(|text| !text.is_empty())?;
                Some(Self { message, by_gateway: text(body.get("status")) == "failure", ..Self::default() })
            }
        }
    }

    /// The status that the words stand for, where none came.
    fn status(&self) -> u16 {
        if let Some(number) = self.number {
            return number;
        }
        match (self.code.as_str(), self.class.as_str()) {
            ("insufficient_quota", _) => 402,
            ("model_not_found", _) | (_, "not_found_error") => 404,
            ("overloaded" | "rate_limit_exceeded", _) | (_, "rate_limit_error") => 429,
            ("invalid_api_key", _) | (_, "authentication_error" | "permission_error") => 401,
            (_, "timeout_error") => 408,
            ("deadline_exceeded", _) => 504,
            (_, "invalid_request_error") => 400,
            _ => 500,
        }
    }

    /// Each server has words of its own for it.
    fn is_about_context(&self) -> bool {
        matches!(self.code.as_str(), "context_length_exceeded" | "kv_cache_exceeded" | "string_above_max_length")
            || self.class == "exceed_context_size_error"
            || self.message.contains("maximum context length")
            || self.message.contains("context window")
    }
}

/// When to come back: seconds, a date, or OpenAI's milliseconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str, unit: f64| {
        let number: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(number * unit).ok()
    };
    let wait = text("retry-after-ms").and_then(|text| seconds(text, 0.001)).or_else(|| {
        let text = text(header::RETRY_AFTER.as_str())?;
        seconds(text, 1.0).or_else(|| {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        })
    })?;
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The `content-type`, without its parameters.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A status that is a success with a body.
pub(super) fn is_good(status: StatusCode) -> bool {
    status == StatusCode::OK
}

/// Takes out of a backend's words what must not be repeated.
pub(super) struct Scrub {
    secrets: Vec<String>,
}

impl Scrub {
    /// Hides these.
    pub fn new(secrets: Vec<String>) -> Self {
        Self { secrets }
    }

    /// One line of at most 300 characters, without the secrets and what looks like a key.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.chars().take(8 * MESSAGE_LIMIT).collect::<String>();
        for secret in &self.secrets {
            text = text.replace(secret, "***");
        }
        let mut out = String::new();
        let mut length = 0;
        for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
            let word = if looks_like_key(word) { "***" } else { word };
            length += word.chars().count() + 1;
            if length > MESSAGE_LIMIT {
                out.push_str(" ..");
                break;
            }
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
        out
    }
}

/// Providers quote the key they refuse, masked or not.
fn looks_like_key(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    word.len() > 12 && ["sk-", "pk-", "sk_", "pk_", "gsk_", "xai-"].iter().any(|prefix| word.starts_with(prefix))
}
