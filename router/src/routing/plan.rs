//! Who is asked for an answer, in which order: a list of candidates, and what was left out and why.

use std::sync::Arc;

use crate::answer::Asked;
use crate::auth::Tenant;
use crate::backend::{Models, ServedModel};
use crate::config::{LocalUse, RouteConfig};
use crate::error::{ApiError, ErrorCode};
use crate::openai::fields::nearest;

use super::{Backend, Route, Table};

/// Where a candidate's answer comes from.
#[derive(Clone)]
pub enum Target {
    /// The engine of this process.
    Local(Arc<ServedModel>),
    /// Another server.
    Remote {
        /// Which.
        backend: Arc<Backend>,
        /// The model's name there.
        upstream: String,
    },
}

/// One who may answer.
#[derive(Clone)]
pub struct Candidate {
    /// The model, as this server calls it.
    pub model: String,
    /// Who has it.
    pub target: Target,
}

impl Candidate {
    /// Name of its backend; `local` is the engine of this process.
    pub fn backend(&self) -> &str {
        match &self.target {
            Target::Local(_) => "local",
            Target::Remote { backend, .. } => backend.name(),
        }
    }

    /// Whether its tokens leave one's own machines.
    pub fn is_hosted(&self) -> bool {
        matches!(&self.target, Target::Remote { backend, .. } if backend.is_hosted())
    }

    fn is_seen_by(&self, tenant: &Tenant) -> bool {
        match &self.target {
            Target::Local(model) => tenant.may_ask(model.names()),
            Target::Remote { .. } => tenant.may_ask([self.model.as_str()]),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.backend() == other.backend() && self.model.eq_ignore_ascii_case(&other.model)
    }
}

/// A candidate that is not asked, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its backend.
    pub backend: String,
    /// Its model.
    pub model: String,
    /// Why.
    pub why: String,
    /// Because it costs too much.
    pub over_budget: bool,
}

/// Candidates in the order in which they are asked; at least one.
pub struct Plan {
    /// They.
    pub candidates: Vec<Candidate>,
    /// Not asked.
    pub left_out: Vec<LeftOut>,
    /// By which rule: a route's name, `model`, `list`, `local_only`, `hosted_only`.
    pub rule: String,
}

/// What a request comes down to: models in order, and where they may be.
struct Rule<'a> {
    name: String,
    /// `None` stands for the only model that this process serves.
    models: Vec<Option<&'a str>>,
    /// `None`: the engine here stands where its model does.
    local: Option<LocalUse>,
    hosted: bool,
}

impl Plan {
    /// The plan for `asked`.
    ///
    /// Models that the key does not see are as if they were not there.
    ///
    /// # Errors
    /// 404 where nobody has such a model, 400 for a route that does not exist.
    pub fn new(asked: &Asked, table: &Table, models: &Models, tenant: &Tenant) -> Result<Self, ApiError> {
        let rule = Rule::of(asked, table, models)?;
        let mut plan = Self { candidates: Vec::new(), left_out: Vec::new(), rule: rule.name.clone() };
        for name in &rule.models {
            for candidate in rule.candidates(*name, table, models) {
                if !plan.candidates.iter().any(|known| known.is(&candidate)) {
                    plan.candidates.push(candidate);
                }
            }
        }
        plan.candidates.retain(|candidate| candidate.is_seen_by(tenant));
        let is_local = |candidate: &Candidate| matches!(candidate.target, Target::Local(_));
        match rule.local {
            // Stable: models keep their order within.
            Some(LocalUse::First) => plan.candidates.sort_by_key(|candidate| !is_local(candidate)),
            Some(LocalUse::Last) => plan.candidates.sort_by_key(is_local),
            Some(LocalUse::Never) => plan.candidates.retain(|candidate| !is_local(candidate)),
            Some(LocalUse::Only) => plan.candidates.retain(|candidate| !candidate.is_hosted()),
            None => {}
        }
        plan.leave_out_what_is_too_small(asked, table);
        if plan.candidates.is_empty() {
            return Err(rule.nobody(asked, table, models, tenant, &plan.left_out));
        }
        Ok(plan)
    }

