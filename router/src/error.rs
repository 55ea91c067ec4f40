//! Every HTTP status is decided here: [`ErrorCode::status`] is the one table, and the
//! `From` impls say which failure of the crates below is which code.
//!
//! The client reads `{"error": {message, type, param, code}}`, OpenAI's shape; the chain of
//! sources is logged and never sent.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engram_inference::EngineError;
use engram_models::chat_template::ChatTemplateError;
use engram_models::embedding::EncoderError;
use serde_json::{Value, json};

use crate::auth::gate::Refusal;
use crate::auth::{Denied, StoreError};

/// What went wrong, as the `code` of the error object says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The body is not JSON, or not the JSON object that is wanted.
    InvalidJson,
    /// A parameter's value has the wrong type or is out of its range.
    InvalidValue,
    /// A parameter that must be there is not.
    MissingParameter,
    /// A parameter Engram does not know.
    UnknownParameter,
    /// A parameter, or a value of one, that OpenAI has and Engram has not.
    UnsupportedParameter,
    /// Prompt and output do not fit the model's context.
    ContextLengthExceeded,
    /// The request alone is larger than the whole KV cache.
    KvCacheExceeded,
    /// `suffix` or `fim_context` for a model without fill-in-the-middle tokens.
    FimUnsupported,
    /// The model's chat template refuses these messages.
    InvalidMessages,
    /// No key, or a wrong one.
    InvalidApiKey,
    /// The key is not for this.
    InsufficientScope,
    /// The key sees one domain of the memory, and the request names another.
    DomainNotAllowed,
    /// No such API key.
    KeyNotFound,
    /// There is an API key of this name.
    KeyExists,
    /// The key has had its requests of this minute.
    RateLimited,
    /// The key has had its tokens of this minute.
    TokensLimited,
    /// The key runs as many requests as it may.
    ConcurrencyLimited,
    /// No such model here, or none that this key sees: the two are not told apart.
    ModelNotFound,
    /// The encoder is being loaded, or cannot be.
    ModelUnavailable,
    /// No such record for this key.
    RecordNotFound,
    /// No such route.
    NotFound,
    /// The route exists, under another method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body is larger than the limit.
    PayloadTooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// The queue is full.
    Overloaded,
    /// A bug, or a failure that the client can do nothing about.
    Internal,
    /// The forward pass failed or gave logits that are not finite.
    ModelFailure,
    /// The server drains and takes no new work.
    ShuttingDown,
    /// The engine's thread is gone or never started.
    EngineStopped,
    /// No forward pass gave sane numbers lately.
    Unhealthy,
    /// There is no memory, or it cannot be used now.
    MemoryUnavailable,
    /// The memory takes nothing new: its disk is full or read-only.
    StorageFull,
    /// The deadline passed before the answer was complete.
    DeadlineExceeded,
    /// The answer could not be there in the time that the request gives; the estimate is in the message.
    DeadlineUnreachable,
    /// Every backend that was asked failed.
    BackendsFailed,
    /// No backend could be asked.
    NoBackend,
    /// It would cost more than the request or its key may.
    OverBudget,
}

impl ErrorCode {
    /// All codes, for tests and documentation.
    pub const ALL: [Self; 38] = [
        Self::InvalidJson,
        Self::InvalidValue,
        Self::MissingParameter,
        Self::UnknownParameter,
        Self::UnsupportedParameter,
        Self::ContextLengthExceeded,
        Self::KvCacheExceeded,
        Self::FimUnsupported,
        Self::InvalidMessages,
        Self::InvalidApiKey,
        Self::InsufficientScope,
        Self::DomainNotAllowed,
        Self::KeyNotFound,
        Self::KeyExists,
        Self::RateLimited,
        Self::TokensLimited,
        Self::ConcurrencyLimited,
        Self::ModelNotFound,
        Self::ModelUnavailable,
        Self::RecordNotFound,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::Overloaded,
        Self::Internal,
        Self::ModelFailure,
        Self::ShuttingDown,
        Self::EngineStopped,
        Self::Unhealthy,
        Self::MemoryUnavailable,
        Self::StorageFull,
        Self::DeadlineExceeded,
        Self::DeadlineUnreachable,
        Self::BackendsFailed,
        Self::NoBackend,
        Self::OverBudget,
    ];

