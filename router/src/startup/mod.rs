//! From a configuration to a server that answers, and from a signal to its end.
//!
//! The order is chosen so that what can fail fast does: the address is taken first (but nobody is
//! accepted yet), then files are fetched, weights and tokenizer loaded side by side, and the engine
//! started, which proves the model by one pass. Only then the port listens. A node without a model
//! (`model.name = "none"`) has nothing to load: its backends answer.

mod bind;
mod device;
mod doors;
mod load;
mod local;
mod memory;
mod ready;
mod reloading;
mod signals;
mod threads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use engram_benches::machine::Machine;
use engram_inference::EngineConfig;
use engram_models::pull::PullOptions;
use engram_models::pull::progress;

use crate::answer::QuestionEncoder;
use crate::app::AppState;
use crate::auth::{ApiKeys, KeyStore, Scope, Scopes, Tenant};
use crate::backend::{Encoders, Models};
use crate::config::{Config, Resolved, Secret};
use crate::limits::HttpSettings;
use crate::logging::LogLevel;
use crate::metrics::Metrics;
use crate::routing::Routing;
use crate::spend::Spend;
use crate::tls::Tls;
use crate::trace::Tracer;
use doors::Addresses;

use load::Loaded;
pub use load::{Weights, load_weights};
pub use local::{LocalServer, start_local, start_memory};
pub use memory::{embedded_config, encoder};
pub use reloading::ReadAgain;
pub use threads::use_threads;

/// Certificate files are looked at this often.
const FOLLOW_FILES: Duration = Duration::from_secs(5);

/// Runs `engram serve` until a signal ends it; at SIGHUP it reads its configuration again.
pub fn run(resolved: Resolved, read: ReadAgain, level: LogLevel) -> anyhow::Result<()> {
    let config = &resolved.config;
    let addresses = Addresses::find(config)?;
    let keys = all_keys(config, &addresses)?;
    for ip in addresses.ips() {
        crate::auth::check_bind(ip, &keys, config.server.insecure_no_auth)?;
    }
    data_dir(config)?;
    let tls = config.tls.as_ref().map(Tls::new).transpose()?;
    let tracer = config.trace.as_ref().map(Tracer::start).transpose()?.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let serving = Serving { keys, addresses, tls, tracer: tracer.clone(), read, level };
    let result = runtime.block_on(serve(resolved, serving));
    // A file read that still blocks somewhere must not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracer.stop();
    result
}

/// What was made from the configuration before anything was loaded.
struct Serving {
    keys: ApiKeys,
    addresses: Addresses,
    tls: Option<Tls>,
    tracer: Tracer,
    read: ReadAgain,
    level: LogLevel,
}

async fn serve(resolved: Resolved, serving: Serving) -> anyhow::Result<()> {
    let begun = Instant::now();
    let Serving { keys, addresses, tls, tracer, read, level } = serving;
    let config = resolved.config.clone();
    let taken = addresses.take()?;
    let metrics = Arc::new(Metrics::new()?);
    let loaded = match config.model.is_none() {
        true => None,
        false => {
            let (loading, observers) = (config.clone(), Arc::clone(&metrics));
            Some(tokio::task::spawn_blocking(move || load::load(&loading, &observers, true)).await??)
        }
    };
    let (served, local) = loaded.map(Loaded::part).unzip();

    let encoders = Encoders::new(&config.memory.encoder, pull_options(&config, false));
    encoders.start();
    let memory = memory::start(&config, encoders.clone(), Arc::clone(&metrics));
    let routing = routing(&config, &metrics)?;
    routing.compare_by(Arc::new(QuestionEncoder::new(encoders.clone())));
    let models = Models::new(served).with_encoders(encoders);
    // The first requests are to find models; a backend that does not answer is found to be down.
    routing.discover().await;
    routing.watch();
    let state = AppState::new(models, keys.clone(), http_settings(&config), metrics, memory.clone(), routing);
    state.flags().replace(&config.flags);
    state.trace_by(tracer);
    let reloader = reloading::reloader(resolved, read, &state, &keys, tls.as_ref(), level);
    tokio::spawn(signals::on_hangup(move || reloader.reload_and_tell())?);
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.follow_files(FOLLOW_FILES).await });
    }
    let doors = taken.listen(&config, tls.as_ref())?;
    let address = doors.api;
    let stop = signals::stop()?;
    let ready = ready::Ready {
        address,
        admin: doors.admin,
        local: local.as_ref(),
        backends: config.routing.backends.len(),
        config: &config,
        keys: keys.count(),
        open: keys.is_open(),
        machine: &Machine::detect(),
        took: begun.elapsed(),
    };
    // Where nobody reads standard output, serving goes on all the same.
    if let Err(error) = crate::cli::print(&ready.text(&config.server.host)) {
        tracing::warn!("the ready line could not be printed: {error}");
    }
    tracing::info!(%address, model = local.as_ref().map(|local| &local.id), elapsed = ?begun.elapsed(), "ready");

    crate::serve_doors(doors.all, state, stop).await;
    memory.close();
    // Its streams have ended by now; this ends its thread, and gives its memory back in order.
    let cut_off = match &local {
        Some(local) => local.engine.drain_async(Instant::now()).await?.cut_off,
        None => 0,
    };
    tracing::info!(cut_off, "stopped");
    Ok(())
}

