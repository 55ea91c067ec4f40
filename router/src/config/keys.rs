//! The table of all keys: name, kind, default, help. There is no second place. The keys of tables whose names
//! are free (`[backends.NAME]`) stand in [`super::families`].

use super::Origin;
use super::value::{Kind, Raw, Value};

/// The sections, in the order in which they are shown.
pub const SECTIONS: [&str; 10] =
    ["server", "model", "engine", "log", "models", "memory", "routing", "tls", "admin", "trace"];

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.key`; of a table with a free name: `key`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default as one would write it; empty: unset.
    pub default: &'static str,
    /// A shorter variable that sets it too.
    pub env_alias: Option<&'static str>,
    /// One line of help.
    pub about: &'static str,
    /// A reload changes it in a running server.
    pub live: bool,
}

impl Key {
    /// The same, for a key that a reload changes.
    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// `server` of `server.port`.
    pub fn section(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    /// `port` of `server.port`.
    pub fn short(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, short)| short)
    }

    /// `ENGRAM_SERVER_PORT` of `server.port`.
    pub fn env(&self) -> String {
        format!("ENGRAM_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The default; a test checks that every default parses.
    pub fn default_value(&self) -> Value {
        if self.default.is_empty() {
            return match self.kind {
                Kind::Strings => Value::Strings(Vec::new()),
                Kind::Secrets => Value::Secrets(Vec::new()),
                Kind::Headers => Value::Headers(Vec::new()),
                _ => Value::Unset,
            };
        }
        self.kind.parse(&Raw::Text(self.default.into()), &Origin::Default).unwrap_or(Value::Unset)
    }

    /// Checks a value; the error says what is wrong and what would be right.
    pub fn parse(&self, raw: &Raw, origin: &Origin) -> Result<Value, String> {
        // Where the default is "unset", `auto` says so again.
        let optional_number = self.default.is_empty() && matches!(self.kind, Kind::Count { .. });
        if optional_number && matches!(raw, Raw::Text(text) if text.trim() == "auto") {
            return Ok(Value::Unset);
        }
        self.kind.parse(raw, origin)
    }
}

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

pub(super) const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, env_alias: None, about, live: false }
}

const fn aliased(
    name: &'static str,
    alias: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { name, kind, default, env_alias: Some(alias), about, live: false }
}

/// Every key there is.
pub static KEYS: &[Key] = &[
    aliased("server.host", "ENGRAM_HOST", Kind::Host, "127.0.0.1", "address or name to listen on"),
    aliased("server.port", "ENGRAM_PORT", Kind::Port, "8080", "TCP port; 0 takes a free one"),
    aliased(
        "server.api_keys",
        "ENGRAM_API_KEYS",
        Kind::Secrets,
        "",
        "keys that may use the API; none: no key is asked for",
    )
    .live(),
    aliased("server.api_keys_file", "ENGRAM_API_KEYS_FILE", Kind::Path, "", "a file of such keys, one a line").live(),
    key("server.insecure_no_auth", Kind::Flag, "false", "listen beyond loopback without keys"),
    key("server.cors_origins", Kind::Strings, "", "origins that browsers may call from; none: CORS is off"),
    key("server.body_limit_bytes", Kind::Size { min: 1 << 10, max: 1 << 30 }, "32MiB", "largest request body"),
    key(
        "server.header_timeout_s",
        Kind::Seconds { min: 0.1, max: 3600.0 },
        "10",
        "time a client has to send its headers",
    ),
    key(
        "server.drain_deadline_s",
        Kind::Seconds { min: 0.0, max: 86400.0 },
        "30",
        "time running streams have after SIGTERM",
    ),
    key(
        "server.request_timeout_s",
        Kind::Seconds { min: 0.0, max: 86400.0 },
        "600",
        "longest a request may take; 0: no limit",
    ),
    key("server.max_connections", Kind::Count { min: 1, max: 1 << 20 }, "4096", "connections open at once"),
    key("server.data_dir", Kind::Path, "", "where the server keeps what must outlive it; unset: models.home"),
    aliased(
        "model.name",
        "ENGRAM_MODEL",
        Kind::Text,
        "qwen2.5-coder-0.5b-instruct",
        "catalog id, owner/repo[:QUANT][@revision], a path, or none: only backends answer",
    ),
    key("model.path", Kind::Path, "", "weights to load; model.name is then only what clients call them"),
    aliased("model.device", "ENGRAM_DEVICE", Kind::Device, "auto", "auto, cpu or cuda:N"),
    key("engine.max_num_seqs", Kind::Count { min: 1, max: 4096 }, "64", "sequences that run at once"),
    key("engine.max_batch_tokens", Kind::Count { min: 1, max: 65536 }, "512", "tokens of one step"),
    key(
        "engine.max_itl_ms",
        Kind::Count { min: 0, max: 60_000 },
        "200",
        "longest gap, in ms, that prompts being read put between two tokens of a stream; 0: no limit",
    ),
    key("engine.block_size", Kind::PowerOfTwo { min: 8, max: 256 }, "16", "tokens of a KV block"),
    key("engine.kv_memory", Kind::Size { min: 1 << 20, max: 1 << 44 }, "1GiB", "budget of the KV cache"),
    key("engine.kv_dtype", Kind::Choice(&["f16", "f32", "int8"]), "f16", "what the KV cache holds"),
    key("engine.queue_limit", Kind::Count { min: 1, max: 1 << 20 }, "256", "requests that may wait; past it: 429"),
    key("engine.prefix_cache", Kind::Flag, "true", "equal prompt prefixes are computed once"),
    key(
        "engine.max_model_len",
        Kind::Count { min: 16, max: 1 << 24 },
        "",
        "longest prompt and output together; unset: the model's own limit",
    ),
    aliased(
        "engine.threads",
        "ENGRAM_THREADS",
        Kind::Count { min: 1, max: 1024 },
        "",
        "worker threads of a step; unset: what the machine grants",
    ),
    key("engine.pin_threads", Kind::Flag, "true", "bind each of them to a core, where they are as many as cores"),
    aliased(
        "log.level",
        "ENGRAM_LOG",
        Kind::LogFilter,
        "info",
        "error, warn, info, debug, trace, or a filter such as engram_router=debug,info",
    )
    .live(),
    key("log.format", Kind::Choice(&["text", "json"]), "text", "a line of text or a JSON object an event"),
    aliased("models.home", "ENGRAM_HOME", Kind::Path, "", "home of all downloads; unset: ~/.local/share/engram"),
    aliased("models.offline", "ENGRAM_OFFLINE", Kind::Flag, "false", "never touch the network"),
    key("models.revision", Kind::Text, "", "branch, tag or commit of the hub repository"),
    key("memory.enabled", Kind::Flag, "true", "keep a memory at all; false: /v1/memory answers 503"),
    key("memory.dir", Kind::Path, "", "where the memory lies; unset: `memory` in server.data_dir"),
    key("memory.encoder", Kind::Text, "all-minilm-l6-v2", "sentence encoder: catalog id, owner/repo, or a path"),
    key(
        "memory.backend",
        Kind::Choice(&["embedded", "postgres", "qdrant"]),
        "embedded",
        "where records and vectors lie",
    ),
    key("memory.domain", Kind::Text, "coding", "domain of requests that name none"),
    key("memory.recall", Kind::Choice(&["off", "auto"]), "off", "whether a request that does not say recalls"),
    key("memory.recall_k", Kind::Count { min: 1, max: 100 }, "6", "records recalled at most"),
    key("memory.recall_budget_tokens", Kind::Count { min: 16, max: 1 << 20 }, "1024", "their tokens at most"),
    key("memory.recall_min_score", Kind::Count { min: 0, max: 100 }, "20", "least score of a recalled record, percent"),
    key(
        "memory.recall_timeout_s",
        Kind::Seconds { min: 0.01, max: 60.0 },
        "2",
        "a chat waits this long for its recall",
    ),
    key(
        "memory.remember",
        Kind::Choice(&["off", "session", "project"]),
        "off",
        "where a request that does not say is remembered",
    ),
    key(
        "memory.keys",
        Kind::Strings,
        "",
        "defaults of single API keys: \"NAME recall=auto remember=session domain=D project=P\"",
    ),
    key("memory.workers", Kind::Count { min: 1, max: 1024 }, "16", "operations that run at once"),
    key("memory.queue_limit", Kind::Count { min: 1, max: 1 << 20 }, "4096", "operations that may wait; past it: 429"),
    key("memory.ef_search", Kind::Count { min: 8, max: 1 << 14 }, "64", "candidates that the vector index keeps"),
    key("memory.ttl_code", TTL, "0", "how long code is kept; 0: until it is forgotten"),
    key("memory.ttl_knowledge", TTL, "0", "how long patterns and decisions are kept"),
    key("memory.ttl_conversation", TTL, "30d", "how long what was said is kept"),
    key("memory.ttl_document", TTL, "0", "how long documents are kept"),
    key("memory.ttl_workflow", TTL, "180d", "how long workflows are kept"),
    key("memory.cache_memory", Kind::Size { min: 0, max: 1 << 40 }, "96MiB", "budget of the caches; 0: off"),
    key("memory.cache_code", CACHED, "30m", "how long recalled code is cached"),
    key("memory.cache_knowledge", CACHED, "1h", "how long recalled knowledge, documents and workflows are cached"),
    key("memory.cache_conversation", CACHED, "5m", "how long recalled conversations are cached"),
    key(
        "memory.self_check_s",
        Kind::Seconds { min: 0.0, max: 86400.0 },
        "600",
        "time between recall self-checks; 0: none",
    ),
    key("memory.postgres_url", Kind::Secret, "", "postgres://user:password@host/database"),
    key("memory.postgres_url_file", Kind::Path, "", "a file that holds it"),
    key("memory.postgres_schema", Kind::Text, "engram", "schema that holds the tables; made if it is not there"),
    key("memory.postgres_pool", Kind::Count { min: 1, max: 1024 }, "8", "connections to PostgreSQL"),
    key("memory.qdrant_url", Kind::Text, "", "http://host:6333"),
    key("memory.qdrant_api_key", Kind::Secret, "", "its API key, where it wants one"),
    key("memory.qdrant_api_key_file", Kind::Path, "", "a file that holds it"),
    key("memory.redis_url", Kind::Secret, "", "redis://host:6379: a cache of recalls that servers share; unset: none"),
    key("memory.redis_url_file", Kind::Path, "", "a file that holds it"),
    key("routing.default", Kind::Text, "auto", "route of requests that name neither model nor route").live(),
    key("routing.fallback", Kind::Text, "", "route that is tried when nobody can serve a named model; unset: none is")
        .live(),
    key(
        "routing.spill_waiting",
        Kind::Count { min: 0, max: 1 << 20 },
        "8",
        "waiting sequences from which the engine here is asked last; 0: never",
    )
    .live(),
    key("routing.tasks", Kind::Strings, "", "route of a class of tasks under `auto`: \"chat=quality\"").live(),
    key("routing.max_cost_usd", DOLLARS, "0.05", "most that a request may cost; 0: no limit").live(),
    key("routing.key_day_usd", DOLLARS, "0", "most that an API key may cost a day; 0: no limit").live(),
    key("routing.key_month_usd", DOLLARS, "0", "most that an API key may cost a month; 0: no limit").live(),
    key(
        "routing.continue_mid_stream",
        Kind::Flag,
        "false",
        "a stream that breaks after its first token goes on at the next backend",
    )
    .live(),
    key("routing.retry_base_ms", Kind::Count { min: 1, max: 60_000 }, "100", "pause before the first retry, doubled")
        .live(),
    key("routing.retry_cap_ms", Kind::Count { min: 1, max: 600_000 }, "5000", "longest pause before a retry").live(),
    key(
        "routing.retry_budget_percent",
        Kind::Count { min: 0, max: 100 },
        "20",
        "retries at most, of the requests sent: a bad day is not multiplied",
    )
    .live(),
    key("routing.cache", Kind::Flag, "true", "equal deterministic requests are answered once").live(),
    key("routing.cache_ttl_s", Kind::Seconds { min: 1.0, max: 604_800.0 }, "300", "how long an answer is kept").live(),
    key("routing.cache_memory", Kind::Size { min: 1 << 20, max: 1 << 40 }, "64MiB", "budget of the kept answers")
        .live(),
    key("routing.semantic_cache", Kind::Flag, "false", "similar requests of a tenant are answered once too").live(),
    key("routing.semantic_threshold", Kind::Float { min: 0.5, max: 1.0 }, "0.95", "cosine from which they are similar")
        .live(),
    key("tls.cert_file", Kind::Path, "", "the certificate with its chain, PEM; unset: HTTP without TLS").live(),
    key("tls.key_file", Kind::Path, "", "its private key, PEM").live(),
    key("tls.handshake_timeout_s", Kind::Seconds { min: 0.1, max: 300.0 }, "10", "time a client has for its handshake")
        .live(),
    key("admin.host", Kind::Host, "", "address of metrics and admin routes; unset: beside the API on loopback"),
    key("admin.port", Kind::Port, "", "their port; unset: the API's on loopback, else the one after it"),
    key("trace.otlp_endpoint", Kind::Url, "", "where spans go by OTLP over HTTP (http://host:4318); unset: nowhere"),
    key("trace.otlp_headers", Kind::Headers, "", "headers sent there: \"authorization: Bearer KEY\""),
    key("trace.otlp_headers_file", Kind::Path, "", "a file of such headers, one a line"),
    key("trace.sample_percent", Kind::Float { min: 0.0, max: 100.0 }, "100", "traces begun here that are sent"),
];

/// An amount of money.
pub(super) const DOLLARS: Kind = Kind::Float { min: 0.0, max: 1e6 };

/// Ten years and less.
const TTL: Kind = Kind::Seconds { min: 0.0, max: 315_360_000.0 };
const CACHED: Kind = Kind::Seconds { min: 0.0, max: 86400.0 };
