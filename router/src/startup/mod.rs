//! From a configuration to a server that answers, and from a signal to its end.
//!
//! The order is chosen so that what can fail fast does: the address is taken first (but nobody is
//! accepted yet), then files are fetched, weights and tokenizer loaded side by side, and the engine
//! started, which proves the model by one pass. Only then the port listens.

mod bind;
mod device;
mod load;
mod local;
mod memory;
mod ready;
mod signals;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use engram_benches::machine::Machine;
use engram_inference::EngineConfig;
use engram_models::pull::PullOptions;
use engram_models::pull::progress;

use crate::app::AppState;
use crate::auth::{ApiKeys, KeyStore, Scope, Scopes, Tenant};
use crate::backend::{Encoders, Models};
use crate::config::{Config, Secret};
use crate::limits::HttpSettings;
use crate::metrics::Metrics;

pub use load::{Weights, load_weights};
pub use local::{LocalServer, start_local, start_memory};
pub use memory::{embedded_config, encoder};
pub use threads::use_threads;

/// Runs `engram serve` until a signal ends it.
pub fn run(config: Config) -> anyhow::Result<()> {
    let addresses = bind::addresses(&config.server.host, config.server.port)?;
    let keys = all_keys(&config, &addresses)?;
    for address in &addresses {
        crate::auth::check_bind(address.ip(), &keys, config.server.insecure_no_auth)?;
    }
    data_dir(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config, keys, &addresses));
    // A file read that still blocks somewhere must not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: Config, keys: ApiKeys, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let begun = Instant::now();
    let socket = bind::take(addresses)?;
    let metrics = Arc::new(Metrics::new()?);
    let loading = config.clone();
    let observers = Arc::clone(&metrics);
    let loaded = tokio::task::spawn_blocking(move || load::load(&loading, &observers, true)).await??;

    let engine = loaded.served.engine.clone();
    let id = loaded.served.id.clone();
    let encoders = Encoders::new(&config.memory.encoder, pull_options(&config, false));
    encoders.start();
    let memory = memory::start(&config, encoders.clone(), Arc::clone(&metrics));
    let models = Models::new([loaded.served]).with_encoders(encoders);
    let state = AppState::new(models, keys.clone(), http_settings(&config), metrics, memory.clone());
    let listener = bind::listen(socket)?;
    let address = listener.local_addr()?;
    let stop = signals::stop()?;
    let ready = ready::Ready {
        address,
        model: &id,
        source: &loaded.source,
        bytes: loaded.bytes,
        config: &config,
        keys: keys.count(),
        open: keys.is_open(),
        engine: &engine,
        machine: &Machine::detect(),
        device: &loaded.device,
        took: begun.elapsed(),
    };
    // Where nobody reads standard output, serving goes on all the same.
    if let Err(error) = crate::cli::print(&ready.text(&config.server.host)) {
        tracing::warn!("the ready line could not be printed: {error}");
    }
    tracing::info!(%address, model = %id, elapsed = ?begun.elapsed(), "ready");

    crate::serve(listener, state, stop).await;
    memory.close();
    // Its streams have ended by now; this ends its thread, and gives its memory back in order.
    let drained = engine.drain_async(Instant::now()).await?;
    tracing::info!(cut_off = drained.cut_off, "stopped");
    Ok(())
}

/// The configured keys and those of the store in the data directory.
fn all_keys(config: &Config, addresses: &[SocketAddr]) -> anyhow::Result<ApiKeys> {
    // Where anyone may ask, not anyone may administer: the first key made over the network would shut its owner out.
    let strangers = match addresses.iter().all(|address| crate::auth::is_loopback(address.ip())) {
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
