//! `[routes.NAME]`: preferences that requests can name, as flat lists of models.

use std::collections::BTreeSet;

use super::families::ROUTES;
use super::getter::Getter;
use super::suggest::{nearest, shorten};
use super::{ConfigError, Instance, RoutingConfig};

/// Routes that need no table.
pub const BUILT_IN: [&str; 3] = ["auto", "local_only", "hosted_only"];

/// What an entry of `models` begins with that stands for another route's models.
const ANOTHER: &str = "route:";

/// Where the engine in this process stands in a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalUse {
    /// Before the route's models.
    First,
    /// After them.
    Last,
    /// Nowhere.
    Never,
    /// Alone.
    Only,
}

/// `[routes.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Its name.
    pub name: String,
    /// Its models, the best first, each once; other routes' are in their place.
    pub models: Vec<String>,
    /// Where the engine in this process stands.
    pub local: LocalUse,
    /// Similar requests of a tenant are answered once; `None`: as `routing.semantic_cache` says.
    pub semantic_cache: Option<bool>,
}

/// Reads the routes; `known` are the models that there are.
pub(super) fn build(tables: &[Instance], known: &BTreeSet<&str>, errors: &mut Vec<ConfigError>) -> Vec<RouteConfig> {
    let mut stated = Vec::new();
    for table in tables.iter().filter(|table| table.family.name == ROUTES.name) {
        let get = Getter::of_table(table, errors);
        let models = get.strings("models");
        stated.push(Stated { name: &table.name, models, get });
    }
    let all = Routes { stated: &stated, known };
    stated.iter().map(|route| all.resolve(route, errors)).collect()
}

/// A route as written.
struct Stated<'a> {
    name: &'a str,
    models: Vec<String>,
    get: Getter<'a>,
}

struct Routes<'a> {
    stated: &'a [Stated<'a>],
    known: &'a BTreeSet<&'a str>,
}

impl<'a> Routes<'a> {
    fn resolve(&self, route: &Stated<'_>, errors: &mut Vec<ConfigError>) -> RouteConfig {
        let mut models = Vec::new();
        self.check(route, errors);
        if let Err(cycle) = self.expand(route.name, &mut Vec::new(), &mut BTreeSet::new(), &mut models) {
            let chain = shorten_chain(&cycle);
            errors.push(route.get.bad("models", format!("routes form a cycle: {chain}; take one of them out")));
        }
        let local = match route.get.text("local").as_str() {
            "last" => LocalUse::Last,
            "never" => LocalUse::Never,
            "only" => LocalUse::Only,
            _ => LocalUse::First,
        };
        match local {
            LocalUse::Never if models.is_empty() => {
                errors.push(
                    route
                        .get
                        .bad("models", "are none, and `local = \"never\"`: nobody is left to ask; name some".into()),
                );
            }
            LocalUse::Only if !models.is_empty() => {
                errors.push(
                    route.get.bad("models", "are never asked under `local = \"only\"`; leave one of both out".into()),
                );
            }
            _ => {}
        }
        let semantic_cache = route.get.optional_flag("semantic_cache");
        RouteConfig { name: route.name.to_owned(), models, local, semantic_cache }
    }

    /// Every entry names something that there is.
    fn check(&self, route: &Stated<'_>, errors: &mut Vec<ConfigError>) {
        for entry in &route.models {
            let problem = match entry.strip_prefix(ANOTHER) {
                Some(other) if self.find(other).is_none() => unknown_route(other, self.names()),
                None if !self.known.contains(entry.as_str()) => unknown_model(entry, self.known),
                _ => continue,
            };
            errors.push(route.get.bad("models", problem));
        }
    }

    fn find(&self, name: &str) -> Option<&'a Stated<'a>> {
        self.stated.iter().find(|route| route.name == name)
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.stated.iter().map(|route| route.name)
    }

    /// Adds the models of a route and of those it names; an error is the cycle that it is in.
    fn expand(
        &self,
        name: &'a str,
        stack: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
        models: &mut Vec<String>,
    ) -> Result<(), Vec<&'a str>> {
        if let Some(first) = stack.iter().position(|open| *open == name) {
            return Err(stack[first..].iter().copied().chain([name]).collect());
        }
        // What it has to add is there already: without this, routes that name each other twice would double each time.
        let Some(route) = self.find(name).filter(|_| done.insert(name)) else { return Ok(()) };
        stack.push(name);
        for entry in &route.models {
            match entry.strip_prefix(ANOTHER) {
                Some(other) => self.expand(other, stack, done, models)?,
                None if !models.contains(entry) => models.push(entry.clone()),
                None => {}
            }
        }
        stack.pop();
        Ok(())
    }
}

fn shorten_chain(chain: &[&str]) -> String {
    const MOST: usize = 6;
    let shown = chain.iter().take(MOST).copied().collect::<Vec<_>>().join(" -> ");
    if chain.len() > MOST { format!("{shown} -> ({} more)", chain.len() - MOST) } else { shown }
}

fn unknown_model(name: &str, known: &BTreeSet<&str>) -> String {
    let shown = shorten(name);
    match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("name {shown:?}, which is no model of the catalog; did you mean {nearest:?}?"),
        None => format!("name {shown:?}, which is no model of the catalog; add [catalog.{shown:?}]"),
    }
}

fn unknown_route<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let shown = shorten(name);
    match nearest(name, known) {
        Some(nearest) => format!("name {shown:?}, which is no route; did you mean {nearest:?}?"),
        None => format!("name {shown:?}, which is no route; add [routes.{shown}]"),
    }
}

/// The name of a route, checked.
pub(super) fn named(
    get: &Getter<'_>,
    key: &str,
    name: &str,
    routes: &[RouteConfig],
    errors: &mut Vec<ConfigError>,
) -> String {
    let known = || routes.iter().map(|route| route.name.as_str()).chain(BUILT_IN);
    if !known().any(|known| known == name) {
        errors.push(get.bad(key, unknown_route(name, known()).replacen("name ", "names ", 1)));
    }
    name.to_owned()
}

/// `routing.tasks`: lines of `CLASS=ROUTE`.
pub(super) fn tasks(get: &Getter<'_>, routes: &[RouteConfig], errors: &mut Vec<ConfigError>) -> Vec<(String, String)> {
    const KEY: &str = "routing.tasks";
    let mut tasks: Vec<(String, String)> = Vec::new();
    for line in get.strings(KEY) {
        let (task, route) = line.split_once('=').unwrap_or((&line, ""));
        let (task, route) = (task.trim(), route.trim());
        if !RoutingConfig::TASKS.contains(&task) || route.is_empty() {
            let (line, tasks) = (shorten(&line), RoutingConfig::TASKS.join(", "));
            errors.push(get.bad(KEY, format!("{line:?} is not CLASS=ROUTE with a class of {tasks}")));
        } else if tasks.iter().any(|(other, _)| other == task) {
            errors.push(get.bad(KEY, format!("{task:?} has two routes; leave one out")));
        } else {
            tasks.push((task.to_owned(), named(get, KEY, route, routes, errors)));
        }
    }
    tasks
}
