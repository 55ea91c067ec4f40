//! `[memory]`: where it lies, how long it keeps what, and what a request that says nothing gets.

use std::path::PathBuf;
use std::time::Duration;

use engram_memory::{Kind, Name, Scope};

use super::{ConfigError, Getter, Secret};

/// Where records and vectors lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryBackend {
    /// In this process and its data directory.
    Embedded,
    /// PostgreSQL with pgvector.
    Postgres {
        /// Where it is, with its password.
        url: Secret,
        /// The schema that holds its tables.
        schema: String,
        /// Connections at most.
        pool: usize,
    },
    /// Qdrant, by its REST API.
    Qdrant {
        /// Where it is.
        url: String,
        /// Its key.
        api_key: Option<Secret>,
    },
}

/// Whether a request that does not say recalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecallDefault {
    /// It does not.
    Off,
    /// It does.
    Auto,
}

/// Where an exchange is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remember {
    /// Nowhere.
    Off,
    /// In the session.
    Session,
    /// In the project, for all its sessions.
    Project,
}

impl Remember {
    /// The words on the wire.
    pub const WORDS: [&'static str; 3] = ["off", "session", "project"];

    /// The word's meaning.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "off" => Some(Self::Off),
            "session" => Some(Self::Session),
            "project" => Some(Self::Project),
            _ => None,
        }
    }
}

/// What one API key's requests get where they say nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDefaults {
    /// Whether they recall.
    pub recall: RecallDefault,
    /// Where they are remembered.
    pub remember: Remember,
    /// Their domain.
    pub domain: Name,
    /// Their project.
    pub project: Option<Name>,
}

/// `[memory]`
#[derive(Debug, Clone)]
pub struct MemorySettings {
    /// There is one at all.
    pub enabled: bool,
    /// Where it lies.
    pub dir: PathBuf,
    /// Catalog id of the sentence encoder.
    pub encoder: String,
    /// Where records and vectors lie.
    pub backend: MemoryBackend,
    /// What a request of any key gets.
    pub defaults: KeyDefaults,
    /// What requests of some tenants get instead.
    pub keys: Vec<(String, KeyDefaults)>,
    /// Records recalled at most.
    pub recall_k: usize,
    /// Their tokens at most.
    pub recall_budget_tokens: usize,
    /// Least score of a recalled record, 0 to 1.
    pub recall_min_score: f32,
    /// A chat waits this long for its recall, then goes on without.
    pub recall_timeout: Duration,
    /// Operations that run at once.
    pub workers: usize,
    /// Operations that may wait.
    pub queue_limit: usize,
    /// Candidates that the vector index keeps.
    pub ef_search: usize,
    /// How long a kind is kept; `None`: until it is forgotten.
    pub ttl: [(Kind, Option<Duration>); 5],
    /// Budget of the caches, bytes.
    pub cache_bytes: u64,
    /// How long recalls of a kind are cached.
    pub cache: [(Kind, Duration); 5],
    /// Time between recall self-checks; `None`: there are none.
    pub self_check: Option<Duration>,
    /// A cache that servers share.
    pub redis_url: Option<Secret>,
}

impl MemorySettings {
    /// What requests of this tenant get where they say nothing.
    pub fn defaults_of(&self, tenant: &str) -> &KeyDefaults {
        self.keys.iter().find(|(name, _)| name == tenant).map_or(&self.defaults, |(_, defaults)| defaults)
    }
}

