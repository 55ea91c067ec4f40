//! Who answers `engram memory`: a server that runs, or one over the same directory inside this process.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::args::{ConfigArgs, FetchArgs, Flags};
use crate::cli::client::Client;
use crate::cli::output;
use crate::cli::target::{block_on, configured_url, first_key, quiet};
use crate::config::Secret;
use crate::startup::{self, LocalServer};

/// Where to ask, and how to answer.
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
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where the server keeps what must outlive it [default: the home of the models]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    #[command(flatten)]
    fetch: FetchArgs,
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
    /// Asks whoever answers, and gives the answer as it is.
    pub fn ask(&self, config: &ConfigArgs, ask: Ask) -> anyhow::Result<Value> {
        let mut flags = Flags::default();
        self.fetch.flags(&mut flags);
        flags.value("server.data_dir", "--data-dir", self.data_dir.as_ref());
        let settings = quiet(config.resolve(flags)?);
        crate::logging::init(&settings.log)?;
        let key = self.api_key.clone().map(Secret::new).or_else(|| first_key(&settings));
        block_on(async {
            if let Some(url) = &self.url {
                return Client::new(url, key)?.send(ask.method, &ask.path, &ask.body).await;
            }
            let client = Client::new(&configured_url(&settings), key)?;
            if client.is_engram().await {
                return client.send(ask.method, &ask.path, &ask.body).await;
            }
            let local: LocalServer = startup::start_memory(settings, self.tenant.as_deref()).await?;
            let client = Client::new(&local.url, Some(local.key.clone()))?;
            let answer = client.send(ask.method, &ask.path, &ask.body).await;
            local.stop().await;
            answer
        })
    }

    /// Asks, and prints the answer: as JSON, or as `text` makes it.
    pub fn tell(&self, config: &ConfigArgs, ask: Ask, text: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        let answer = self.ask(config, ask)?;
        match self.json {
            true => output::write(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
            false => output::write(&text(&answer)),
        }
    }
}
