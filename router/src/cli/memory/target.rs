//! Who answers `engram memory`: a server that runs, or one over the same directory inside this process.

use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use crate::cli::args::{ConfigArgs, FetchArgs, Flags};
use crate::cli::client::Client;
use crate::cli::output;
use crate::cli::target::{block_on, configured_url, first_key, quiet};
use crate::config::{Config, MemoryBackend, Secret};
use crate::startup::{self, LocalServer};

/// Where the memory lies, and how to answer.
#[derive(Debug, Clone, Default, Args)]
pub struct DirectoryArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where the server keeps what must outlive it [default: the home of the models]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    #[command(flatten)]
    fetch: FetchArgs,
}

impl DirectoryArgs {
    /// The configuration with these flags on top, and its log begun.
    pub fn settings(&self, config: &ConfigArgs) -> anyhow::Result<Config> {
        let mut flags = Flags::default();
        self.fetch.flags(&mut flags);
        flags.value("server.data_dir", "--data-dir", self.data_dir.as_ref());
        let settings = quiet(config.resolve(flags)?);
        crate::logging::init(&settings.log)?;
        Ok(settings)
    }

    /// The same for what is done to the directory itself.
    pub fn embedded(&self, config: &ConfigArgs) -> anyhow::Result<Config> {
        let settings = self.settings(config)?;
        if settings.memory.backend != MemoryBackend::Embedded {
            bail!("`memory.backend` is a shared engine: use its own tools for this, it is for the embedded memory");
        }
        Ok(settings)
    }

    /// Prints an answer: as JSON, or as `text` makes it.
    pub fn print(&self, answer: &Value, text: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        match self.json {
            true => output::write(&format!("{}\n", serde_json::to_string_pretty(answer)?)),
            false => output::write(&text(answer)),
        }
    }
}

/// Whom to ask.
#[derive(Debug, Clone, Default, Args)]
pub struct MemoryTarget {
    /// The server to ask; without it the configured one is tried, and where none answers the memory is opened here
    #[arg(long, env = "ENGRAM_URL", value_name = "URL")]
    url: Option<String>,
    /// API key of that server; whose memory it is follows from it
    #[arg(long, env = "ENGRAM_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Whose memory, where it is opened here [default: that of the first configured key]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    pub directory: DirectoryArgs,
}

/// Where records are kept, as flags.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scope")]
pub struct ScopeArgs {
    /// Domain [default: the key's, `coding` unless configured]
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Project
    #[arg(long, short, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Session
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
}

impl ScopeArgs {
    /// As the API takes it.
    pub fn json(&self) -> Value {
        let fields = [("domain", &self.domain), ("project", &self.project), ("session", &self.session)];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?))));
        Value::Object(given.collect())
    }
}

/// One question to the API.
pub struct Ask {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'static str,
    /// Path and parameters.
    pub path: String,
    /// Body of a `POST`.
    pub body: Value,
}

impl MemoryTarget {
    /// Does `work` with whoever answers.
    pub fn with<T>(
        &self,
        config: &ConfigArgs,
        work: impl AsyncFnOnce(Arc<Client>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let settings = self.directory.settings(config)?;
        block_on(async {
            if let Some(client) = self.running(&settings).await? {
                return work(client).await;
            }
            let local: LocalServer = startup::start_memory(settings, self.tenant.as_deref()).await?;
            let client = Client::new(&local.url, Some(local.key.clone()))?;
            let result = work(Arc::new(client)).await;
            local.stop().await;
            result
        })
    }

    /// The server that was named, or the configured one if it runs.
    pub async fn running(&self, settings: &Config) -> anyhow::Result<Option<Arc<Client>>> {
        let key = self.api_key.clone().map(Secret::new).or_else(|| first_key(settings));
        if let Some(url) = &self.url {
            return Ok(Some(Arc::new(Client::new(url, key)?)));
        }
        let client = Client::new(&configured_url(settings), key)?;
        Ok(client.is_engram().await.then(|| Arc::new(client)))
    }

    /// Asks, and prints the answer: as JSON, or as `text` makes it.
    pub fn tell(&self, config: &ConfigArgs, ask: Ask, text: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        let send = async |client: Arc<Client>| client.send(ask.method, &ask.path, &ask.body).await;
        let answer = self.with(config, send)?;
        self.directory.print(&answer, text)
    }
}
