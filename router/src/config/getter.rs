//! Typed access to resolved entries, for those who build the structs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderName;

use super::{ConfigError, Device, Entry, Instance, Origin, Secret, Value, secrets};

/// Typed access to the entries. The table's kinds decide which variant a key has, and a test reads
/// every key once, so the fallbacks here are never taken.
pub(super) struct Getter<'a> {
    entries: &'a [Entry],
    /// The table with a free name whose keys they are.
    table: Option<&'a Instance>,
    /// What was read from the files that `_file` keys name.
    from_files: BTreeMap<&'static str, Value>,
}

impl<'a> Getter<'a> {
    /// Of the keys outside families.
    pub fn of_keys(entries: &'a [Entry], errors: &mut Vec<ConfigError>) -> Self {
        Self { entries, table: None, from_files: secrets::from_files(entries, None, errors) }
    }

    /// Of one table.
    pub fn of_table(table: &'a Instance, errors: &mut Vec<ConfigError>) -> Self {
        let from_files = secrets::from_files(&table.entries, Some(&table.path()), errors);
        Self { entries: &table.entries, table: Some(table), from_files }
    }
}

impl Getter<'_> {
    fn value(&self, name: &str) -> &Value {
        if let Some(value) = self.from_files.get(name) {
            return value;
        }
        self.entries.iter().find(|entry| entry.key.name == name).map_or(&Value::Unset, |entry| &entry.value)
    }

    /// Whether it has another value than if nobody had said anything.
    pub fn is_set(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key.name == name && entry.value != entry.key.default_value())
    }

    /// What is wrong with a key, with the place of its value, or of its table where it has none.
    pub fn bad(&self, name: &str, problem: String) -> ConfigError {
        let stated = self.entries.iter().find(|entry| entry.key.name == name && entry.origin != Origin::Default);
        let origin = match (stated, self.table) {
            (Some(entry), _) => entry.origin.clone(),
            (None, Some(table)) => table.origin.clone(),
            (None, None) => Origin::Default,
        };
        let key = self.table.map_or(name.to_owned(), |table| format!("{}.{name}", table.path()));
        ConfigError::BadValue { key, problem, origin }
    }

    pub fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    pub fn optional_text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub fn number(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Number(number) | Value::Size(number) => *number,
            _ => 0,
        }
    }

    pub fn optional_number(&self, name: &str) -> Option<usize> {
        match self.value(name) {
            Value::Number(number) => Some(*number as usize),
            _ => None,
        }
    }

    pub fn float(&self, name: &str) -> f64 {
        self.optional_float(name).unwrap_or_default()
    }

    pub fn optional_float(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        match self.value(name) {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Flag(true))
    }

    pub fn seconds(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Seconds(time) => *time,
            _ => Duration::ZERO,
        }
    }

    pub fn strings(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::Strings(strings) => strings.clone(),
            _ => Vec::new(),
        }
    }

    pub fn secrets(&self, name: &str) -> Vec<Secret> {
        match self.value(name) {
            Value::Secrets(secrets) => secrets.clone(),
            _ => Vec::new(),
        }
    }

    pub fn secret(&self, name: &str) -> Option<Secret> {
        match self.value(name) {
            Value::Secret(secret) => Some(secret.clone()),
            _ => None,
        }
    }

    pub fn headers(&self, name: &str) -> Vec<(HeaderName, Secret)> {
        match self.value(name) {
            Value::Headers(headers) => headers.clone(),
            _ => Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        match self.value(name) {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    pub fn device(&self, name: &str) -> Device {
        match self.value(name) {
            Value::Device(device) => *device,
            _ => Device::Auto,
        }
    }
}
