//! What the server was told, from all places at once: default < file < environment < flag.
//!
//! Everything is resolved once, into an immutable [`Config`]; each value remembers where it came from
//! ([`Origin`]), so that `engram config show` can say so. All keys stand in one table ([`keys::KEYS`]), those of
//! tables with free names in another ([`families`]): their names, kinds, defaults and help have no second place.
//!
//! Written by hand over `toml`'s spanned values rather than over a layering crate: what users need
//! from a config error is the file *and the line*, the key, the value and the cure, and that must hold
//! through includes and `${VAR}`s; provenance by line is what the layering crates do not keep.

mod admin;
mod environment;
mod error;
pub mod families;
mod file;
mod flags;
mod getter;
mod interpolate;
pub mod keys;
mod memory;
mod origin;
mod outgoing;
mod routes;
mod routing;
mod secrets;
mod show;
mod size;
mod suggest;
mod tls;
mod trace;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

pub use admin::AdminConfig;
pub use error::{ConfigError, ConfigErrors};
pub use families::{Family, Instance};
pub use flags::FlagConfig;
pub use memory::{KeyDefaults, MemoryBackend, MemorySettings, RecallDefault, Remember};
pub use origin::Origin;
pub use routes::{BUILT_IN as BUILT_IN_ROUTES, LocalUse, RouteConfig};
pub use routing::{
    BackendConfig, BackendKind, BreakerConfig, CatalogModel, LOCAL, ModelPrice, PortkeyCache, PortkeyConfig,
    RoutingConfig,
};
pub use secrets::Secret;
pub use show::{show_json, show_text};
pub use size::{format_size, human_size, parse_size};
pub use tls::TlsConfig;
pub use trace::TraceConfig;
pub use value::{Device, LogFormat, Raw, Value, parse_seconds};

use engram_inference::KvType;
use families::Tables;
use getter::Getter;
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
    /// Catalog id, `owner/repo[:QUANT][@revision]`, a path, or `none`.
    pub name: String,
    /// Weights to load instead of what `name` resolves to; `name` is then only what clients call it.
    pub path: Option<PathBuf>,
    /// Where it runs.
    pub device: Device,
}

impl ModelConfig {
    /// Whether this process serves no model of its own, and only asks others (`model.name = "none"`).
    pub fn is_none(&self) -> bool {
        self.path.is_none() && self.name == "none"
    }
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
    /// `[routing]`, `[backends.*]`, `[catalog.*]`, `[routes.*]`
    pub routing: RoutingConfig,
    /// `[flags.*]`
    pub flags: Vec<FlagConfig>,
    /// `[tls]`; `None`: HTTP without TLS.
    pub tls: Option<TlsConfig>,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[trace]`; `None`: spans go nowhere.
    pub trace: Option<TraceConfig>,
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
    /// The tables with free names, family by family, each in the order in which files name them.
    pub tables: Vec<Instance>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// A value as some layer states it, before it is checked.
struct Stated {
    key: &'static Key,
    /// The family and name of its table, if that is free.
    table: Option<(&'static Family, String)>,
    raw: Raw,
    /// The value with its variables unread, if it has any.
    written: Option<Raw>,
    origin: Origin,
}

impl Stated {
    /// A value of a key outside families that is taken as it is.
    fn plain(key: &'static Key, text: &str, origin: Origin) -> Self {
        Self { key, table: None, raw: Raw::Text(text.to_owned()), written: None, origin }
    }
}

/// Resolves all layers; on failure every problem found is told, not only the first.
pub fn resolve(sources: &Sources) -> Result<Resolved, ConfigErrors> {
    let mut errors = Vec::new();
    let mut stated = Vec::new();
    let mut tables = Tables::default();
    for path in &sources.files {
        match file::load(path, &sources.env) {
            Ok(loaded) => {
                stated.extend(loaded.values);
                errors.extend(loaded.errors);
                for table in loaded.tables {
                    tables.declare(table, &mut errors);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    environment::read(&sources.env, tables.all(), &mut stated, &mut errors);
    for flag in &sources.flags {
        let origin = Origin::Flag(flag.flag);
        match keys::find(flag.key) {
            Some(key) => stated.push(Stated::plain(key, &flag.text, origin)),
            None => errors.push(ConfigError::unknown_key(flag.key, origin)),
        }
    }

    let mut entries: Vec<Entry> =
        keys::KEYS.iter().map(|key| Entry { key, value: key.default_value(), origin: Origin::Default }).collect();
    for statement in stated {
        apply(statement, &mut entries, &mut tables, &mut errors);
    }
    let tables = tables.sorted();
    fill_directories(&mut entries, &sources.env, &mut errors);

    let mut warnings = Vec::new();
    let refused: BTreeSet<String> = errors.iter().filter_map(ConfigError::key).map(str::to_owned).collect();
    let told = errors.len();
    let config = build(&entries, &tables, &mut errors, &mut warnings);
    // A key whose value was refused reads as unset: that it is so needs no second complaint.
    let mut index = 0;
    errors.retain(|error| {
        index += 1;
        index <= told || error.key().is_none_or(|key| !refused.contains(key))
    });
    if errors.is_empty() { Ok(Resolved { config, entries, tables, warnings }) } else { Err(ConfigErrors(errors)) }
}

/// `backends.NAME.url`, or `server.port`.
fn key_path(key: &Key, table: Option<(&Family, &str)>) -> String {
    table.map_or(key.name.into(), |(family, name)| format!("{}.{}", family.path(name), key.name))
}

/// Checks a value and puts it in the place of a weaker one.
fn apply(stated: Stated, entries: &mut [Entry], tables: &mut Tables, errors: &mut Vec<ConfigError>) {
    let Stated { key, table, raw, written, origin } = stated;
    let path = key_path(key, table.as_ref().map(|(family, name)| (*family, name.as_str())));
    let value = match key.parse(&raw, &origin) {
        Ok(value) => value,
        Err(problem) => {
            // What a variable holds may be a secret that went to the wrong key: the message quotes its name.
            let unread = written.map(|written| key.parse(&written, &origin).err());
            let problem = unread.map_or(problem, |unread| {
                unread.unwrap_or_else(|| "takes no value such as its variables hold; look at them".into())
            });
            return errors.push(ConfigError::BadValue { key: path, problem, origin });
        }
    };
    let entries = match &table {
        None => entries,
        // A table whose name was refused is not there.
        Some((family, name)) => match tables.find(family, name) {
            Some(table) => &mut table.entries,
            None => return,
        },
    };
    if let Some(entry) = entries.iter_mut().find(|entry| entry.key.name == key.name) {
        entry.value = value;
        entry.origin = origin;
    }
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
fn build(entries: &[Entry], tables: &[Instance], errors: &mut Vec<ConfigError>, warnings: &mut Vec<String>) -> Config {
    let get = Getter::of_keys(entries, errors);
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
        routing: routing::build(&get, tables, errors),
        flags: flags::build(tables, errors),
        tls: tls::build(&get, errors),
        admin: admin::build(&get, errors),
        trace: trace::build(&get),
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

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
mod families_tests;
#[cfg(test)]
mod tests;
