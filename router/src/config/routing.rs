//! `[routing]`, `[backends.NAME]`, `[catalog."NAME"]`: who can answer, at what price, within which bounds.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

use super::families::{BACKENDS, CATALOG};
use super::getter::Getter;
use super::routes::{self, RouteConfig};
use super::suggest::nearest;
use super::{ConfigError, Instance, Secret};

/// The engine in this process, among the backends.
pub const LOCAL: &str = "local";

/// What a backend speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendKind {
    /// Another Engram.
    Peer,
    /// A Portkey gateway.
    Portkey(PortkeyConfig),
    /// OpenAI's API.
    OpenAiCompatible,
}

/// What a Portkey gateway is told with each request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortkeyConfig {
    /// `x-portkey-api-key`; the backend's `api_key` is the provider's, and goes on to the provider.
    pub api_key: Option<Secret>,
    /// `x-portkey-provider`
    pub provider: Option<String>,
    /// `x-portkey-config`: an id, or a config as one line of JSON.
    pub config: Option<Secret>,
    /// `x-portkey-virtual-key`
    pub virtual_key: Option<Secret>,
    /// `x-portkey-custom-host`
    pub custom_host: Option<String>,
    /// `x-portkey-metadata`: a JSON object of strings, one line.
    pub metadata: Option<String>,
    /// Retries that the gateway makes; `None`: as its own config says.
    pub retries: Option<u8>,
    /// The gateway's own cache.
    pub cache: PortkeyCache,
}

/// The cache of a Portkey gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortkeyCache {
    /// None.
    #[default]
    Off,
    /// Equal requests.
    Simple,
    /// Similar requests; only the hosted gateway can.
    Semantic,
}

/// When a circuit breaker opens, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Failures within the window, of all calls, percent, that open it.
    pub error_percent: u8,
    /// That window.
    pub window: Duration,
    /// How long it stays open before a probe.
    pub open: Duration,
    /// A first token later than this is a failure; `None`: none is.
    pub slow_call: Option<Duration>,
}

/// `[backends.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendConfig {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub kind: BackendKind,
    /// Its address up to the version, without a slash at the end.
    pub url: String,
    /// Its key.
    pub api_key: Option<Secret>,
    /// What it serves; none: asked from its `/models`.
    pub models: Vec<String>,
    /// Headers sent along.
    pub headers: Vec<(HeaderName, Secret)>,
    /// One more root certificate to trust.
    pub ca_file: Option<PathBuf>,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time to the first token.
    pub first_token_timeout: Duration,
    /// Longest silence within a stream.
    pub idle_timeout: Duration,
    /// Longest that one attempt may take.
    pub timeout: Duration,
    /// Requests there at once.
    pub max_in_flight: usize,
    /// Time between health checks; `None`: there are none.
    pub health_interval: Option<Duration>,
    /// Attempts for what may heal.
    pub tries: u32,
    /// Its breaker.
    pub breaker: BreakerConfig,
}

/// USD a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelPrice {
    /// Of the prompt.
    pub input: f64,
    /// Of the prompt, where the model's cache held them.
    pub cached: f64,
    /// Of the answer.
    pub output: f64,
}

/// `[catalog."NAME"]`
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogModel {
    /// What clients and routes call it.
    pub name: String,
    /// What it costs; `None`: nobody said.
    pub price: Option<ModelPrice>,
    /// Longest prompt and answer together, tokens.
    pub context: Option<usize>,
    /// Which backends have it, the best first; none: those that list it. `local` is the engine in this process.
    pub backends: Vec<String>,
    /// Its name there.
    pub upstream: String,
    /// What it is good at.
    pub strengths: Vec<String>,
    /// Goes on from a trailing assistant message.
    pub continues: bool,
}