/// Reads the section, and checks what concerns several of its keys at once.
pub(super) fn build(get: &Getter<'_>, errors: &mut Vec<ConfigError>, warnings: &mut Vec<String>) -> MemorySettings {
    warnings.extend(without_effect(get));
    let domain = Name::new("domain", get.text("memory.domain")).unwrap_or_else(|error| {
        errors.push(get.bad("memory.domain", error.to_string()));
        Scope::default_domain()
    });
    let recall = if get.text("memory.recall") == "auto" { RecallDefault::Auto } else { RecallDefault::Off };
    let remember = Remember::parse(&get.text("memory.remember")).unwrap_or(Remember::Off);
    let defaults = KeyDefaults { recall, remember, domain, project: None };
    let mut keys = Vec::new();
    for line in get.strings("memory.keys") {
        match read_key_line(&line, &defaults) {
            Ok(key) => keys.push(key),
            Err(problem) => errors.push(get.bad("memory.keys", problem)),
        }
    }
    let ttl = |name: &str| Some(get.seconds(name)).filter(|time| !time.is_zero());
    let cached = |name: &str| get.seconds(name);
    MemorySettings {
        enabled: get.flag("memory.enabled"),
        dir: get.path("memory.dir").unwrap_or_default(),
        encoder: get.text("memory.encoder"),
        backend: backend(get, errors),
        defaults,
        keys,
        recall_k: get.number("memory.recall_k") as usize,
        recall_budget_tokens: get.number("memory.recall_budget_tokens") as usize,
        recall_min_score: get.number("memory.recall_min_score") as f32 / 100.0,
        recall_timeout: get.seconds("memory.recall_timeout_s"),
        workers: get.number("memory.workers") as usize,
        queue_limit: get.number("memory.queue_limit") as usize,
        ef_search: get.number("memory.ef_search") as usize,
        ttl: [
            (Kind::Code, ttl("memory.ttl_code")),
            (Kind::Knowledge, ttl("memory.ttl_knowledge")),
            (Kind::Conversation, ttl("memory.ttl_conversation")),
            (Kind::Document, ttl("memory.ttl_document")),
            (Kind::Workflow, ttl("memory.ttl_workflow")),
        ],
        cache_bytes: get.number("memory.cache_memory"),
        cache: [
            (Kind::Code, cached("memory.cache_code")),
            (Kind::Knowledge, cached("memory.cache_knowledge")),
            (Kind::Conversation, cached("memory.cache_conversation")),
            (Kind::Document, cached("memory.cache_knowledge")),
            (Kind::Workflow, cached("memory.cache_knowledge")),
        ],
        self_check: Some(get.seconds("memory.self_check_s")).filter(|time| !time.is_zero()),
        redis_url: get.secret("memory.redis_url"),
    }
}

fn backend(get: &Getter<'_>, errors: &mut Vec<ConfigError>) -> MemoryBackend {
    let backend = get.text("memory.backend");
    let mut missing =
        |key: &str| errors.push(get.bad(key, format!("is unset, and `memory.backend = \"{backend}\"` needs it")));
    match backend.as_str() {
        "postgres" => {
            let url = get.secret("memory.postgres_url").unwrap_or_else(|| {
                missing("memory.postgres_url");
                Secret::new("")
            });
            let pool = get.number("memory.postgres_pool") as usize;
            MemoryBackend::Postgres { url, schema: get.text("memory.postgres_schema"), pool }
        }
        "qdrant" => {
            let url = get.text("memory.qdrant_url");
            if url.is_empty() {
                missing("memory.qdrant_url");
            }
            MemoryBackend::Qdrant { url, api_key: get.secret("memory.qdrant_api_key") }
        }
        _ => MemoryBackend::Embedded,
    }
}

/// Keys that were set for another backend than the chosen one.
fn without_effect(get: &Getter<'_>) -> Vec<String> {
    const OF: [(&str, &str); 5] = [
        ("memory.postgres_url", "postgres"),
        ("memory.postgres_schema", "postgres"),
        ("memory.postgres_pool", "postgres"),
        ("memory.qdrant_url", "qdrant"),
        ("memory.qdrant_api_key", "qdrant"),
    ];
    let backend = get.text("memory.backend");
    let others = OF.into_iter().filter(|(key, of)| *of != backend && get.is_set(key));
    let told = others.map(|(key, of)| {
        format!(
            "`{key}` has no effect: `memory.backend` is \"{backend}\"; set that to \"{of}\" to use it, or remove this key"
        )
    });
    told.collect()
}

/// `team-a recall=auto remember=session project=web`; what it does not say is as for all keys.
fn read_key_line(line: &str, all: &KeyDefaults) -> Result<(String, KeyDefaults), String> {
    const FORM: &str = "write \"NAME recall=auto remember=session domain=D project=P\"";
    let mut words = line.split_whitespace();
    let name =
        words.next().filter(|word| !word.contains('=')).ok_or_else(|| format!("{line:?} names no key; {FORM}"))?;
    let mut defaults = all.clone();
    for word in words {
        let (field, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no setting; {FORM}"))?;
        match field {
            "recall" => {
                defaults.recall = match value {
                    "auto" => RecallDefault::Auto,
                    "off" => RecallDefault::Off,
                    _ => return Err(format!("recall={value} of {name:?} is not one of auto, off")),
                }
            }
            "remember" => {
                defaults.remember = Remember::parse(value)
                    .ok_or_else(|| format!("remember={value} of {name:?} is not one of off, session, project"))?;
            }
            "domain" => defaults.domain = Name::new("domain", value).map_err(|error| error.to_string())?,
            "project" => defaults.project = Some(Name::new("project", value).map_err(|error| error.to_string())?),
            _ => return Err(format!("{field:?} of {name:?} is not one of recall, remember, domain, project")),
        }
    }
    Ok((name.to_owned(), defaults))
}