    /// The HTTP status of the code: the only place where one is chosen.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidJson
            | Self::InvalidValue
            | Self::MissingParameter
            | Self::UnknownParameter
            | Self::UnsupportedParameter
            | Self::ContextLengthExceeded
            | Self::KvCacheExceeded
            | Self::FimUnsupported
            | Self::InvalidMessages => StatusCode::BAD_REQUEST,
            Self::InvalidApiKey => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope | Self::DomainNotAllowed => StatusCode::FORBIDDEN,
            Self::ModelNotFound | Self::RecordNotFound | Self::KeyNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::KeyExists => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Overloaded | Self::RateLimited | Self::TokensLimited | Self::ConcurrencyLimited => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Internal | Self::ModelFailure => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ShuttingDown
            | Self::EngineStopped
            | Self::Unhealthy
            | Self::MemoryUnavailable
            | Self::ModelUnavailable
            | Self::DeadlineUnreachable
            | Self::NoBackend => StatusCode::SERVICE_UNAVAILABLE,
            Self::BackendsFailed => StatusCode::BAD_GATEWAY,
            Self::OverBudget => StatusCode::PAYMENT_REQUIRED,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `code` on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidValue => "invalid_value",
            Self::MissingParameter => "missing_required_parameter",
            Self::UnknownParameter => "unknown_parameter",
            Self::UnsupportedParameter => "unsupported_parameter",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::KvCacheExceeded => "kv_cache_exceeded",
            Self::FimUnsupported => "fim_unsupported",
            Self::InvalidMessages => "invalid_messages",
            Self::InvalidApiKey => "invalid_api_key",
            Self::InsufficientScope => "insufficient_scope",
            Self::DomainNotAllowed => "domain_not_allowed",
            Self::KeyNotFound => "key_not_found",
            Self::KeyExists => "key_exists",
            Self::RateLimited => "rate_limited",
            Self::TokensLimited => "tokens_limited",
            Self::ConcurrencyLimited => "concurrency_limited",
            Self::ModelNotFound => "model_not_found",
            Self::ModelUnavailable => "model_unavailable",
            Self::RecordNotFound => "record_not_found",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal_error",
            Self::ModelFailure => "model_failure",
            Self::ShuttingDown => "shutting_down",
            Self::EngineStopped => "engine_stopped",
            Self::Unhealthy => "unhealthy",
            Self::MemoryUnavailable => "memory_unavailable",
            Self::StorageFull => "storage_full",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::DeadlineUnreachable => "deadline_unreachable",
            Self::BackendsFailed => "backends_failed",
            Self::NoBackend => "no_backend",
            Self::OverBudget => "over_budget",
        }
    }

    /// The `type` on the wire, in OpenAI's coarser words.
    pub fn kind(self) -> &'static str {
        match self.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Whether it is the doors that refused, by what the key is or has used; metrics count these by code.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::InvalidApiKey
                | Self::InsufficientScope
                | Self::DomainNotAllowed
                | Self::RateLimited
                | Self::TokensLimited
                | Self::ConcurrencyLimited
        )
    }
}

