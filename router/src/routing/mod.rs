//! Who answers a request: the engine here, peers, hosted models.
//!
//! - [`Wish`] is what the request says to it, [`Plan`] the list of candidates that comes of it.
//! - [`Table`] is what the configuration says: backends, catalog, routes. A reload replaces it.
//! - [`Backend`] is a remote one with its breakers, its bulkhead and its health; [`fallback`] asks it.
//! - [`Bill`] is what an answer costs, [`Report`] what happened on the way to it.

mod admission;
mod backend;
mod bill;
mod fallback;
mod metrics;
mod order;
mod plan;
mod probe;
mod report;
mod table;
mod wish;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use admission::{Admission, Estimate};
pub use backend::Backend;
pub use bill::Bill;
pub use fallback::{Began, Claim, Refusal, RemoteAnswer, RemoteCall};
pub use metrics::RoutingMetrics;
pub use plan::{Candidate, LeftOut, Plan, Target, known_models};
pub use report::{Attempt, CacheStatus, Report};
pub use table::Table;
pub use wish::{Route, Wish};

use crate::cache::{CacheSettings, Embed, ResponseCache, SemanticCache, SemanticSettings};
use crate::config::RoutingConfig;
use crate::placement::{Placement, PlacementSettings};
use crate::remote::RemoteError;
use crate::retry::{Backoff, RetryBudget};
use crate::spend::Spend;

/// Retries that a quiet server may make a window, whatever its share.
const RETRY_FLOOR: u32 = 10;
/// The window of the retry budget.
const RETRY_WINDOW: Duration = Duration::from_secs(10);

/// The router. Cheap to clone.
#[derive(Clone)]
pub struct Routing(Arc<Inner>);

struct Inner {
    /// Read for each request, written by a reload: a reader takes the `Arc` and lets go.
    table: RwLock<Arc<Table>>,
    retries: RwLock<Arc<RetryBudget>>,
    placement: Arc<Placement>,
    /// Replaced where a reload changes its size or time: what was kept is forgotten then.
    cache: RwLock<Arc<ResponseCache>>,
    semantic: RwLock<Option<Arc<SemanticCache>>>,
    /// Who makes vectors of questions, once that is known.
    encoder: OnceLock<Arc<dyn Embed>>,
    spend: Spend,
    metrics: RoutingMetrics,
}

impl Routing {
    /// A router for this configuration; start [`Routing::watch`] once a runtime runs.
    pub fn new(config: RoutingConfig, spend: Spend, metrics: RoutingMetrics) -> Result<Self, RemoteError> {
        let retries = RwLock::new(Arc::new(retry_budget(&config)));
        let cache = RwLock::new(ResponseCache::new(&cache_settings(&config)));
        let table = Arc::new(Table::new(config, None)?);
        let placement = Placement::new(PlacementSettings::default());
        placement.set_nodes(peers(&table), Instant::now());
        let (table, semantic, encoder) = (RwLock::new(table), RwLock::default(), OnceLock::new());
        Ok(Self(Arc::new(Inner { table, retries, placement, cache, semantic, encoder, spend, metrics })))
    }

    /// Questions are compared by this encoder from now on, where the configuration wants that.
    pub fn compare_by(&self, encoder: Arc<dyn Embed>) {
        if self.0.encoder.set(encoder).is_ok() {
            let table = self.table();
            *self.0.semantic.write().unwrap_or_else(PoisonError::into_inner) = self.semantic_of(&table.settings);
        }
    }

    fn semantic_of(&self, config: &RoutingConfig) -> Option<Arc<SemanticCache>> {
        let settings = SemanticSettings {
            threshold: config.semantic_threshold,
            ttl: config.cache_ttl,
            ..SemanticSettings::default()
        };
        self.0.encoder.get().map(|encoder| SemanticCache::new(settings, Arc::clone(encoder)))
    }

    /// Begins to check the backends' health.
    pub fn watch(&self) {
        probe::start(&self.0.placement, self.table().backends.values().cloned());
    }

    /// Makes ready for another configuration; calling the result puts it in place. Requests that run go on under the old
    /// one.
    ///
    /// # Errors
    /// A backend that cannot be set up; nothing has changed then.
    pub fn prepare(&self, config: RoutingConfig) -> Result<impl FnOnce() + use<>, RemoteError> {
        let (routing, before) = (self.clone(), self.table());
        let retries = Arc::new(retry_budget(&config));
        let forget = cache_settings(&config) != cache_settings(&before.settings)
            || config.semantic_threshold != before.settings.semantic_threshold;
        let table = Arc::new(Table::new(config, Some(&before))?);
        Ok(move || {
            let inner = &routing.0;
            if forget {
                *inner.cache.write().unwrap_or_else(PoisonError::into_inner) =
                    ResponseCache::new(&cache_settings(&table.settings));
                *inner.semantic.write().unwrap_or_else(PoisonError::into_inner) = routing.semantic_of(&table.settings);
            }
            inner.placement.set_nodes(peers(&table), Instant::now());
            let is_new = |backend: &&Arc<Backend>| {
                before.backends.get(backend.name()).is_none_or(|old| !Arc::ptr_eq(old, backend))
            };
            probe::start(&inner.placement, table.backends.values().filter(is_new).cloned());
            *inner.table.write().unwrap_or_else(PoisonError::into_inner) = table;
            *inner.retries.write().unwrap_or_else(PoisonError::into_inner) = retries;
        })
    }

    /// What is configured now.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether answers tell how they were routed: there is more than the engine here.
    pub fn is_in_use(&self) -> bool {
        !self.table().is_local_only()
    }

    /// Which peer takes a request.
    pub fn placement(&self) -> &Arc<Placement> {
        &self.0.placement
    }

    /// Whole answers to equal requests.
    pub fn cache(&self) -> Arc<ResponseCache> {
        Arc::clone(&self.0.cache.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whole answers to like requests; `None`: nobody makes vectors of them.
    pub fn semantic(&self) -> Option<Arc<SemanticCache>> {
        self.0.semantic.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What keys have spent.
    pub fn spend(&self) -> &Spend {
        &self.0.spend
    }

    /// What is counted.
    pub fn metrics(&self) -> &RoutingMetrics {
        &self.0.metrics
    }

    fn retry_budget(&self) -> Arc<RetryBudget> {
        Arc::clone(&self.0.retries.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn backoff(&self) -> Backoff {
        let table = self.table();
        Backoff { base: table.settings.retry_base, cap: table.settings.retry_cap }
    }
}

/// Names of one's own other nodes.
fn peers(table: &Table) -> impl Iterator<Item = &str> {
    table.backends.values().filter(|backend| !backend.is_hosted()).map(|backend| backend.name())
}

fn cache_settings(config: &RoutingConfig) -> CacheSettings {
    CacheSettings { memory: config.cache_bytes, ttl: config.cache_ttl, ..CacheSettings::default() }
}

fn retry_budget(config: &RoutingConfig) -> RetryBudget {
    RetryBudget::new(u32::from(config.retry_budget_percent), RETRY_FLOOR, RETRY_WINDOW)
}