    /// Whether only the engine of this process is asked.
    pub fn is_local(&self) -> bool {
        self.candidates.iter().all(|candidate| matches!(candidate.target, Target::Local(_)))
    }

    /// A hosted model whose context cannot hold the request is not worth a call; the engine here checks itself, exactly.
    fn leave_out_what_is_too_small(&mut self, asked: &Asked, table: &Table) {
        let needed = asked.prompt_tokens;
        let left_out = &mut self.left_out;
        self.candidates.retain(|candidate| {
            let context = match &candidate.target {
                Target::Local(_) => None,
                Target::Remote { .. } => table.model(&candidate.model).and_then(|model| model.context),
            };
            let Some(context) = context.filter(|context| needed > *context) else {
                return true;
            };
            left_out.push(LeftOut {
                backend: candidate.backend().to_owned(),
                model: candidate.model.clone(),
                why: format!("its context of {context} tokens is too small for a prompt of about {needed}"),
                over_budget: false,
            });
            false
        });
    }
}

impl<'a> Rule<'a> {
    fn of(asked: &'a Asked, table: &'a Table, models: &Models) -> Result<Self, ApiError> {
        let model = asked.model.as_deref();
        let rule = |name: &str, models: Vec<Option<&'a str>>, local: Option<LocalUse>, hosted: bool| Self {
            name: name.to_owned(),
            models,
            local,
            hosted,
        };
        match &asked.wish.route {
            Some(Route::List(list)) => {
                return Ok(rule("list", list.iter().map(|name| Some(name.as_str())).collect(), None, true));
            }
            Some(Route::LocalOnly) => return Ok(rule("local_only", vec![model], Some(LocalUse::Only), false)),
            Some(Route::HostedOnly) => {
                let models = match model {
                    Some(model) => vec![Some(model)],
                    None => default_route(table).map_or_else(Vec::new, models_of),
                };
                return Ok(rule("hosted_only", models, Some(LocalUse::Never), true));
            }
            Some(Route::Named(name)) if name != "auto" => {
                let route = table.route(name).ok_or_else(|| no_route(name, table))?;
                return Ok(Self::of_route(route, model));
            }
            Some(Route::Named(_)) | None => {}
        }
        match model {
            // Clients that cannot send another member than `model` name a route there.
            Some(name) if names_a_route(name, table, models) => match table.route(name) {
                Some(route) => Ok(Self::of_route(route, None)),
                None => Ok(Self::by_default(asked, table)),
            },
            Some(name) => {
                let mut rule = rule("model", vec![Some(name)], None, true);
                if let Some(route) = table.settings.fallback.as_deref().and_then(|route| table.route(route)) {
                    rule.models.extend(models_of(route));
                }
                Ok(rule)
            }
            None => Ok(Self::by_default(asked, table)),
        }
    }

    /// What a request that names neither model nor route gets: its task's route, else the default one, else what is here.
    fn by_default(asked: &'a Asked, table: &'a Table) -> Self {
        match table.route_of_task(asked.task()).or_else(|| default_route(table)) {
            Some(route) => Self::of_route(route, None),
            None => Self { name: "default".into(), models: vec![None], local: Some(LocalUse::First), hosted: true },
        }
    }

    /// A route; a model named beside it comes first, and one's own model where the route wants it.
    fn of_route(route: &'a RouteConfig, model: Option<&'a str>) -> Self {
        let mut models = match model {
            Some(model) => vec![Some(model)],
            None if route.local != LocalUse::Never => vec![None],
            None => Vec::new(),
        };
        models.extend(models_of(route));
        Self { name: route.name.clone(), models, local: Some(route.local), hosted: route.local != LocalUse::Only }
    }

    /// Who has this model: the engine here, peers, hosted ones.
    fn candidates(&self, name: Option<&str>, table: &Table, models: &Models) -> Vec<Candidate> {
        let own = models.get(name);
        // Others know a model by its id, not by the aliases that it has here.
        let Some(asked) = own.as_ref().map(|model| model.id.as_str()).or(name) else {
            // A node without a model of its own stands for what its peers serve.
            return self.of_peers(table);
        };
        let mut remote = table.having(asked);
        // One spelling a model: breakers and metrics go by it, and clients must not make more of them.
        let name = match (&own, table.model(asked), remote.first()) {
            (None, Some(model), _) => model.name.clone(),
            (None, None, Some((_, listed))) => listed.clone(),
            _ => asked.to_owned(),
        };
        let mut found = Vec::new();
        if let Some(model) = own.filter(|_| !self.is_away()) {
            found.push(Candidate { model: name.clone(), target: Target::Local(model) });
        }
        // One's own machines first; among equals the order of the configuration.
        remote.sort_by_key(|(backend, _)| backend.is_hosted());
        let usable = remote.into_iter().filter(|(backend, _)| {
            let own = !backend.is_hosted();
            if own { !self.is_away() || !self.hosted_only() } else { self.hosted }
        });
        found.extend(usable.map(|(backend, upstream)| Candidate {
            model: name.clone(),
            target: Target::Remote { backend, upstream },
        }));
        found
    }

    /// The engine here is not asked.
    fn is_away(&self) -> bool {
        self.local == Some(LocalUse::Never)
    }

    fn hosted_only(&self) -> bool {
        self.name == "hosted_only"
    }

    /// The first model of each peer, where nobody says which.
    fn of_peers(&self, table: &Table) -> Vec<Candidate> {
        let peers = table.backends.values().filter(|backend| !backend.is_hosted());
        peers
            .filter_map(|backend| {
                let model = backend.first_model()?;
                let target = Target::Remote { backend: Arc::clone(backend), upstream: model.clone() };
                Some(Candidate { model, target })
            })
            .collect()
    }

    fn nobody(&self, asked: &Asked, table: &Table, models: &Models, tenant: &Tenant, left_out: &[LeftOut]) -> ApiError {
        if let Some(first) = left_out.first() {
            let message =
                format!("no backend can take this request: {} of `{}`: {}", first.model, first.backend, first.why);
            return ApiError::new(ErrorCode::ContextLengthExceeded, message);
        }
        // The words of the local table are the best where only local models are.
        if table.is_local_only()
            && !self.is_away()
            && let Err(error) = models.find_for(asked.model.as_deref(), tenant)
        {
            return error;
        }
        let shown: String = asked.model.as_deref().unwrap_or("(none)").chars().take(128).collect();
        let known = known_models(table, models);
        let seen = |name: &&str| tenant.may_ask([*name]);
        let names: Vec<&str> = known.iter().map(String::as_str).filter(seen).collect();
        let near = nearest(&shown, &names).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        let served = if names.is_empty() { "none".to_owned() } else { format!("`{}`", names.join("`, `")) };
        let message =
            format!("no backend has the model `{shown}` under the rule `{}`{near} Known are: {served}", self.name);
        ApiError::new(ErrorCode::ModelNotFound, message).with_param("model")
    }
}

