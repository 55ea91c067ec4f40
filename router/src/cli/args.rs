//! Flags that several commands share, and how they become settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use crate::config::{ConfigErrors, FlagValue, Resolved, Sources, resolve};

/// Where settings are read from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Config file; may be repeated, later ones win [env: ENGRAM_CONFIG] [default:
    /// ~/.config/engram/config.toml if it exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    pub config: Vec<PathBuf>,
}

impl ConfigArgs {
    /// Resolves the process's configuration with these flags on top.
    pub fn resolve(&self, flags: Flags) -> Result<Resolved, ConfigErrors> {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        resolve(&Sources { files: self.files(&env), env, flags: flags.0 })
    }

    fn files(&self, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        if !self.config.is_empty() {
            return self.config.clone();
        }
        let set = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // Named files must exist; the default one need not.
        if let Some(file) = set("ENGRAM_CONFIG") {
            return vec![file];
        }
        set("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .map(|dir| dir.join("engram/config.toml"))
            .filter(|file| file.is_file())
            .into_iter()
            .collect()
    }
}

/// Settings given on the command line.
#[derive(Debug, Default)]
pub struct Flags(pub Vec<FlagValue>);

impl Flags {
    /// A flag with a value, if it was given.
    pub fn value(&mut self, key: &'static str, flag: &'static str, value: Option<&String>) {
        if let Some(text) = value {
            self.0.push(FlagValue { key, flag, text: text.clone() });
        }
    }

    /// A flag without one, if it was given; it sets `text`.
    pub fn switch(&mut self, key: &'static str, flag: &'static str, given: bool, text: &str) {
        if given {
            self.0.push(FlagValue { key, flag, text: text.into() });
        }
    }
}

/// Where models are kept and fetched from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Models")]
pub struct FetchArgs {
    /// Home of all downloads [env: ENGRAM_HOME] [default: ~/.local/share/engram]
    #[arg(long, value_name = "DIR")]
    pub home: Option<String>,
    /// Never touch the network; what is missing is an error [env: ENGRAM_OFFLINE]
    #[arg(long)]
    pub offline: bool,
    /// Branch, tag or commit of the hub repository
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
}

impl FetchArgs {
    /// Adds what was given.
    pub fn flags(&self, flags: &mut Flags) {
        flags.value("models.home", "--home", self.home.as_ref());
        flags.switch("models.offline", "--offline", self.offline, "true");
        flags.value("models.revision", "--revision", self.revision.as_ref());
    }
}

/// Which model, on which device, in how much memory.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Catalog id (see `engram models`), owner/repo[:QUANT][@revision] of the hub, a path, or none: only backends answer
    /// [env: ENGRAM_MODEL] [default: qwen2.5-coder-0.5b-instruct]
    #[arg(long, short, value_name = "NAME")]
    pub model: Option<String>,
    /// auto, cpu or cuda:N [env: ENGRAM_DEVICE] [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Budget of the KV cache [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub kv_memory: Option<String>,
    /// What the KV cache holds: f16, f32 or int8 [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub kv_dtype: Option<String>,
    /// Sequences that run at once [default: 64]
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<String>,
    /// Tokens of one step [default: 512]
    #[arg(long, value_name = "N")]
    pub max_batch_tokens: Option<String>,
    /// Longest gap, in ms, that prompts being read put between two tokens of a stream; 0: no limit [default: 200]
    #[arg(long, value_name = "MS")]
    pub max_itl_ms: Option<String>,
    /// Tokens of a KV block, a power of two [default: 16]
    #[arg(long, value_name = "N")]
    pub block_size: Option<String>,
    /// Requests that may wait; past it they are refused with 429 [default: 256]
    #[arg(long, value_name = "N")]
    pub queue_limit: Option<String>,
    /// Longest prompt and output together, in tokens [default: the model's own limit]
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<String>,
    /// Compute equal prompt prefixes anew each time
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// Worker threads of a step [env: ENGRAM_THREADS] [default: what the machine grants]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
}

impl EngineArgs {
    /// Adds what was given.
    pub fn flags(&self, flags: &mut Flags) {
        flags.value("model.name", "--model", self.model.as_ref());
        flags.value("model.device", "--device", self.device.as_ref());
        flags.value("engine.kv_memory", "--kv-memory", self.kv_memory.as_ref());
        flags.value("engine.kv_dtype", "--kv-dtype", self.kv_dtype.as_ref());
        flags.value("engine.max_num_seqs", "--max-num-seqs", self.max_num_seqs.as_ref());
        flags.value("engine.max_batch_tokens", "--max-batch-tokens", self.max_batch_tokens.as_ref());
        flags.value("engine.max_itl_ms", "--max-itl-ms", self.max_itl_ms.as_ref());
        flags.value("engine.block_size", "--block-size", self.block_size.as_ref());
        flags.value("engine.queue_limit", "--queue-limit", self.queue_limit.as_ref());
        flags.value("engine.max_model_len", "--max-model-len", self.max_model_len.as_ref());
        flags.switch("engine.prefix_cache", "--no-prefix-cache", self.no_prefix_cache, "false");
        flags.value("engine.threads", "--threads", self.threads.as_ref());
    }
}

/// Where the server listens and whom it lets in.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Address or name to listen on [env: ENGRAM_HOST] [default: 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// TCP port; 0 takes a free one [env: ENGRAM_PORT] [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Where the server keeps what must outlive it [default: the home of the models]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// A file of API keys, one a line (single keys: ENGRAM_API_KEYS, separated by commas)
    #[arg(long, alias = "api-key-file", value_name = "FILE")]
    pub api_keys_file: Option<String>,
    /// Listen beyond loopback without keys: everyone who reaches the port may use it
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// Origins that browsers may call from, separated by commas [default: none, CORS is off]
    #[arg(long, value_name = "ORIGINS")]
    pub cors_origins: Option<String>,
    /// Longest a request may take, in seconds; 0: no limit [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub request_timeout: Option<String>,
    /// Time that running streams have after SIGTERM, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub drain_deadline: Option<String>,
}

impl ServerArgs {
    /// Adds what was given.
    pub fn flags(&self, flags: &mut Flags) {
        flags.value("server.host", "--host", self.host.as_ref());
        flags.value("server.port", "--port", self.port.as_ref());
        flags.value("server.data_dir", "--data-dir", self.data_dir.as_ref());
        flags.value("server.api_keys_file", "--api-keys-file", self.api_keys_file.as_ref());
        flags.switch("server.insecure_no_auth", "--insecure-no-auth", self.insecure_no_auth, "true");
        flags.value("server.cors_origins", "--cors-origins", self.cors_origins.as_ref());
        flags.value("server.request_timeout_s", "--request-timeout", self.request_timeout.as_ref());
        flags.value("server.drain_deadline_s", "--drain-deadline", self.drain_deadline.as_ref());
    }
}

/// What is logged.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// error, warn, info, debug, trace, or a filter [env: ENGRAM_LOG] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl LogArgs {
    /// Adds what was given.
    pub fn flags(&self, flags: &mut Flags) {
        flags.value("log.level", "--log-level", self.log_level.as_ref());
        flags.value("log.format", "--log-format", self.log_format.as_ref());
    }
}