/// `[routing]` and its tables.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingConfig {
    /// Who else can answer; the engine in this process is not among them.
    pub backends: Vec<BackendConfig>,
    /// Models as data.
    pub catalog: Vec<CatalogModel>,
    /// Preferences that requests can name.
    pub routes: Vec<RouteConfig>,
    /// Route of requests that name neither model nor route.
    pub default: String,
    /// Route whose models are asked after a named model that nobody could serve; `None`: no other model is.
    pub fallback: Option<String>,
    /// Waiting sequences from which the engine here is asked after others that have the model; 0: never.
    pub spill_waiting: usize,
    /// Classes of tasks ([`TASKS`](Self::TASKS)) and their routes.
    pub tasks: Vec<(String, String)>,
    /// Most that a request may cost, USD.
    pub max_cost_usd: Option<f64>,
    /// Most that an API key may cost a day, USD.
    pub key_day_usd: Option<f64>,
    /// Most that an API key may cost a month, USD.
    pub key_month_usd: Option<f64>,
    /// A stream that breaks after its first token goes on at the next backend.
    pub continue_mid_stream: bool,
    /// Pause before the first retry; it doubles.
    pub retry_base: Duration,
    /// Longest pause before a retry.
    pub retry_cap: Duration,
    /// Retries at most, percent of the requests sent.
    pub retry_budget_percent: u8,
    /// Equal deterministic requests are answered once.
    pub cache: bool,
    /// How long an answer is kept.
    pub cache_ttl: Duration,
    /// Budget of the kept answers, bytes.
    pub cache_bytes: u64,
    /// Similar requests of a tenant are answered once too.
    pub semantic_cache: bool,
    /// Cosine from which they are similar.
    pub semantic_threshold: f32,
}

