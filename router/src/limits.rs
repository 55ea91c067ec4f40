//! How large and how slow a request may be.

use std::time::Duration;

/// Most prompts in one completion request.
pub const MAX_PROMPTS: usize = 64;
/// Most choices a prompt (`n`, `best_of`).
pub const MAX_CHOICES: usize = 16;
/// Most sequences one request may start: prompts times choices.
pub const MAX_SEQUENCES: usize = 128;
/// Most stop strings.
pub const MAX_STOPS: usize = 16;
/// Longest stop string, in characters.
pub const MAX_STOP_CHARS: usize = 256;
/// Most messages in a chat.
pub const MAX_MESSAGES: usize = 4096;
/// Most content parts in a message.
pub const MAX_PARTS: usize = 1024;
/// Most tools in a chat.
pub const MAX_TOOLS: usize = 512;
/// Most entries of `logit_bias`.
pub const MAX_LOGIT_BIAS: usize = 1024;
/// Most alternatives a position (`top_logprobs`, and `logprobs` of completions).
pub const MAX_TOP_LOGPROBS: usize = 20;
/// Most files in `fim_context`.
pub const MAX_FIM_FILES: usize = 256;
/// Most inputs in one embeddings request: OpenAI's limit.
pub const MAX_EMBEDDING_INPUTS: usize = 2048;
/// Most values of a vector that may be asked for.
pub const MAX_EMBEDDING_DIMENSIONS: usize = 65536;
/// Most token ids in one list of the request.
pub const MAX_TOKEN_IDS: usize = 4 << 20;

/// Settings of the HTTP side; the configuration fills them once.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Largest request body.
    pub body_limit: usize,
    /// A connection must send its request head within this.
    pub header_timeout: Duration,
    /// And the body within this.
    pub body_timeout: Duration,
    /// A request may take at most this, whatever its `timeout` says; `None`: no bound but its own.
    pub request_timeout: Option<Duration>,
    /// How long running requests may go on once a shutdown is asked for.
    pub drain_deadline: Duration,
    /// Most connections at once; the next ones wait to be accepted.
    pub max_connections: usize,
    /// Web origins whose pages may call this server (`https://example.org`, or `*`); empty: none.
    pub cors_origins: Vec<String>,
    /// `/health` waits this long for a forward pass if the last good one is too old.
    pub health_timeout: Duration,
    /// A comment is sent on a silent event stream this often, so that proxies keep it open.
    pub keep_alive: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            body_limit: 32 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Some(Duration::from_secs(600)),
            drain_deadline: Duration::from_secs(30),
            max_connections: 4096,
            cors_origins: Vec::new(),
            health_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
        }
    }
}
