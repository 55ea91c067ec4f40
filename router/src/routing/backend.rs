//! A remote backend with what is known of it now: its breakers, its bulkhead, its health, its models.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::breaker::{Breaker, BreakerSettings};
use crate::bulkhead::{Bulkhead, BulkheadSettings};
use crate::config::{self, BackendConfig, BackendKind, PortkeyConfig};
use crate::remote::{Failure, PortkeySettings, Remote, RemoteError, RemoteKind, RemoteSettings};

/// Failed probes in a row after which a backend counts as down.
const PROBES_DOWN: u32 = 2;
/// Breakers of single models that are kept at most; a client cannot name more models into being.
const MAX_MODELS: usize = 1024;

/// One remote backend.
pub struct Backend {
    config: BackendConfig,
    remote: Remote,
    breaker: Breaker,
    /// Of each model that was asked of it: one broken model must not shut out the others.
    models: Mutex<HashMap<String, Breaker>>,
    bulkhead: Bulkhead,
    health: Health,
}

/// What the active check last saw.
#[derive(Default)]
struct Health {
    down: AtomicBool,
    failed_probes: AtomicU32,
    probe_micros: AtomicU64,
    /// Since when it is up, for slow start.
    up_since: Mutex<Option<Instant>>,
    last_error: Mutex<Option<String>>,
    discovered: RwLock<Vec<String>>,
    /// It is another Engram, which takes our extensions.
    engram: AtomicBool,
}