impl RoutingConfig {
    /// The classes of tasks.
    pub const TASKS: [&'static str; 3] = ["chat", "completion", "embedding"];

    /// The same with the engine in this process alone.
    pub fn without_backends(self) -> Self {
        let (backends, catalog, routes) = (Vec::new(), Vec::new(), Vec::new());
        Self { backends, catalog, routes, tasks: Vec::new(), fallback: None, default: "auto".into(), ..self }
    }

    /// The model of this name.
    pub fn model(&self, name: &str) -> Option<&CatalogModel> {
        self.catalog.iter().find(|model| model.name == name)
    }

    /// The backend of this name.
    pub fn backend(&self, name: &str) -> Option<&BackendConfig> {
        self.backends.iter().find(|backend| backend.name == name)
    }

    /// The route of this name; those that need no table (`auto`, `local_only`, `hosted_only`) are not here.
    pub fn route(&self, name: &str) -> Option<&RouteConfig> {
        self.routes.iter().find(|route| route.name == name)
    }
}

/// Reads the section and its tables, and checks them against each other.
pub(super) fn build(get: &Getter<'_>, tables: &[Instance], errors: &mut Vec<ConfigError>) -> RoutingConfig {
    let backends = build_each(tables, BACKENDS.name, errors, backend);
    let catalog = build_each(tables, CATALOG.name, errors, |get, name, errors| {
        let model = model(get, name, errors);
        check_backends(get, &model, &backends, errors);
        model
    });
    let local_model = get.text("model.name");
    let served = backends.iter().flat_map(|backend| backend.models.iter());
    let known = catalog.iter().map(|model| &model.name).chain(served).chain([&local_model]);
    let known = known.map(String::as_str).collect();
    let routes = routes::build(tables, &known, errors);
    let limit = |name: &str| Some(get.float(name)).filter(|dollars| *dollars > 0.0);
    let retry = |name: &str| Duration::from_millis(get.number(name));
    let config = RoutingConfig {
        default: routes::named(get, "routing.default", &get.text("routing.default"), &routes, errors),
        fallback: get
            .optional_text("routing.fallback")
            .map(|name| routes::named(get, "routing.fallback", &name, &routes, errors)),
        spill_waiting: get.number("routing.spill_waiting") as usize,
        tasks: routes::tasks(get, &routes, errors),
        max_cost_usd: limit("routing.max_cost_usd"),
        key_day_usd: limit("routing.key_day_usd"),
        key_month_usd: limit("routing.key_month_usd"),
        continue_mid_stream: get.flag("routing.continue_mid_stream"),
        retry_base: retry("routing.retry_base_ms"),
        retry_cap: retry("routing.retry_cap_ms"),
        retry_budget_percent: get.number("routing.retry_budget_percent") as u8,
        cache: get.flag("routing.cache"),
        cache_ttl: get.seconds("routing.cache_ttl_s"),
        cache_bytes: get.number("routing.cache_memory"),
        semantic_cache: get.flag("routing.semantic_cache"),
        semantic_threshold: get.float("routing.semantic_threshold") as f32,
        backends,
        catalog,
        routes,
    };
    if config.retry_base > config.retry_cap {
        let (base, cap) = (config.retry_base.as_millis(), config.retry_cap.as_millis());
        errors.push(
            get.bad("routing.retry_cap_ms", format!("{cap} is less than `routing.retry_base_ms` ({base}); raise it")),
        );
    }
    config
}

fn build_each<T>(
    tables: &[Instance],
    family: &str,
    errors: &mut Vec<ConfigError>,
    build: impl Fn(&Getter<'_>, &str, &mut Vec<ConfigError>) -> T,
) -> Vec<T> {
    let mut built = Vec::new();
    for table in tables.iter().filter(|table| table.family.name == family) {
        let get = Getter::of_table(table, errors);
        built.push(build(&get, &table.name, errors));
    }
    built
}

fn backend(get: &Getter<'_>, name: &str, errors: &mut Vec<ConfigError>) -> BackendConfig {
    let kind = kind(get, errors);
    if get.optional_text("url").is_none() {
        let example =
            if matches!(kind, BackendKind::Portkey(_)) { "https://api.portkey.ai/v1" } else { "http://host/v1" };
        errors.push(get.bad("url", format!("is unset; write url = {example:?}")));
    }
    let api_key = sendable(get, "api_key", errors);
    let headers = get.headers("headers");
    if api_key.is_some()
        && kind == BackendKind::OpenAiCompatible
        && headers.iter().any(|(name, _)| name == "authorization")
    {
        errors.push(get.bad("headers", "hold `authorization`, which `api_key` makes; leave one out".into()));
    }
    BackendConfig {
        name: name.to_owned(),
        kind,
        url: get.text("url"),
        api_key,
        models: get.strings("models"),
        headers,
        ca_file: get.path("ca_file"),
        connect_timeout: get.seconds("connect_timeout_s"),
        first_token_timeout: get.seconds("first_token_timeout_s"),
        idle_timeout: get.seconds("idle_timeout_s"),
        timeout: get.seconds("timeout_s"),
        max_in_flight: get.number("max_in_flight") as usize,
        health_interval: Some(get.seconds("health_interval_s")).filter(|time| !time.is_zero()),
        tries: get.number("tries") as u32,
        breaker: BreakerConfig {
            failures: get.number("breaker_failures") as u32,
            error_percent: get.number("breaker_error_percent") as u8,
            window: get.seconds("breaker_window_s"),
            open: get.seconds("breaker_open_s"),
            slow_call: Some(get.seconds("slow_call_s")).filter(|time| !time.is_zero()),
        },
    }
}

fn kind(get: &Getter<'_>, errors: &mut Vec<ConfigError>) -> BackendKind {
    match get.text("kind").as_str() {
        "portkey" => return BackendKind::Portkey(portkey(get, errors)),
        "" => {
            errors.push(get.bad("kind", "is unset; write peer, portkey or openai_compatible".into()));
            return BackendKind::OpenAiCompatible;
        }
        _ => {}
    }
    let own = BACKENDS.keys.iter().map(|key| key.name).filter(|name| name.starts_with("portkey_"));
    for key in own.filter(|name| get.is_set(name)) {
        errors.push(get.bad(key, "is for `kind = \"portkey\"` only; leave it out, or change the kind".into()));
    }
    if get.text("kind") == "peer" { BackendKind::Peer } else { BackendKind::OpenAiCompatible }
}

fn portkey(get: &Getter<'_>, errors: &mut Vec<ConfigError>) -> PortkeyConfig {
    PortkeyConfig {
        api_key: sendable(get, "portkey_api_key", errors),
        provider: get.optional_text("portkey_provider"),
        config: get.secret("portkey_config").and_then(|config| match one_line(config.expose()) {
            Ok(line) => Some(Secret::new(line)),
            Err(problem) => {
                errors.push(get.bad("portkey_config", problem));
                None
            }
        }),
        virtual_key: sendable(get, "portkey_virtual_key", errors),
        custom_host: get.optional_text("portkey_custom_host"),
        metadata: get.optional_text("portkey_metadata").and_then(|metadata| one_line(&metadata).ok()),
        retries: get.optional_number("portkey_retries").map(|retries| retries as u8),
        cache: match get.text("portkey_cache").as_str() {
            "simple" => PortkeyCache::Simple,
            "semantic" => PortkeyCache::Semantic,
            _ => PortkeyCache::Off,
        },
    }
}

/// JSON as a header carries it: on one line, in ASCII. An id is left as it is.
fn one_line(text: &str) -> Result<String, String> {
    if !text.starts_with('{') {
        let id = text.bytes().all(|byte| byte.is_ascii_graphic());
        return if id { Ok(text.to_owned()) } else { Err("is neither an id nor a JSON object".into()) };
    }
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON at line {} of it", error.line()))?;
    let mut line = String::new();
    for unit in value.to_string().encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => line.push(char::from(byte)),
            _ => line.push_str(&format!("\\u{unit:04x}")),
        }
    }
    Ok(line)
}