/// Names of all models that a request may name.
pub fn known_models(table: &Table, models: &Models) -> Vec<String> {
    let mut names: Vec<String> = models.iter().map(|model| model.id.clone()).collect();
    names.extend(table.models().map(|model| model.name.clone()));
    names.extend(table.backends.values().flat_map(|backend| backend.models()));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.to_lowercase()));
    names
}

fn models_of(route: &RouteConfig) -> Vec<Option<&str>> {
    route.models.iter().map(|name| Some(name.as_str())).collect()
}

/// The default route, unless it is one of those that need no table.
fn default_route(table: &Table) -> Option<&RouteConfig> {
    table.route(&table.settings.default)
}

/// A model's name goes before a route's.
fn names_a_route(name: &str, table: &Table, models: &Models) -> bool {
    let is_model = models.get(Some(name)).is_some() || table.model(name).is_some();
    !is_model && (name == "auto" || table.route(name).is_some())
}

fn no_route(name: &str, table: &Table) -> ApiError {
    let words: Vec<&str> = ["auto", "local_only", "hosted_only"].into_iter().chain(table.route_names()).collect();
    let shown: String = name.chars().take(64).collect();
    let near = nearest(&shown, &words).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    ApiError::invalid_value("route", format!("no route `{shown}`{near} Known are: {}", words.join(", ")))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
