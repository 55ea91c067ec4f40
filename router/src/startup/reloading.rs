//! Which parts of a running server follow the configuration.

use crate::app::AppState;
use crate::auth::ApiKeys;
use crate::config::Resolved;
use crate::logging::{self, LogLevel};
use crate::reload::Reloader;
use crate::tls::{self, Tls};

/// Reads the configuration again, from the files, variables and flags of the start.
pub type ReadAgain = Box<dyn Fn() -> anyhow::Result<Resolved> + Send + Sync>;

/// A reloader of all that can change.
pub fn reloader(
    started: Resolved,
    read: ReadAgain,
    state: &AppState,
    keys: &ApiKeys,
    tls: Option<&Tls>,
    level: LogLevel,
) -> Reloader {
    let mut reloader = Reloader::new(started, read);
    reloader.part("log level", move |config| {
        let (level, filter) = (level.clone(), logging::filter(&config.log)?);
        Ok(Box::new(move || level.set(filter)))
    });
    let flags = state.flags().clone();
    reloader.part("flags", move |config| {
        let (flags, configured) = (flags.clone(), config.flags.clone());
        Ok(Box::new(move || flags.replace(&configured)))
    });
    let routing = state.routing().clone();
    reloader.part("routing", move |config| Ok(Box::new(routing.prepare(config.routing.clone())?)));
    let keys = keys.clone();
    reloader.part("API keys", move |config| {
        let (keys, configured) = (keys.clone(), super::api_keys(config)?);
        Ok(Box::new(move || keys.configure(&configured)))
    });
    if let Some(tls) = tls.cloned() {
        reloader.part("certificate", move |config| {
            let loaded = config.tls.as_ref().map(tls::load).transpose()?;
            let tls = tls.clone();
            Ok(Box::new(move || {
                if let Some(loaded) = loaded {
                    tls.show(loaded);
                }
            }))
        });
    }
    reloader
}