impl Backend {
    /// A backend that nobody has asked yet: taken to be up until a probe says otherwise.
    pub fn new(config: &BackendConfig) -> Result<Self, RemoteError> {
        let remote = Remote::new(remote_settings(config))?;
        Ok(Self {
            remote,
            breaker: Breaker::new(breaker_settings(config)),
            models: Mutex::default(),
            bulkhead: Bulkhead::new(BulkheadSettings {
                max_in_flight: config.max_in_flight,
                ..BulkheadSettings::default()
            }),
            health: Health::default(),
            config: config.clone(),
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether it is somebody else's machine: peers are one's own.
    pub fn is_hosted(&self) -> bool {
        self.config.kind != BackendKind::Peer
    }

    /// Whether these are its settings.
    pub fn is(&self, config: &BackendConfig) -> bool {
        self.config == *config
    }

    /// Its settings.
    pub fn config(&self) -> &BackendConfig {
        &self.config
    }

    /// The way to it.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// How many requests it may have at once, and has.
    pub fn bulkhead(&self) -> &Bulkhead {
        &self.bulkhead
    }

    /// The breaker of the whole backend.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The breaker of one of its models; `None` past the bound, where the backend's own has to do.
    pub fn breaker_of(&self, model: &str) -> Option<Breaker> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(breaker) = models.get(model) {
            return Some(breaker.clone());
        }
        if models.len() >= MAX_MODELS {
            return None;
        }
        let breaker = Breaker::new(breaker_settings(&self.config));
        models.insert(model.to_owned(), breaker.clone());
        Some(breaker)
    }

    /// Closes all its breakers.
    pub fn reset(&self, now: Instant) {
        self.breaker.reset(now);
        for breaker in self.models.lock().unwrap_or_else(PoisonError::into_inner).values() {
            breaker.reset(now);
        }
    }

    /// The name by which it knows `model`, if it is known to have it.
    pub fn serves(&self, model: &str) -> Option<String> {
        let same = |known: &&String| known.eq_ignore_ascii_case(model);
        if !self.config.models.is_empty() {
            return self.config.models.iter().find(same).cloned();
        }
        let discovered = self.health.discovered.read().unwrap_or_else(PoisonError::into_inner);
        discovered.iter().find(same).cloned()
    }

    /// Its models, as far as they are known.
    pub fn models(&self) -> Vec<String> {
        if !self.config.models.is_empty() {
            return self.config.models.clone();
        }
        self.health.discovered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first of its models.
    pub fn first_model(&self) -> Option<String> {
        self.models().into_iter().next()
    }

    /// Whether it takes Engram's extensions.
    pub fn is_engram(&self) -> bool {
        self.health.engram.load(Ordering::Relaxed)
    }

    /// Whether the last probes reached it.
    pub fn is_up(&self) -> bool {
        !self.health.down.load(Ordering::Relaxed)
    }

    /// Since when it is up again; `None`: it was never seen down.
    pub fn up_since(&self) -> Option<Instant> {
        *self.health.up_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks how it is, and after a success from time to time which models it has.
    pub async fn probe(&self, discover: bool) {
        match self.remote.probe().await {
            Ok(took) => {
                self.note_up(took);
                if discover || self.needs_discovery() {
                    self.discover().await;
                }
            }
            Err(failure) => self.note_down(&failure),
        }
    }

    fn needs_discovery(&self) -> bool {
        self.config.models.is_empty()
            && self.health.discovered.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    async fn discover(&self) {
        let health = &self.health;
        match self.remote.models().await {
            Ok(listed) => {
                // A gateway before an Engram drops what is not OpenAI's: only a peer hears our extensions.
                let engram = !self.is_hosted() && listed.iter().any(|model| model.owned_by == "engram");
                health.engram.store(engram, Ordering::Relaxed);
                *health.discovered.write().unwrap_or_else(PoisonError::into_inner) =
                    listed.into_iter().map(|model| model.id).collect();
            }
            Err(failure) => {
                tracing::debug!(backend = self.name(), error = %failure, "its models could not be listed");
            }
        }
    }

    fn note_up(&self, took: Duration) {
        let health = &self.health;
        health.failed_probes.store(0, Ordering::Relaxed);
        health.probe_micros.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        *health.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if health.down.swap(false, Ordering::Relaxed) {
            *health.up_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            tracing::info!(backend = self.name(), "up again");
        }
    }

    fn note_down(&self, failure: &Failure) {
        let health = &self.health;
        *health.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.message.clone());
        let failed = health.failed_probes.fetch_add(1, Ordering::Relaxed) + 1;
        if failed >= PROBES_DOWN && !health.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(backend = self.name(), error = %failure, "down");
        }
    }

    /// For `/v1/admin/backends`.
    pub fn describe(&self, now: Instant) -> Value {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let models: serde_json::Map<String, Value> =
            models.iter().map(|(name, breaker)| (name.clone(), describe_breaker(breaker, now))).collect();
        json!({
            "name": self.name(),
            "kind": kind_name(&self.config.kind),
            "hosted": self.is_hosted(),
            "url": self.config.url,
            "up": self.is_up(),
            "engram": self.is_engram(),
            "last_error": *self.health.last_error.lock().unwrap_or_else(PoisonError::into_inner),
            "probe_ms": self.health.probe_micros.load(Ordering::Relaxed) as f64 / 1e3,
            "models": self.models(),
            "in_flight": self.bulkhead.in_flight(),
            "max_in_flight": self.config.max_in_flight,
            "breaker": describe_breaker(&self.breaker, now),
            "model_breakers": models,
        })
    }
}

fn breaker_settings(config: &BackendConfig) -> BreakerSettings {
    BreakerSettings {
        failures: config.breaker.failures,
        error_percent: u32::from(config.breaker.error_percent),
        window: config.breaker.window,
        open: config.breaker.open,
        slow_call: config.breaker.slow_call,
        ..BreakerSettings::default()
    }
}

fn kind_name(kind: &BackendKind) -> &'static str {
    match kind {
        BackendKind::Peer => "peer",
        BackendKind::Portkey(_) => "portkey",
        BackendKind::OpenAiCompatible => "openai_compatible",
    }
}

fn describe_breaker(breaker: &Breaker, now: Instant) -> Value {
    let view = breaker.view(now);
    json!({
        "state": view.state.as_str(),
        "since_s": view.since.as_secs_f64(),
        "retry_in_s": view.retry_in.map(|wait| wait.as_secs_f64()),
        "failures_in_a_row": view.in_a_row,
        "calls": view.calls,
        "failures": view.failures,
        "opened": view.opened,
        "why": view.trip.map(|trip| trip.to_string()),
    })
}

fn remote_settings(config: &BackendConfig) -> RemoteSettings {
    let (kind, portkey) = match &config.kind {
        BackendKind::Peer => (RemoteKind::Peer, PortkeySettings::default()),
        BackendKind::OpenAiCompatible => (RemoteKind::OpenAiCompatible, PortkeySettings::default()),
        BackendKind::Portkey(portkey) => (RemoteKind::Portkey, portkey_settings(portkey)),
    };
    let header = |(name, value): &(axum::http::HeaderName, config::Secret)| format!("{name}: {}", value.expose());
    RemoteSettings {
        api_key: config.api_key.clone(),
        headers: config.headers.iter().map(header).collect(),
        ca_file: config.ca_file.clone(),
        connect_timeout: config.connect_timeout,
        first_token_timeout: config.first_token_timeout,
        idle_timeout: config.idle_timeout,
        timeout: config.timeout,
        max_in_flight: config.max_in_flight,
        portkey,
        ..RemoteSettings::new(&config.name, kind, &config.url)
    }
}

fn portkey_settings(portkey: &PortkeyConfig) -> PortkeySettings {
    PortkeySettings {
        api_key: portkey.api_key.clone(),
        provider: portkey.provider.clone(),
        config: portkey.config.as_ref().map(|config| config.expose().to_owned()),
        virtual_key: portkey.virtual_key.clone(),
        custom_host: portkey.custom_host.clone(),
        metadata: portkey.metadata.clone(),
        retries: u32::from(portkey.retries.unwrap_or(0)),
        cache: portkey.cache,
    }
}
