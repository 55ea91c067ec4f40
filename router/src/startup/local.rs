//! A server inside a command: what `engram chat` and `engram complete` ask where none runs.
//!
//! It is the same server on a free port of loopback, so a command has one way to ask, not two. A key
//! made for the occasion keeps other users of the machine out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{bind, http_settings, load};
use crate::app::AppState;
use crate::auth::ApiKeys;
use crate::backend::{Encoders, Models};
use crate::config::{Config, Secret};
use crate::memory::MemoryService;
use crate::metrics::Metrics;
use crate::routing::Routing;
use crate::spend::Spend;

/// The running server; it ends with [`LocalServer::stop`].
pub struct LocalServer {
    /// Where it listens.
    pub url: String,
    /// The key it asks for.
    pub key: Secret,
    /// The model's id.
    pub model: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Loads the configured model and serves it on loopback.
pub async fn start_local(mut config: Config) -> anyhow::Result<LocalServer> {
    config.server.drain_deadline = Duration::ZERO;
    let key = Secret::new(format!("local-{}", uuid::Uuid::new_v4().simple()));
    let keys = ApiKeys::new([key.expose()])?;
    let metrics = Arc::new(Metrics::new()?);
    let loading = config.clone();
    let observers = Arc::clone(&metrics);
    let loaded = tokio::task::spawn_blocking(move || load::load(&loading, &observers, true))
        .await
        .context("loading the model failed")??;
    let model = loaded.served.id.clone();
    let listener = bind::listen(bind::take(&[SocketAddr::from(([127, 0, 0, 1], 0))])?)?;
    let url = format!("http://{}", listener.local_addr()?);
    // A command that asks once remembers nothing, and must not hold the memory that a server may want.
    config.memory.enabled = false;
    let memory = MemoryService::new(config.memory.clone(), Arc::clone(&metrics));
    let routing = alone(&config, &metrics)?;
    let state = AppState::new(Models::new([loaded.served]), keys, http_settings(&config), metrics, memory, routing);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(crate::serve(listener, state, async {
        let _ = stopped.await;
    }));
    Ok(LocalServer { url, key, model, stop, task })
}

/// Opens the configured memory and serves it, without a model, on loopback to the tenant of this name, or of the
/// first configured key.
pub async fn start_memory(mut config: Config, tenant: Option<&str>) -> anyhow::Result<LocalServer> {
    config.server.drain_deadline = Duration::ZERO;
    let tenant = super::tenant(&config, tenant)?;
    let key = Secret::new(format!("local-{}", uuid::Uuid::new_v4().simple()));
    let keys = ApiKeys::of(key.expose(), tenant);
    let metrics = Arc::new(Metrics::new()?);
    let memory = MemoryService::new(config.memory.clone(), Arc::clone(&metrics));
    let (opening, counting) = (config.clone(), Arc::clone(&metrics));
    let opened = tokio::task::spawn_blocking(move || {
        let encoders = Encoders::new(&opening.memory.encoder, super::pull_options(&opening, true));
        let encoder = encoders.wait().context("`memory.encoder`")?;
        super::memory::open(&opening, encoder, &counting)
    });
    memory.open(Arc::new(opened.await.context("opening the memory failed")??));
    let listener = bind::listen(bind::take(&[SocketAddr::from(([127, 0, 0, 1], 0))])?)?;
    let url = format!("http://{}", listener.local_addr()?);
    let routing = alone(&config, &metrics)?;
    let state = AppState::new(Models::default(), keys, http_settings(&config), metrics, memory, routing);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(crate::serve(listener, state, async {
        let _ = stopped.await;
    }));
    Ok(LocalServer { url, key, model: String::new(), stop, task })
}

/// A router with nobody to route to: a command on this machine means this machine.
fn alone(config: &Config, metrics: &Metrics) -> anyhow::Result<Routing> {
    Ok(Routing::new(config.routing.clone().without_backends(), Spend::in_memory(), metrics.routing().clone())?)
}

impl LocalServer {
    /// Ends it; a second is enough for what no longer has readers.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(Duration::from_secs(1), self.task).await;
    }
}
