//! Tables whose names are free: `[backends.NAME]`, `[catalog."NAME"]`, `[routes.NAME]`, `[flags.NAME]`.
//!
//! Each family has a table of keys like [`super::keys::KEYS`], and its keys are resolved with the same guarantees.
//! An instance exists once a file has its table; the environment can set its keys
//! (`ENGRAM_BACKENDS_NAME_API_KEY`) but not make one.

use std::collections::BTreeMap;

use super::keys::{DOLLARS, Key, key};
use super::suggest;
use super::value::Kind;
use super::{ConfigError, Entry, Origin};

/// Tables with free names, at most.
const MAX_TABLES: usize = 4096;

/// A family of tables.
#[derive(Debug)]
pub struct Family {
    /// `backends` of `[backends.NAME]`.
    pub name: &'static str,
    /// What one is, for messages.
    pub one: &'static str,
    /// Longest name.
    max_name: usize,
    /// Characters of a name besides letters, digits and `._-`.
    signs: &'static str,
    /// Names that stand for something else already, and what for.
    reserved: &'static [(&'static str, &'static str)],
    /// The keys of one table.
    pub keys: &'static [Key],
}

/// One table of a family, resolved.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its family.
    pub family: &'static Family,
    /// Its name.
    pub name: String,
    /// Where it is named first.
    pub origin: Origin,
    /// One entry a key, in the family's order.
    pub entries: Vec<Entry>,
}

impl Instance {
    /// One whose keys have their defaults.
    pub(super) fn new(family: &'static Family, name: &str, origin: Origin) -> Self {
        let entry = |key: &'static Key| Entry { key, value: key.default_value(), origin: Origin::Default };
        Self { family, name: name.to_owned(), origin, entries: family.keys.iter().map(entry).collect() }
    }

    /// `backends.NAME`.
    pub fn path(&self) -> String {
        self.family.path(&self.name)
    }
}

impl Family {
    /// The key of this name.
    pub fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// `backends.NAME`, with quotes where TOML wants them.
    pub fn path(&self, instance: &str) -> String {
        let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let shown = suggest::shorten_to(instance, self.max_name);
        if !shown.is_empty() && shown.bytes().all(bare) {
            format!("{}.{shown}", self.name)
        } else {
            format!("{}.{shown:?}", self.name)
        }
    }

    /// `ENGRAM_BACKENDS_NAME_`: what variables that set keys of this table begin with.
    pub fn env_prefix(&self, instance: &str) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = instance.chars().map(letter).collect();
        format!("ENGRAM_{}_{name}_", self.name.to_uppercase())
    }

    /// Why a table may not have this name.
    pub(super) fn refuse_name(&self, name: &str) -> Option<String> {
        if let Some((_, reason)) = self.reserved.iter().find(|(reserved, _)| reserved.eq_ignore_ascii_case(name)) {
            return Some(format!("{reason}; choose another name"));
        }
        let letter = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || self.signs.contains(c);
        let good = name.chars().all(letter)
            && name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || self.signs.contains(c))
            && name.len() <= self.max_name;
        if good {
            return None;
        }
        let signs: String = self.signs.chars().chain(".-_".chars()).collect();
        Some(format!(
            "is no name of {}; take 1 to {} letters, digits and `{signs}`, the first of them no `.`, `-` or `_`",
            self.one, self.max_name
        ))
    }
}

/// The tables that files have, each once.
#[derive(Default)]
pub(super) struct Tables {
    list: Vec<Instance>,
    /// Places in `list` by family and name without regard to capitals.
    places: BTreeMap<(&'static str, String), usize>,
}

impl Tables {
    /// The table of this name.
    pub fn find(&mut self, family: &Family, name: &str) -> Option<&mut Instance> {
        let place = *self.places.get(&(family.name, name.to_ascii_lowercase()))?;
        self.list.get_mut(place).filter(|table| table.name == name)
    }

    /// All of them so far.
    pub fn all(&self) -> &[Instance] {
        &self.list
    }

    /// All of them, family by family.
    pub fn sorted(self) -> Vec<Instance> {
        let mut list = self.list;
        list.sort_by_key(|table| FAMILIES.iter().position(|family| family.name == table.family.name));
        list
    }

    /// Adds a table, unless it is there already.
    pub fn declare(&mut self, table: Instance, errors: &mut Vec<ConfigError>) {
        if self.find(table.family, &table.name).is_some() {
            return;
        }
        match self.refuse(&table) {
            Some(problem) => {
                errors.push(ConfigError::BadValue { key: table.path(), problem, origin: table.origin });
            }
            None => {
                self.places.insert((table.family.name, table.name.to_ascii_lowercase()), self.list.len());
                self.list.push(table);
            }
        }
    }

    fn refuse(&self, table: &Instance) -> Option<String> {
        let family = table.family;
        if let Some(&place) = self.places.get(&(family.name, table.name.to_ascii_lowercase())) {
            let other = &self.list[place];
            return Some(format!(
                "duplicates `{}` ({}): names that differ only in capitals are one; write both alike, or rename one",
                other.path(),
                other.origin
            ));
        }
        if self.list.len() == MAX_TABLES {
            return Some(format!("is one table too many: at most {MAX_TABLES} have free names; leave some out"));
        }
        family.refuse_name(&table.name)
    }
}

/// The family of this name.
pub fn find(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|family| family.name == name)
}

/// Every family, in the order in which they are shown.
pub static FAMILIES: [&Family; 4] = [&BACKENDS, &CATALOG, &ROUTES, &FLAGS];

