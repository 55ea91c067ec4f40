//! The memory of a server: opened beside the model, so that neither waits for the other.
//!
//! Where the encoder's files are on disk it is opened at start; where they are not, the first request that wants the
//! memory has them fetched. What keeps it shut does not keep the server from serving: the reason, with its cure, is
//! logged and told to whoever asks the memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use engram_memory::backend::Backend;
use engram_memory::backend::embedded::{Embedded, EmbeddedConfig, EncoderId};
use engram_memory::backend::postgres::{Postgres, PostgresConfig};
use engram_memory::backend::qdrant::{Qdrant, QdrantConfig};
use engram_memory::backend::redis::{RedisCache, RedisConfig, SharedCache};
use engram_memory::config::{Caches, Lifetimes, MemoryConfig};
use engram_memory::secrets::SecretRules;
use engram_memory::{Kind, Memory, MemoryError};
use engram_models::EncoderHandle;

use crate::backend::Encoders;
use crate::config::{Config, MemoryBackend, MemorySettings};
use crate::memory::{CacheCounts, EncoderEmbedder, LoadEncoder, MemoryService, Opened};
use crate::metrics::Metrics;

/// The memory's doors; what is behind them is opened in the background.
pub fn start(config: &Config, encoders: Encoders, metrics: Arc<Metrics>) -> MemoryService {
    let service = MemoryService::new(config.memory.clone(), Arc::clone(&metrics));
    if !config.memory.enabled {
        return service;
    }
    service.reembeddings().load_by(loader(config));
    let (opening, config) = (service.clone(), config.clone());
    tokio::spawn(async move {
        if encoders.facts().is_some_and(|facts| facts.state == "absent") {
            opening.wanted().await;
        }
        let open = tokio::task::spawn_blocking(move || {
            let encoder = encoders.wait().context("`memory.encoder`")?;
            open(&config, encoder, &metrics)
        })
        .await;
        match open.context("opening the memory panicked").flatten() {
            Ok(opened) => {
                tracing::info!("the memory is open");
                opening.open(Arc::new(opened));
                opening.maintain().await;
            }
            Err(error) => {
                tracing::error!("there is no memory: {error:#}");
                opening.shut(&reason(&error));
            }
        }
    });
    service
}

/// What clients are told: paths of this machine stay in its log.
fn reason(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(mismatch @ MemoryError::EncoderMismatch { .. }) => mismatch.to_string(),
        _ => "the memory could not be opened, the server's log says why and what to do".into(),
    }
}

/// Opens the memory that is configured. What is kept in it passes through the rules for secrets first.
pub fn open(config: &Config, encoder: EncoderHandle, metrics: &Arc<Metrics>) -> anyhow::Result<Opened> {
    let settings = &config.memory;
    let id = EncoderId { name: encoder.encoder().name().to_owned(), dim: encoder.encoder().dim() };
    let shared = shared_cache(settings)?;
    let (backend, embedded): (Arc<dyn Backend>, _) = match &settings.backend {
        MemoryBackend::Embedded => {
            let embedded = Arc::new(Embedded::open(&settings.dir, Some(&id), embedded_config(settings))?);
            (Arc::clone(&embedded) as Arc<dyn Backend>, Some(embedded))
        }
        MemoryBackend::Postgres { url, schema, pool } => {
            let mut postgres = PostgresConfig::at(url.clone());
            postgres.schema.clone_from(schema);
            postgres.pool.size = u32::try_from(*pool).unwrap_or(u32::MAX);
            postgres.ef_search = u32::try_from(settings.ef_search).unwrap_or(u32::MAX).min(1000);
            (Arc::new(Postgres::open(&postgres, (&id.name, id.dim))?), None)
        }
        MemoryBackend::Qdrant { url, api_key } => {
            let mut qdrant = QdrantConfig::at(url.as_str());
            qdrant.api_key = api_key.clone();
            qdrant.pool.size = u32::try_from(settings.workers).unwrap_or(u32::MAX);
            (Arc::new(Qdrant::open(&qdrant, (&id.name, id.dim))?), None)
        }
    };
    let mut memory = Memory::with_backend(backend, Arc::new(EncoderEmbedder::new(encoder)), memory_config(settings))?
        .redacted_by(Arc::new(SecretRules))
        .observed_by(Arc::new(CacheCounts(Arc::clone(metrics))));
    if let Some(cache) = shared {
        memory = memory.sharing(cache);
    }
    Ok(Opened::new(memory, embedded, &settings.dir))
}

/// Loads the encoder that the memory is to be embedded with anew.
fn loader(config: &Config) -> LoadEncoder {
    let options = super::pull_options(config, false);
    Box::new(move |name| {
        let handle = Encoders::new(name, options.clone()).wait()?;
        Ok(Arc::new(EncoderEmbedder::new(handle)))
    })
}

/// The configured encoder and what the store calls it, loaded or fetched now; for commands, with progress.
pub fn encoder(config: &Config) -> anyhow::Result<(EncoderEmbedder, EncoderId)> {
    let encoders = Encoders::new(&config.memory.encoder, super::pull_options(config, true));
    let handle = encoders.wait().context("`memory.encoder`")?;
    let id = EncoderId { name: handle.encoder().name().to_owned(), dim: handle.encoder().dim() };
    Ok((EncoderEmbedder::new(handle), id))
}

/// What the embedded memory is told.
pub fn embedded_config(settings: &MemorySettings) -> EmbeddedConfig {
    EmbeddedConfig { ef_search: settings.ef_search, ..EmbeddedConfig::default() }
}

fn shared_cache(settings: &MemorySettings) -> anyhow::Result<Option<Arc<dyn SharedCache>>> {
    let Some(url) = &settings.redis_url else { return Ok(None) };
    let mut redis = RedisConfig::at(url.clone());
    redis.pool.size = u32::try_from(settings.workers).unwrap_or(u32::MAX);
    Ok(Some(Arc::new(RedisCache::new(redis)?)))
}

fn memory_config(settings: &MemorySettings) -> MemoryConfig {
    let ttl = |kind: Kind| settings.ttl.iter().find(|(of, _)| *of == kind).and_then(|(_, ttl)| *ttl);
    let cached =
        |kind: Kind| settings.cache.iter().find(|(of, _)| *of == kind).map_or(Duration::ZERO, |(_, time)| *time);
    let lifetimes = Lifetimes {
        code: ttl(Kind::Code),
        knowledge: ttl(Kind::Knowledge),
        conversation: ttl(Kind::Conversation),
        document: ttl(Kind::Document),
        workflow: ttl(Kind::Workflow),
    };
    let caches = Caches {
        embedding_bytes: settings.cache_bytes / 3,
        recall_bytes: settings.cache_bytes - settings.cache_bytes / 3,
        code: cached(Kind::Code),
        knowledge: cached(Kind::Knowledge),
        conversation: cached(Kind::Conversation),
        ..Caches::default()
    };
    MemoryConfig { lifetimes, caches, ..MemoryConfig::default() }
}
