//! Changing the configuration of a running server: on SIGHUP, all of it or nothing.
//!
//! Files and variables are read anew. Then each part that can change is asked to prepare ([`Reloader::part`]): it
//! may refuse, and nothing has changed yet. Only when all agree they switch, one after the other, without waiting.
//! What cannot change without a restart is named in a warning.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::sync::watch;

use crate::config::{Config, Entry, Instance, Resolved};

/// A value that is replaced as a whole while it is read. Cheap to clone; all clones are one.
#[derive(Debug)]
pub struct Live<T>(Arc<watch::Sender<Arc<T>>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Live<T> {
    /// Holds `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(value))))
    }

    /// The value of now; it stays what it is while it is held.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces it, and wakes those who watch.
    pub fn store(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }

    /// Replaces it by what `change` makes of it, undisturbed by others who do the same.
    pub fn update(&self, change: impl FnOnce(&T) -> T) {
        self.0.send_modify(|current| *current = Arc::new(change(current)));
    }

    /// Told of every replacement from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}

/// The second half of a change: it cannot fail.
pub type Switch = Box<dyn FnOnce() + Send>;

type Prepare = Box<dyn Fn(&Config) -> anyhow::Result<Switch> + Send + Sync>;

/// Reads the configuration again, from where it came.
type Read = Box<dyn Fn() -> anyhow::Result<Resolved> + Send + Sync>;

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys and tables that are different now.
    pub changed: Vec<String>,
    /// Keys that are different in the files, and wait for a restart.
    pub waiting: Vec<String>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// Changes the running configuration.
pub struct Reloader {
    read: Read,
    /// What the server was started with: what waits for a restart is compared with it.
    started: Resolved,
    current: Mutex<Resolved>,
    parts: Vec<(&'static str, Prepare)>,
}

impl Reloader {
    /// One that has yet no parts; `read` is called at each reload.
    pub fn new(started: Resolved, read: impl Fn() -> anyhow::Result<Resolved> + Send + Sync + 'static) -> Self {
        Self { read: Box::new(read), current: Mutex::new(started.clone()), started, parts: Vec::new() }
    }

    /// Adds a part; `prepare` builds what the new configuration asks for, or says why it cannot.
    pub fn part(
        &mut self,
        name: &'static str,
        prepare: impl Fn(&Config) -> anyhow::Result<Switch> + Send + Sync + 'static,
    ) {
        self.parts.push((name, Box::new(prepare)));
    }

    /// Reads everything again and switches to it; an error means that nothing has changed.
    pub fn reload(&self) -> anyhow::Result<Report> {
        // Held throughout: two reloads at once would mix.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (self.read)()?;
        let mut switches = Vec::with_capacity(self.parts.len());
        for (name, prepare) in &self.parts {
            switches.push(prepare(&new.config).with_context(|| format!("the {name} cannot be changed"))?);
        }
        let report = compare(&self.started, &current, &new);
        for switch in switches {
            switch();
        }
        *current = new;
        Ok(report)
    }

    /// The same, told to the log.
    pub fn reload_and_tell(&self) {
        match self.reload() {
            Ok(report) => {
                for warning in &report.warnings {
                    tracing::warn!("{warning}");
                }
                for key in &report.waiting {
                    tracing::warn!("`{key}` is different in the configuration, but changes at a restart only");
                }
                match report.changed.as_slice() {
                    [] => tracing::info!("configuration read again: nothing is different"),
                    changed => tracing::info!(changed = changed.join(", "), "configuration read again"),
                }
            }
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
    }
}

/// What is different: to the configuration in use for what can change, to that of the start for what cannot.
fn compare(started: &Resolved, current: &Resolved, new: &Resolved) -> Report {
    let mut report = Report { warnings: new.warnings.clone(), ..Report::default() };
    // A certificate can be changed for another, but a port that speaks TLS goes on to do so, and one that does not.
    let tls_stays = started.config.tls.is_some() == new.config.tls.is_some();
    for (index, entry) in new.entries.iter().enumerate() {
        let live = entry.key.live && (tls_stays || entry.key.section() != "tls");
        let differs = |old: &Resolved| old.entries.get(index).is_none_or(|old: &Entry| old.value != entry.value);
        match live {
            true if differs(current) => report.changed.push(entry.key.name.into()),
            false if differs(started) => report.waiting.push(entry.key.name.into()),
            _ => {}
        }
    }
    // Files that keys name may hold something else under the same name.
    let keys = "server.api_keys".to_owned();
    if current.config.server.api_keys != new.config.server.api_keys && !report.changed.contains(&keys) {
        report.changed.push(keys);
    }
    report.changed.extend(changed_tables(current, new));
    report
}

/// Tables that are new, gone, or hold something else.
fn changed_tables(old: &Resolved, new: &Resolved) -> Vec<String> {
    let by_path = |resolved: &'_ Resolved| -> BTreeMap<String, Instance> {
        resolved.tables.iter().map(|table| (table.path(), table.clone())).collect()
    };
    let (before, mut after) = (by_path(old), by_path(new));
    let backend = |resolved: &'_ Resolved, name: &str| resolved.config.routing.backend(name).cloned();
    let mut changed = Vec::new();
    for (path, table) in before {
        let alike = after.remove(&path).is_some_and(|after| {
            let values = table.entries.iter().zip(&after.entries).all(|(old, new)| old.value == new.value);
            // The file that holds a key is the same, the key may be another.
            values && (table.family.name != "backends" || backend(old, &table.name) == backend(new, &table.name))
        });
        if !alike {
            changed.push(path);
        }
    }
    changed.extend(after.into_keys());
    changed
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