/// A failure as the client sees it, with its cause as the log sees it.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    param: Option<String>,
    retry_after: Option<Duration>,
    /// A further member of the error object.
    details: Option<Box<(&'static str, Value)>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl ApiError {
    /// An error with its code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after: None, details: None, source: None }
    }

    /// A value that is wrong, and where it stands (`messages[0].role`).
    pub fn invalid_value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidValue, message).with_param(param)
    }

    /// A parameter OpenAI has and Engram has not, and why.
    pub fn unsupported(param: impl Into<String>, why: &str) -> Self {
        let param = param.into();
        Self::new(ErrorCode::UnsupportedParameter, format!("`{param}` is not supported: {why}")).with_param(param)
    }

    /// A failure that only the log may explain.
    pub fn internal(message: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(ErrorCode::Internal, message).with_source(source)
    }

    /// Names the parameter at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Keeps the cause for the log.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when another try is worth it.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a member to the error object.
    pub fn with_details(mut self, name: &'static str, details: Value) -> Self {
        self.details = Some(Box::new((name, details)));
        self
    }

    /// What the client reads.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When another try is worth it.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The status of the code.
    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// The parameter at fault, if one is.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// `{"error": {message, type, param, code}}`.
    pub fn body(&self) -> Value {
        let mut body = json!({"error": {
            "message": self.message,
            "type": self.code.kind(),
            "param": self.param,
            "code": self.code.as_str(),
        }});
        if let Some(details) = &self.details {
            body["error"][details.0] = details.1.clone();
        }
        body
    }

    /// Writes the error to the log with all its causes: the server's own failures as errors, others at
    /// debug level, for a client can bring them about at will.
    pub fn log(&self) {
        let mut causes = String::new();
        let mut next = self.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(cause) = next {
            causes.push_str(": ");
            causes.push_str(&cause.to_string());
            next = cause.source();
        }
        let code = self.code.as_str();
        // A drain, a client's own deadline and an encoder that is being loaded are nothing that an operator must look into.
        let expected = matches!(
            self.code,
            ErrorCode::ShuttingDown
                | ErrorCode::DeadlineExceeded
                | ErrorCode::DeadlineUnreachable
                | ErrorCode::ModelUnavailable
        );
        if self.status().is_server_error() && !expected {
            tracing::error!(code, param = self.param, "{}{causes}", self.message);
        } else {
            tracing::debug!(code, param = self.param, "{}{causes}", self.message);
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl StdError for ApiError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let mut response = (self.status(), axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up, at least one: 0 would invite the same refusal at once.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.code == ErrorCode::InvalidApiKey {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the layers around the handlers, which see no more of the error than its response.
        response.extensions_mut().insert(self.code);
        response
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        Self::new(ErrorCode::InvalidApiKey, denied.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (code, wait) = match refusal {
            Refusal::Requests { retry_in, .. } => (ErrorCode::RateLimited, retry_in),
            Refusal::Tokens { retry_in, .. } => (ErrorCode::TokensLimited, retry_in),
            // Nobody knows when a request ends; a second is what most take.
            Refusal::Concurrency { .. } => (ErrorCode::ConcurrencyLimited, Duration::from_secs(1)),
        };
        Self::new(code, refusal.to_string()).with_retry_after(wait)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Unknown(_) => Self::new(ErrorCode::KeyNotFound, message),
            StoreError::Taken(_) => Self::new(ErrorCode::KeyExists, message).with_param("name"),
            StoreError::Bad(bad) => Self::invalid_value(bad.field, message),
            // What these say names files: for the log only.
            StoreError::Io { .. } | StoreError::Corrupt { .. } | StoreError::Newer { .. } => {
                Self::internal("the file of API keys cannot be used, the server's log says why", error)
            }
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match &error {
            EngineError::InvalidParameter { name, .. } => Self::invalid_value(*name, message),
            EngineError::EmptyPrompt | EngineError::UnknownToken { .. } => Self::invalid_value("prompt", message),
            EngineError::ContextExceeded { .. } => {
                Self::new(ErrorCode::ContextLengthExceeded, message).with_param("max_tokens")
            }
            EngineError::KvExhausted { .. } => Self::new(ErrorCode::KvCacheExceeded, message),
            EngineError::Overloaded { retry_after, .. } => {
                Self::new(ErrorCode::Overloaded, message).with_retry_after(*retry_after)
            }
            EngineError::DeadlineInQueue { .. } => Self::new(ErrorCode::DeadlineExceeded, message),
            // What the forward pass says may name files and tensors: for the log only.
            EngineError::Model { .. } | EngineError::Panicked { .. } => {
                Self::new(ErrorCode::ModelFailure, "the forward pass failed, the server's log says why")
                    .with_source(error)
            }
            EngineError::NotFinite { .. } => Self::new(ErrorCode::ModelFailure, message),
            EngineError::ProbeTimeout { .. } => Self::new(ErrorCode::Unhealthy, message),
            EngineError::ShuttingDown => {
                Self::new(ErrorCode::ShuttingDown, message).with_retry_after(Duration::from_secs(5))
            }
            EngineError::Stopped => Self::new(ErrorCode::EngineStopped, message),
            EngineError::Start(_) => {
                Self::new(ErrorCode::EngineStopped, "the engine could not start, the server's log says why")
                    .with_source(error)
            }
        }
    }
}

impl From<EncoderError> for ApiError {
    fn from(error: EncoderError) -> Self {
        let message = error.to_string();
        match &error {
            EncoderError::TooLong { .. } => {
                let message = format!("{message}; shorten it, or set `truncate` to have it cut");
                Self::new(ErrorCode::ContextLengthExceeded, message).with_param("input")
            }
            EncoderError::UnknownToken { .. } => Self::invalid_value("input", message),
            EncoderError::Dimensions { .. } => Self::invalid_value("dimensions", message),
            EncoderError::Overloaded { .. } => {
                Self::new(ErrorCode::Overloaded, message).with_retry_after(Duration::from_secs(1))
            }
            EncoderError::NotFinite { .. } => Self::new(ErrorCode::ModelFailure, message),
            EncoderError::Stopped => Self::new(ErrorCode::EngineStopped, message),
            // What these say may name files and tensors: for the log only.
            EncoderError::Model(_)
            | EncoderError::Tokenizer { .. }
            | EncoderError::MissingFile { .. }
            | EncoderError::Panicked { .. } => {
                Self::new(ErrorCode::ModelFailure, "the encoder failed, the server's log says why").with_source(error)
            }
        }
    }
}

impl From<ChatTemplateError> for ApiError {
    fn from(error: ChatTemplateError) -> Self {
        let message = error.to_string();
        match &error {
            // The template is the model's, the messages are the client's: what the one says about the
            // other is for the client.
            ChatTemplateError::Raised { .. }
            | ChatTemplateError::OutOfFuel { .. }
            | ChatTemplateError::Render { .. }
            | ChatTemplateError::NoMark { .. } => Self::new(ErrorCode::InvalidMessages, message).with_param("messages"),
            ChatTemplateError::BadMessage { .. } => Self::invalid_value("messages", message),
            ChatTemplateError::Syntax { .. } => {
                Self::internal("the model's chat template does not parse, the server's log says where", error)
            }
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
