//! Where events go: standard error, as lines for people or as JSON objects.

use std::io::IsTerminal;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// What is logged, changeable while it is.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Logs by another filter from now on.
    pub fn set(&self, filter: EnvFilter) {
        // It fails only where somebody else's subscriber is in use, whose filter is not ours to change.
        if let Err(error) = self.0.reload(filter) {
            tracing::debug!(%error, "the log level is another's");
        }
    }
}

/// Starts logging for the whole process; a second call changes nothing.
pub fn init(config: &LogConfig) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Failing means that somebody, a test perhaps, has set a subscriber before: theirs stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(LogLevel(handle))
}

/// What the configuration has logged.
pub fn filter(config: &LogConfig) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&config.level)
        .map_err(|error| anyhow::anyhow!("`log.level`: {:?} is no filter: {error}", config.level))
}
