//! What is routed to: backends, the catalog of models, routes. One table is one reading of the configuration; a reload
//! puts a new one in its place and keeps the backends whose settings did not change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::auth::Tenant;
use crate::config::{CatalogModel, RouteConfig, RoutingConfig};
use crate::money::Usd;
use crate::prices::Price;
use crate::remote::RemoteError;
use crate::spend::SpendLimits;

use super::Backend;

/// Backends, models and routes.
pub struct Table {
    /// Remote backends, by name.
    pub backends: BTreeMap<String, Arc<Backend>>,
    /// Models that the configuration describes, by lower-case name.
    catalog: HashMap<String, Arc<CatalogModel>>,
    /// Routes by name.
    routes: HashMap<String, RouteConfig>,
    /// Task class to route.
    tasks: HashMap<String, String>,
    /// Most that a request may cost that does not say.
    pub max_cost: Option<Usd>,
    /// Most that a key may spend for which nothing else is said.
    key_limits: SpendLimits,
    /// What is left.
    pub settings: RoutingConfig,
}

impl Table {
    /// The table of `config`; backends of `before` whose settings are the same go on as they are, with their breakers,
    /// their connections and what is known of their health.
    pub fn new(config: RoutingConfig, before: Option<&Self>) -> Result<Self, RemoteError> {
        let mut backends = BTreeMap::new();
        for settings in &config.backends {
            let kept = before.and_then(|table| table.backends.get(&settings.name)).filter(|old| old.is(settings));
            let backend = match kept {
                Some(backend) => Arc::clone(backend),
                None => Arc::new(Backend::new(settings)?),
            };
            backends.insert(settings.name.clone(), backend);
        }
        let catalog = config.catalog.iter().map(|model| (model.name.to_lowercase(), Arc::new(model.clone()))).collect();
        let routes = config.routes.iter().map(|route| (route.name.clone(), route.clone())).collect();
        let tasks = config.tasks.iter().cloned().collect();
        let dollars = |limit: Option<f64>| limit.and_then(Usd::from_dollars);
        let key_limits = SpendLimits { day: dollars(config.key_day_usd), month: dollars(config.key_month_usd) };
        let max_cost = dollars(config.max_cost_usd);
        Ok(Self { backends, catalog, routes, tasks, max_cost, key_limits, settings: config })
    }

    /// The model of this name, in any case.
    pub fn model(&self, name: &str) -> Option<&Arc<CatalogModel>> {
        self.catalog.get(&name.to_lowercase())
    }

    /// What a token of it costs; nothing where nothing is said.
    pub fn price(&self, model: &str) -> Price {
        let Some(price) = self.model(model).and_then(|model| model.price) else {
            return Price::FREE;
        };
        let dollars = |amount: f64| Usd::from_dollars(amount).unwrap_or(Usd::MAX);
        Price { input: dollars(price.input), cached: dollars(price.cached), output: dollars(price.output) }
    }

    /// What the key of `tenant` may spend.
    pub fn limits_of(&self, tenant: &Tenant) -> SpendLimits {
        let own = |limit: Option<f64>| limit.and_then(Usd::from_dollars);
        SpendLimits {
            day: own(tenant.limits.day_usd).or(self.key_limits.day),
            month: own(tenant.limits.month_usd).or(self.key_limits.month),
        }
    }

    /// All models that the configuration describes.
    pub fn models(&self) -> impl Iterator<Item = &CatalogModel> {
        self.settings.catalog.iter()
    }

    /// The route of this name.
    pub fn route(&self, name: &str) -> Option<&RouteConfig> {
        self.routes.get(name)
    }

    /// Names of all routes.
    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.settings.routes.iter().map(|route| route.name.as_str())
    }

    /// The route of a task class.
    pub fn route_of_task(&self, task: &str) -> Option<&RouteConfig> {
        self.route(self.tasks.get(task)?)
    }

    /// Backends that have the model called `name`, each with the name that it knows it by: those that the catalog lists,
    /// then those that say so themselves.
    pub fn having(&self, name: &str) -> Vec<(Arc<Backend>, String)> {
        let mut found: Vec<(Arc<Backend>, String)> = Vec::new();
        if let Some(model) = self.model(name) {
            let listed = model.backends.iter().filter_map(|backend| self.backends.get(backend));
            found.extend(listed.map(|backend| (Arc::clone(backend), model.upstream.clone())));
        }
        for backend in self.backends.values() {
            let known = found.iter().any(|(listed, _)| Arc::ptr_eq(listed, backend));
            if let Some(upstream) = backend.serves(name).filter(|_| !known) {
                found.push((Arc::clone(backend), upstream));
            }
        }
        found
    }

    /// Whether there is anything beside the local engine.
    pub fn is_local_only(&self) -> bool {
        self.backends.is_empty()
    }
}