/// The router, with what keys have spent so far.
fn routing(config: &Config, metrics: &Metrics) -> anyhow::Result<Routing> {
    let spend = Spend::open(&config.server.data_dir.join("spend")).context("what API keys have spent")?;
    Ok(Routing::new(config.routing.clone(), spend, metrics.routing().clone())?)
}

/// The configured keys and those of the store in the data directory.
fn all_keys(config: &Config, addresses: &Addresses) -> anyhow::Result<ApiKeys> {
    // Where anyone may ask, not anyone may administer: the first key made over the network would shut its owner out.
    let strangers = match addresses.ips().all(crate::auth::is_loopback) {
        true => Scopes::ALL,
        false => Scopes::ALL.without(Scope::Admin),
    };
    Ok(api_keys(config)?.with_store(KeyStore::in_dir(&config.server.data_dir), strangers)?)
}

/// The configured keys, checked.
fn api_keys(config: &Config) -> anyhow::Result<ApiKeys> {
    ApiKeys::new(config.server.api_keys.iter().map(Secret::expose)).context("`server.api_keys`")
}

/// The tenant of this name, or of the first configured key: whose memory a command on this machine means.
pub fn tenant(config: &Config, named: Option<&str>) -> anyhow::Result<Tenant> {
    Ok(match named {
        Some(name) => Tenant::named(name),
        None => api_keys(config)?.first().unwrap_or_else(Tenant::anonymous),
    })
}

/// Makes the data directory, and says so now if it cannot be written.
fn data_dir(config: &Config) -> anyhow::Result<()> {
    let dir = &config.server.data_dir;
    let told = || format!("`server.data_dir`: {} cannot be used; name another with --data-dir", dir.display());
    std::fs::create_dir_all(dir).with_context(told)?;
    Ok(())
}

/// What the HTTP side is told.
fn http_settings(config: &Config) -> HttpSettings {
    HttpSettings {
        body_limit: usize::try_from(config.server.body_limit_bytes).unwrap_or(usize::MAX),
        header_timeout: config.server.header_timeout,
        request_timeout: config.server.request_timeout,
        drain_deadline: config.server.drain_deadline,
        max_connections: config.server.max_connections,
        cors_origins: config.server.cors_origins.clone(),
        ..HttpSettings::default()
    }
}

/// What the engine is told.
pub fn engine_config(config: &Config) -> EngineConfig {
    let engine = &config.engine;
    EngineConfig {
        max_num_seqs: engine.max_num_seqs,
        max_batch_tokens: engine.max_batch_tokens,
        max_prefill_chunk: engine.max_batch_tokens,
        max_itl: engine.max_itl,
        block_size: engine.block_size,
        kv_bytes: usize::try_from(engine.kv_memory).unwrap_or(usize::MAX),
        kv_dtype: engine.kv_dtype,
        queue_limit: engine.queue_limit,
        max_model_len: engine.max_model_len,
        prefix_cache: engine.prefix_cache,
        ..EngineConfig::default()
    }
}

/// Where models are fetched from; progress on standard error if wanted.
pub fn pull_options(config: &Config, show_progress: bool) -> PullOptions {
    let mut options = PullOptions::from_env();
    options.home = config.models.home.clone();
    options.offline |= config.models.offline;
    options.revision = config.models.revision.clone();
    if show_progress {
        options.progress = progress::for_terminal();
    }
    options
}
