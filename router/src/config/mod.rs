//! What the server was told, from all places at once: default < file < environment < flag.
//!
//! Everything is resolved once, into an immutable [`Config`]; each value remembers where it came from
//! ([`Origin`]), so that `engram config show` can say so. All keys stand in one table ([`keys::KEYS`]):
//! their names, kinds, defaults and help have no second place.
//!
//! Written by hand over `toml`'s spanned values rather than over a layering crate: what users need
//! from a config error is the file *and the line*, the key, the value and the cure, and that must hold
//! through includes and `${VAR}`s; provenance by line is what the layering crates do not keep.

mod environment;
mod error;
mod file;
mod interpolate;
pub mod keys;
mod memory;
mod origin;
mod secrets;
mod show;
mod size;
mod suggest;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigError, ConfigErrors};
pub use memory::{KeyDefaults, MemoryBackend, MemorySettings, RecallDefault, Remember};
pub use origin::Origin;
pub use secrets::Secret;
pub use show::{show_json, show_text};
pub use size::{format_size, human_size, parse_size};
pub use value::{Device, LogFormat, Raw, Value};

use engram_inference::KvType;
use keys::Key;

/// `[server]`: where it listens and whom it lets in.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address or name to listen on.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Keys that may use the API; none: everyone who reaches it.
    pub api_keys: Vec<Secret>,
    /// Listening beyond loopback without keys was asked for.
    pub insecure_no_auth: bool,
    /// Origins that browsers may call from; none: CORS is off.
    pub cors_origins: Vec<String>,
    /// Largest request body, bytes.
    pub body_limit_bytes: u64,
    /// A client that has not sent its headers by then is cut off.
    pub header_timeout: Duration,
    /// How long running streams may go on after SIGTERM.
    pub drain_deadline: Duration,
    /// Longest a request may take; `None`: as long as it needs.
    pub request_timeout: Option<Duration>,
    /// Connections open at once.
    pub max_connections: usize,
    /// Where the server keeps what must outlive it.
    pub data_dir: PathBuf,
}

/// `[model]`: what is served and on which device.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Catalog id, `owner/repo[:QUANT][@revision]`, or a path.
    pub name: String,
    /// Weights to load instead of what `name` resolves to; `name` is then only what clients call it.
    pub path: Option<PathBuf>,
    /// Where it runs.
    pub device: Device,
}

/// `[engine]`: how much runs at once and in how much memory.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens of one step.
    pub max_batch_tokens: usize,
    /// Gap between two tokens of a stream that prompts being read may make; `None`: any.
    pub max_itl: Option<Duration>,
    /// Tokens of a KV block.
    pub block_size: usize,
    /// Budget of the KV cache, bytes.
    pub kv_memory: u64,
    /// What the KV cache holds.
    pub kv_dtype: KvType,
    /// Requests that may wait.
    pub queue_limit: usize,
    /// Equal prompt prefixes are computed once.
    pub prefix_cache: bool,
    /// Longest prompt and output together, tokens; `None`: the model's own limit.
    pub max_model_len: Option<usize>,
    /// Worker threads of a step; `None`: what the machine (or its cgroup) grants.
    pub threads: Option<usize>,
    /// Each is bound to a core, where they are as many as cores.
    pub pin_threads: bool,
}

/// `[log]`: what is said, in which shape.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// A level (`info`) or a filter (`engram_router=debug,info`).
    pub level: String,
    /// One line of text or one JSON object an event.
    pub format: LogFormat,
}

/// `[models]`: where models are kept and fetched from.
#[derive(Debug, Clone)]
pub struct ModelsConfig {
    /// Home of all downloads.
    pub home: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// Branch, tag or commit of the hub repository.
    pub revision: Option<String>,
}

/// Everything, resolved once.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: ServerConfig,
    /// `[model]`
    pub model: ModelConfig,
    /// `[engine]`
    pub engine: EngineSettings,
    /// `[log]`
    pub log: LogConfig,
    /// `[models]`
    pub models: ModelsConfig,
    /// `[memory]`
    pub memory: MemorySettings,
}

/// A value given on the command line for a key.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// The key it sets.
    pub key: &'static str,
    /// The flag as typed, such as `--port`.
    pub flag: &'static str,
    /// Its text.
    pub text: String,
}