/// `[backends.NAME]`
pub static BACKENDS: Family = Family {
    name: "backends",
    one: "a backend",
    max_name: 64,
    signs: "",
    reserved: &[("local", "is the engine in this process, which is always there")],
    keys: &[
        key("kind", Kind::Choice(&["peer", "portkey", "openai_compatible"]), "", "what it speaks"),
        key("url", Kind::Url, "", "its address up to the version: http://10.0.0.2:8080/v1"),
        key(
            "api_key",
            Kind::Secret,
            "",
            "sent as `Authorization: Bearer`; a Portkey gateway hands it on to the provider",
        ),
        key("api_key_file", Kind::Path, "", "a file that holds it"),
        key("models", Kind::Strings, "", "what it serves; none: asked from its /models"),
        key("headers", Kind::Headers, "", "headers sent along: \"x-team: search\""),
        key("headers_file", Kind::Path, "", "a file of such headers, one a line"),
        key("ca_file", Kind::Path, "", "one more root certificate to trust, PEM"),
        key("connect_timeout_s", TIME, "2", "time to connect, TLS included"),
        key("first_token_timeout_s", TIME, "60", "time to a stream's first token; a whole answer has timeout_s"),
        key("idle_timeout_s", TIME, "30", "longest silence within a stream"),
        key("timeout_s", TIME, "600", "longest that one attempt may take"),
        key("max_in_flight", Kind::Count { min: 1, max: 1 << 20 }, "256", "requests there at once; past it: the next"),
        key(
            "health_interval_s",
            Kind::Seconds { min: 0.0, max: 3600.0 },
            "5",
            "time between health checks; 0: none, only requests tell",
        ),
        key("tries", Kind::Count { min: 1, max: 10 }, "2", "attempts there for what may heal"),
        key("breaker_failures", Kind::Count { min: 1, max: 1000 }, "5", "failures in a row that open its breaker"),
        key(
            "breaker_error_percent",
            Kind::Count { min: 1, max: 100 },
            "50",
            "failures within the window, of all calls, that open its breaker",
        ),
        key("breaker_window_s", Kind::Seconds { min: 1.0, max: 3600.0 }, "30", "that window"),
        key("breaker_open_s", Kind::Seconds { min: 0.1, max: 3600.0 }, "10", "how long it stays open before a probe"),
        key(
            "slow_call_s",
            Kind::Seconds { min: 0.0, max: 3600.0 },
            "0",
            "a first token later than this counts as a failure; 0: none does",
        ),
        key("portkey_api_key", Kind::Secret, "", "x-portkey-api-key: the account at the hosted gateway"),
        key("portkey_api_key_file", Kind::Path, "", "a file that holds it"),
        key("portkey_provider", Kind::Text, "", "x-portkey-provider: openai, anthropic, @slug"),
        key("portkey_config", Kind::Secret, "", "x-portkey-config: an id, or a config as JSON"),
        key("portkey_config_file", Kind::Path, "", "a file that holds it"),
        key("portkey_virtual_key", Kind::Secret, "", "x-portkey-virtual-key"),
        key("portkey_virtual_key_file", Kind::Path, "", "a file that holds it"),
        key("portkey_custom_host", Kind::Url, "", "x-portkey-custom-host: where the gateway finds the provider"),
        key("portkey_metadata", Kind::JsonObject, "", "x-portkey-metadata: '{\"team\": \"search\"}'"),
        key("portkey_retries", Kind::Count { min: 0, max: 5 }, "", "retries that the gateway makes; unset: its own"),
        key("portkey_cache", Kind::Choice(&["off", "simple", "semantic"]), "off", "the gateway's own cache"),
    ],
};

/// `[catalog."NAME"]`
pub static CATALOG: Family = Family {
    name: "catalog",
    one: "a model",
    max_name: 128,
    signs: "/:@+",
    reserved: &[],
    keys: &[
        key("input", DOLLARS, "", "USD a million prompt tokens; unset, with `output`: no price is known"),
        key("cached", DOLLARS, "", "USD a million prompt tokens that its cache held; unset: as `input`"),
        key("output", DOLLARS, "", "USD a million tokens of the answer"),
        key("context", Kind::Count { min: 16, max: 1 << 30 }, "", "longest prompt and answer together, tokens"),
        key("backends", Kind::Strings, "", "which have it, the best first; none: those that list it"),
        key("upstream", Kind::Text, "", "its name there, if that differs"),
        key("strengths", Kind::Strings, "", "what it is good at: \"quality\", \"code\""),
        key("continues", Kind::Flag, "false", "goes on from a trailing assistant message"),
    ],
};

/// `[routes.NAME]`
pub static ROUTES: Family = Family {
    name: "routes",
    one: "a route",
    max_name: 64,
    signs: "",
    reserved: &[
        ("auto", "is the route by the class of the task"),
        ("local_only", "is the route that asks the engine in this process alone"),
        ("hosted_only", "is the route that asks every backend but the engine in this process"),
    ],
    keys: &[
        key("models", Kind::Strings, "", "of the catalog, the best first; \"route:NAME\" stands for another's"),
        key("local", Kind::Choice(&["first", "last", "never", "only"]), "first", "where this process's engine stands"),
        key("semantic_cache", Kind::Flag, "", "as `routing.semantic_cache`, for this route; unset: as there"),
    ],
};

/// `[flags.NAME]`
pub static FLAGS: Family = Family {
    name: "flags",
    one: "a flag",
    max_name: 64,
    signs: "",
    reserved: &[],
    keys: &[
        key("enabled", Kind::Flag, "true", "on for anyone at all"),
        key("percent", Kind::Float { min: 0.0, max: 100.0 }, "100", "tenants that have it, chosen by their name"),
        key("tenants", Kind::Strings, "", "tenants that have it whatever the percentage"),
        key("about", Kind::Text, "", "what it switches"),
    ],
};

const TIME: Kind = Kind::Seconds { min: 0.05, max: 86400.0 };
