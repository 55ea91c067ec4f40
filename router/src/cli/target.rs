//! Who answers `engram chat` and `engram complete`: a server that runs, or one inside this process.

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::args::{ConfigArgs, EngineArgs, FetchArgs, Flags};
use super::client::Client;
use super::output;
use crate::config::{Config, Origin, Resolved, Secret};
use crate::logging;
use crate::startup::{self, LocalServer};

/// Where to ask, and how to sample.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// The server to ask; without it the configured one is tried, and where none answers the model
    /// runs inside this command
    #[arg(long, env = "ENGRAM_URL", value_name = "URL")]
    pub url: Option<String>,
    /// API key of that server
    #[arg(long, env = "ENGRAM_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Run the model inside this command even if a server answers
    #[arg(long, conflicts_with = "url")]
    pub in_process: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens to generate
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens up to this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// The same seed gives the same text
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// Adds what was given to a request.
    pub fn add_to(&self, body: &mut Value) {
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        set("max_tokens", self.max_tokens.map(|n| json!(n)));
        set("temperature", self.temperature.map(|t| json!(t)));
        set("top_p", self.top_p.map(|p| json!(p)));
        set("seed", self.seed.map(|n| json!(n)));
        set("stop", (!self.stop.is_empty()).then(|| json!(self.stop)));
    }
}

/// A server to ask, and the model to ask it for.
pub struct Target {
    /// The way to it.
    pub client: Client,
    /// The model's id there.
    pub model: String,
    /// The server inside this process, if that is who answers; it ends with this.
    local: Option<LocalServer>,
}

impl Target {
    /// Ends the server inside this process, if there is one.
    pub async fn close(self) {
        if let Some(local) = self.local {
            local.stop().await;
        }
    }
}

/// Settings of a command that may run a model itself; to be called before standard input is read.
pub fn settings(config: &ConfigArgs, args: &TargetArgs) -> anyhow::Result<Config> {
    let mut flags = Flags::default();
    args.engine.flags(&mut flags);
    args.fetch.flags(&mut flags);
    let resolved = config.resolve(flags)?;
    let settings = quiet(resolved);
    startup::use_threads(&settings)?;
    logging::init(&settings.log)?;
    Ok(settings)
}

/// The configuration, with only warnings in the log unless somebody asked for more: for commands whose
/// output a person reads.
pub fn quiet(resolved: Resolved) -> Config {
    let mut settings = resolved.config;
    if resolved.entries.iter().any(|entry| entry.key.name == "log.level" && entry.origin == Origin::Default) {
        settings.log.level = "warn".into();
    }
    settings
}

/// Finds who answers.
pub async fn find(args: &TargetArgs, settings: Config) -> anyhow::Result<Target> {
    let key = args.api_key.clone().map(Secret::new).or_else(|| first_key(&settings));
    if let Some(url) = &args.url {
        let client = Client::new(url, key)?;
        return at(client, args.engine.model.as_deref()).await;
    }
    if !args.in_process {
        let client = Client::new(&configured_url(&settings), key)?;
        if client.is_engram().await {
            return at(client, args.engine.model.as_deref()).await;
        }
        eprintln!("no server at {}: running {} here", client.base(), settings.model.name);
    }
    let local = startup::start_local(settings).await?;
    let client = Client::new(&local.url, Some(local.key.clone()))?;
    Ok(Target { client, model: local.model.clone(), local: Some(local) })
}

/// The first configured key, without the name that may stand before it.
pub fn first_key(settings: &Config) -> Option<Secret> {
    let key = settings.server.api_keys.first()?.expose();
    Some(Secret::new(key.split_whitespace().last()?))
}

/// A running server, and the model asked for or the first it has.
async fn at(client: Client, model: Option<&str>) -> anyhow::Result<Target> {
    let model = match model {
        Some(model) => model.to_owned(),
        None => match client.models().await?.into_iter().next() {
            Some(model) => model,
            None => bail!("{} serves no model", client.base()),
        },
    };
    Ok(Target { client, model, local: None })
}

/// The address at which the configured server is reached from this machine.
pub fn configured_url(settings: &Config) -> String {
    let host = settings.server.host.as_str();
    let host = match host.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_unspecified() && address.is_ipv4() => "127.0.0.1".to_owned(),
        Ok(address) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    format!("http://{host}:{}", settings.server.port)
}

/// Runs an async command on a small runtime and ends without waiting for a blocked read of the terminal.
pub fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// Writes text as it comes.
pub fn print_piece(text: &str) -> anyhow::Result<()> {
    output::write(text)
}