/// Where values may come from; tests build their own, the CLI takes the process's.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// TOML files, later ones win.
    pub files: Vec<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The command line.
    pub flags: Vec<FlagValue>,
}

/// The effective value of one key, and who set it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: &'static Key,
    /// Its value.
    pub value: Value,
    /// Who set it.
    pub origin: Origin,
}

/// A configuration with its provenance.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// One entry a key, in the table's order.
    pub entries: Vec<Entry>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// A value as some layer states it, before it is checked.
struct Stated {
    key: &'static Key,
    raw: Raw,
    origin: Origin,
}

/// Resolves all layers; on failure every problem found is told, not only the first.
pub fn resolve(sources: &Sources) -> Result<Resolved, ConfigErrors> {
    let mut errors = Vec::new();
    let mut stated = Vec::new();
    for path in &sources.files {
        match file::load(path, &sources.env) {
            Ok(loaded) => {
                stated.extend(loaded.values);
                errors.extend(loaded.errors);
            }
            Err(error) => errors.push(error),
        }
    }
    environment::read(&sources.env, &mut stated, &mut errors);
    for flag in &sources.flags {
        match keys::find(flag.key) {
            Some(key) => {
                stated.push(Stated { key, raw: Raw::Text(flag.text.clone()), origin: Origin::Flag(flag.flag) })
            }
            None => errors.push(ConfigError::unknown_key(flag.key, Origin::Flag(flag.flag))),
        }
    }

    let mut entries: Vec<Entry> =
        keys::KEYS.iter().map(|key| Entry { key, value: key.default_value(), origin: Origin::Default }).collect();
    for Stated { key, raw, origin } in stated {
        match key.parse(&raw, &origin) {
            Ok(value) => {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.key.name == key.name) {
                    entry.value = value;
                    entry.origin = origin;
                }
            }
            Err(problem) => errors.push(ConfigError::BadValue { key: key.name.into(), problem, origin }),
        }
    }
    fill_directories(&mut entries, &sources.env, &mut errors);

    let mut warnings = Vec::new();
    let config = build(&entries, &mut errors, &mut warnings);
    if errors.is_empty() { Ok(Resolved { config, entries, warnings }) } else { Err(ConfigErrors(errors)) }
}

/// The directories whose default depends on the environment.
fn fill_directories(entries: &mut [Entry], env: &BTreeMap<String, String>, errors: &mut Vec<ConfigError>) {
    let unset = |entries: &[Entry], name: &str| {
        entries.iter().position(|entry| entry.key.name == name && entry.value == Value::Unset)
    };
    if let Some(index) = unset(entries, "models.home") {
        match environment::default_home(env) {
            Some(home) => entries[index].value = Value::Path(home),
            None => errors.push(ConfigError::BadValue {
                key: "models.home".into(),
                problem: "there is no home directory to put models in; set ENGRAM_HOME".into(),
                origin: Origin::Default,
            }),
        }
    }
    if let Some(index) = unset(entries, "server.data_dir")
        && let Some(home) = entries.iter().find(|entry| entry.key.name == "models.home")
    {
        let value = home.value.clone();
        entries[index].value = value;
    }
    if let Some(index) = unset(entries, "memory.dir")
        && let Some(Value::Path(data)) =
            entries.iter().find(|entry| entry.key.name == "server.data_dir").map(|entry| &entry.value)
    {
        let dir = data.join("memory");
        entries[index].value = Value::Path(dir);
    }
}