/// A secret that a header must be able to carry.
fn sendable(get: &Getter<'_>, name: &str, errors: &mut Vec<ConfigError>) -> Option<Secret> {
    let secret = get.secret(name)?;
    if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) || HeaderValue::from_str(secret.expose()).is_err() {
        errors
            .push(get.bad(name, "holds a character that no header can carry; use visible ASCII without spaces".into()));
    }
    Some(secret)
}

fn model(get: &Getter<'_>, name: &str, errors: &mut Vec<ConfigError>) -> CatalogModel {
    let dollars = |key: &str| get.optional_float(key);
    let price = match (dollars("input"), dollars("output")) {
        (Some(input), Some(output)) => Some(ModelPrice { input, output, cached: dollars("cached").unwrap_or(input) }),
        (None, None) if dollars("cached").is_none() => None,
        (input, _) => {
            let missing = if input.is_none() { "input" } else { "output" };
            errors
                .push(get.bad(missing, "is unset: a budget needs the whole price; write `input` and `output`".into()));
            None
        }
    };
    CatalogModel {
        name: name.to_owned(),
        price,
        context: get.optional_number("context"),
        backends: get.strings("backends"),
        upstream: get.optional_text("upstream").unwrap_or_else(|| name.to_owned()),
        strengths: get.strings("strengths"),
        continues: get.flag("continues"),
    }
}

fn check_backends(get: &Getter<'_>, model: &CatalogModel, backends: &[BackendConfig], errors: &mut Vec<ConfigError>) {
    let names = || backends.iter().map(|backend| backend.name.as_str()).chain([LOCAL]);
    for (index, name) in model.backends.iter().enumerate() {
        if model.backends[..index].contains(name) {
            errors.push(get.bad("backends", format!("name {name:?} twice; leave one out")));
        } else if !names().any(|known| known == name) {
            let cure = match nearest(name, names()) {
                Some(nearest) => format!("did you mean {nearest:?}?"),
                None => format!("add [backends.{name}], or leave it out"),
            };
            let name = super::suggest::shorten(name);
            errors.push(get.bad("backends", format!("name {name:?}, which is no backend; {cure}")));
        }
    }
}
