//! Values that are never shown, and the files that may hold them.
//!
//! Each key that takes a secret has a `_file` beside it, which names a file that holds the secret: so do mounted
//! secrets of containers, and `ENGRAM_..._FILE` variables.

use std::collections::BTreeMap;
use std::path::Path;

pub use engram_memory::backend::Secret;

use super::file::read_capped;
use super::value::Kind;
use super::{ConfigError, Entry, Origin, Raw, Value};

/// Reads a file of keys: one a line; empty lines and lines that begin with `#` do not count.
pub(super) fn read_keys_file(path: &Path) -> Result<Vec<Secret>, String> {
    let text = read_capped(path).map_err(|reason| format!("cannot read {}: {reason}", path.display()))?;
    let keys: Vec<Secret> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Secret::new)
        .collect();
    if keys.is_empty() {
        // An empty file would quietly open the server to everyone.
        return Err(format!("{} holds no key; write one a line", path.display()));
    }
    Ok(keys)
}

/// The values of keys whose `_file` is set. A secret stated in a stronger layer than its file wins; in the same
/// layer it is an error. `table` is what the keys' names stand in, if they are a family's.
pub(super) fn from_files(
    entries: &[Entry],
    table: Option<&str>,
    errors: &mut Vec<ConfigError>,
) -> BTreeMap<&'static str, Value> {
    let mut found = BTreeMap::new();
    for file in entries {
        let (Value::Path(path), Some(name)) = (&file.value, file.key.name.strip_suffix("_file")) else { continue };
        let secret = |entry: &&Entry| entry.key.name == name && matches!(entry.key.kind, Kind::Secret | Kind::Headers);
        let Some(stated) = entries.iter().find(secret) else { continue };
        let set = stated.origin != Origin::Default;
        if set && stated.origin.rank() > file.origin.rank() {
            continue;
        }
        let value = if set && stated.origin.rank() == file.origin.rank() {
            Err(format!("and `{name}` ({}) are both set; leave one out", stated.origin))
        } else {
            read_secret(path, stated.key.kind, &file.origin)
        };
        match value {
            Ok(value) => drop(found.insert(name, value)),
            Err(problem) => {
                let key = table.map_or(file.key.name.to_owned(), |table| format!("{table}.{}", file.key.name));
                errors.push(ConfigError::BadValue { key, problem, origin: file.origin.clone() });
            }
        }
    }
    found
}

fn read_secret(path: &Path, kind: Kind, origin: &Origin) -> Result<Value, String> {
    let text = read_capped(path).map_err(|reason| format!("cannot read {}: {reason}", path.display()))?;
    if text.trim().is_empty() {
        return Err(format!("{} holds nothing; write the value into it", path.display()));
    }
    let raw = match kind {
        Kind::Headers => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            Raw::List(lines.map(|line| Raw::Text(line.to_owned())).collect())
        }
        _ => Raw::Text(text),
    };
    kind.parse(&raw, origin).map_err(|problem| format!("{}: {problem}", path.display()))
}