/// Fills the struct from the entries, and checks what concerns several keys at once.
fn build(entries: &[Entry], errors: &mut Vec<ConfigError>, warnings: &mut Vec<String>) -> Config {
    let get = Getter { entries };
    let mut api_keys = get.secrets("server.api_keys");
    if let Some(path) = get.path("server.api_keys_file") {
        match secrets::read_keys_file(&path) {
            Ok(keys) => api_keys.extend(keys),
            Err(problem) => errors.push(get.bad("server.api_keys_file", problem)),
        }
    }
    let config = Config {
        server: ServerConfig {
            host: get.text("server.host"),
            port: get.number("server.port") as u16,
            api_keys,
            insecure_no_auth: get.flag("server.insecure_no_auth"),
            cors_origins: get.strings("server.cors_origins"),
            body_limit_bytes: get.number("server.body_limit_bytes"),
            header_timeout: get.seconds("server.header_timeout_s"),
            drain_deadline: get.seconds("server.drain_deadline_s"),
            request_timeout: Some(get.seconds("server.request_timeout_s")).filter(|time| !time.is_zero()),
            max_connections: get.number("server.max_connections") as usize,
            data_dir: get.path("server.data_dir").unwrap_or_default(),
        },
        model: ModelConfig {
            name: get.text("model.name"),
            path: get.path("model.path"),
            device: get.device("model.device"),
        },
        engine: EngineSettings {
            max_num_seqs: get.number("engine.max_num_seqs") as usize,
            max_batch_tokens: get.number("engine.max_batch_tokens") as usize,
            max_itl: Some(get.number("engine.max_itl_ms")).filter(|ms| *ms > 0).map(Duration::from_millis),
            block_size: get.number("engine.block_size") as usize,
            kv_memory: get.number("engine.kv_memory"),
            kv_dtype: KvType::from_name(&get.text("engine.kv_dtype")).unwrap_or(KvType::F16),
            queue_limit: get.number("engine.queue_limit") as usize,
            prefix_cache: get.flag("engine.prefix_cache"),
            max_model_len: get.optional_number("engine.max_model_len"),
            threads: get.optional_number("engine.threads"),
            pin_threads: get.flag("engine.pin_threads"),
        },
        log: LogConfig {
            level: get.text("log.level"),
            format: if get.text("log.format") == "json" { LogFormat::Json } else { LogFormat::Text },
        },
        models: ModelsConfig {
            home: get.path("models.home").unwrap_or_default(),
            offline: get.flag("models.offline"),
            revision: get.optional_text("models.revision"),
        },
        memory: memory::build(&get, errors, warnings),
    };
    if config.engine.max_batch_tokens < config.engine.max_num_seqs {
        errors.push(get.bad(
            "engine.max_batch_tokens",
            format!(
                "{} is less than `engine.max_num_seqs` ({}): a step could not give each running sequence its token; \
                 raise this or lower that",
                config.engine.max_batch_tokens, config.engine.max_num_seqs
            ),
        ));
    }
    if config.server.insecure_no_auth && !config.server.api_keys.is_empty() {
        warnings.push("`server.insecure_no_auth` has no effect: API keys are configured, so they are asked for".into());
    }
    config
}

/// Typed access to the entries. The table's kinds decide which variant a key has, and a test reads
/// every key once, so the fallbacks here are never taken.
struct Getter<'a> {
    entries: &'a [Entry],
}

impl Getter<'_> {
    fn value(&self, name: &str) -> &Value {
        self.entries.iter().find(|entry| entry.key.name == name).map_or(&Value::Unset, |entry| &entry.value)
    }

    fn bad(&self, name: &str, problem: String) -> ConfigError {
        let origin = self
            .entries
            .iter()
            .find(|entry| entry.key.name == name)
            .map_or(Origin::Default, |entry| entry.origin.clone());
        ConfigError::BadValue { key: name.into(), problem, origin }
    }

    /// Whether somebody set it.
    fn is_set(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key.name == name && entry.origin != Origin::Default)
    }

    fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    fn optional_text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Number(number) | Value::Size(number) => *number,
            _ => 0,
        }
    }

    fn optional_number(&self, name: &str) -> Option<usize> {
        match self.value(name) {
            Value::Number(number) => Some(*number as usize),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Flag(true))
    }

    fn seconds(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Seconds(time) => *time,
            _ => Duration::ZERO,
        }
    }

    fn strings(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::Strings(strings) => strings.clone(),
            _ => Vec::new(),
        }
    }

    fn secrets(&self, name: &str) -> Vec<Secret> {
        match self.value(name) {
            Value::Secrets(secrets) => secrets.clone(),
            _ => Vec::new(),
        }
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        match self.value(name) {
            Value::Secret(secret) => Some(secret.clone()),
            _ => None,
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        match self.value(name) {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    fn device(&self, name: &str) -> Device {
        match self.value(name) {
            Value::Device(device) => *device,
            _ => Device::Auto,
        }
    }
}

#[cfg(test)]
mod tests;
