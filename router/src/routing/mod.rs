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

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use admission::{Admission, Estimate};
pub use backend::Backend;
pub use bill::Bill;
pub use fallback::{Began, Refusal, RemoteAnswer, RemoteCall};
pub use metrics::RoutingMetrics;
pub use plan::{Candidate, LeftOut, Plan, Target, known_models};
pub use report::{Attempt, CacheStatus, Report};
pub use table::Table;
pub use wish::{Route, Wish};

use crate::config::RoutingConfig;
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
    spend: Spend,
    metrics: RoutingMetrics,
}

impl Routing {
    /// A router for this configuration; start [`Routing::watch`] once a runtime runs.
    pub fn new(config: RoutingConfig, spend: Spend, metrics: RoutingMetrics) -> Result<Self, RemoteError> {
        let retries = RwLock::new(Arc::new(retry_budget(&config)));
        let table = RwLock::new(Arc::new(Table::new(config, None)?));
        Ok(Self(Arc::new(Inner { table, retries, spend, metrics })))
    }

    /// Begins to check the backends' health.
    pub fn watch(&self) {
        probe::start(self.table().backends.values().cloned());
    }

    /// Makes ready for another configuration; calling the result puts it in place. Requests that run go on under the old
    /// one.
    ///
    /// # Errors
    /// A backend that cannot be set up; nothing has changed then.
    pub fn prepare(&self, config: RoutingConfig) -> Result<impl FnOnce() + use<>, RemoteError> {
        let (routing, before) = (self.clone(), self.table());
        let retries = Arc::new(retry_budget(&config));
        let table = Arc::new(Table::new(config, Some(&before))?);
        Ok(move || {
            let is_new = |backend: &&Arc<Backend>| {
                before.backends.get(backend.name()).is_none_or(|old| !Arc::ptr_eq(old, backend))
            };
            probe::start(table.backends.values().filter(is_new).cloned());
            *routing.0.table.write().unwrap_or_else(PoisonError::into_inner) = table;
            *routing.0.retries.write().unwrap_or_else(PoisonError::into_inner) = retries;
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

fn retry_budget(config: &RoutingConfig) -> RetryBudget {
    RetryBudget::new(u32::from(config.retry_budget_percent), RETRY_FLOOR, RETRY_WINDOW)
}
