//! The environment as a layer: `ENGRAM_SERVER_PORT` sets `server.port`.
//!
//! Keys of tables with free names too: `ENGRAM_BACKENDS_NAME_API_KEY`, once a file has `[backends.NAME]`.
//! A misspelt variable is an error like a misspelt key. Left alone are the variables that other parts
//! read ([`ELSEWHERE`]) and those that Kubernetes puts there for a service named `engram`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::families::{FAMILIES, Instance};
use super::keys::{KEYS, SECTIONS};
use super::{ConfigError, Origin, Stated, suggest};

/// `ENGRAM_` variables that set no key: the config file itself, the CPU's instruction set (`kernels`),
/// the package index of the mirror (`models`), the client's key and address (`chat`, `complete`).
const ELSEWHERE: [&str; 5] = ["ENGRAM_CONFIG", "ENGRAM_ISA", "ENGRAM_PACKAGE_INDEX", "ENGRAM_API_KEY", "ENGRAM_URL"];

/// Adds what the environment states about keys and about the tables that files have.
pub(super) fn read(
    env: &BTreeMap<String, String>,
    tables: &[Instance],
    stated: &mut Vec<Stated>,
    errors: &mut Vec<ConfigError>,
) {
    // A key's short name first, so that its full one wins.
    let mut known = Vec::new();
    for key in KEYS {
        known.extend(key.env_alias.map(str::to_owned));
        known.push(key.env());
        for name in key.env_alias.map(str::to_owned).into_iter().chain([key.env()]) {
            let Some(text) = env.get(&name).filter(|text| !is_service_link(&name, text)) else {
                continue;
            };
            // An empty variable counts as absent: that is how compose files and shells "unset" one.
            if !text.is_empty() {
                stated.push(Stated::plain(key, text, Origin::Env(name)));
            }
        }
    }
    known.extend(read_tables(env, tables, stated, errors));
    for (name, text) in env {
        let foreign = !name.starts_with("ENGRAM_")
            || ELSEWHERE.contains(&name.as_str())
            || known.contains(name)
            || is_service_link(name, text);
        if foreign {
            continue;
        }
        let nearest = suggest::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        let in_section = SECTIONS.iter().copied().chain(FAMILIES.map(|family| family.name)).any(|section| {
            name.strip_prefix("ENGRAM_").is_some_and(|rest| {
                rest.strip_prefix(&section.to_uppercase()).is_some_and(|rest| rest.starts_with('_'))
            })
        });
        // A variable that resembles none of ours is somebody else's.
        if in_section || nearest.is_some() {
            errors.push(ConfigError::UnknownVariable { name: suggest::shorten(name), nearest });
        }
    }
}

/// Adds what the environment states about tables, and returns the names of all variables that could.
fn read_tables(
    env: &BTreeMap<String, String>,
    tables: &[Instance],
    stated: &mut Vec<Stated>,
    errors: &mut Vec<ConfigError>,
) -> Vec<String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for table in tables {
        let prefix = table.family.env_prefix(&table.name);
        // There may be thousands of tables, and few of them have variables.
        if !env.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix)) {
            continue;
        }
        for key in table.family.keys {
            let name = format!("{prefix}{}", key.name.to_uppercase());
            let path = format!("{}.{}", table.path(), key.name);
            if let Some(text) = env.get(&name).filter(|text| !text.is_empty() && !is_service_link(&name, text)) {
                let origin = Origin::Env(name.clone());
                match known.get(&name) {
                    Some(other) => errors.push(ConfigError::BadValue {
                        key: path.clone(),
                        problem: format!("and `{other}` are both set by this variable; rename one of the tables"),
                        origin,
                    }),
                    None => {
                        let table = Some((table.family, table.name.clone()));
                        stated.push(Stated { table, ..Stated::plain(key, text, origin) });
                    }
                }
            }
            known.insert(name, path);
        }
    }
    known.into_keys().collect()
}

/// Kubernetes tells every pod of a service named `engram` (or `engram-server`) variables such as
/// `ENGRAM_PORT=tcp://10.0.0.1:80`, `ENGRAM_SERVICE_HOST` and `ENGRAM_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str, text: &str) -> bool {
    text.starts_with("tcp://")
        || text.starts_with("udp://")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Where models live unless told: `$XDG_DATA_HOME/engram`, else `~/.local/share/engram`.
/// (`$ENGRAM_HOME` sets `models.home` itself.)
pub(super) fn default_home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification has relative paths ignored.
    set("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .map(|path| path.join("engram"))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/engram")))
}
