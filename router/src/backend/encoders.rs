//! The sentence encoder of this process: named by the configuration, loaded in the background, asked by `/v1/embeddings` and the memory.
//!
//! Where its files are on disk it is loaded at start; where they are not, the first request has them fetched. Until then requests
//! are told to come again: a server that generates does not wait for an encoder that nobody may ask for.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engram_models::EncoderHandle;
use engram_models::catalog::{self, CatalogEntry};
use engram_models::embedding::{Encoder, Precision, QueueLimits};
use engram_models::pull::{PullError, PullOptions, resolve};

use crate::error::{ApiError, ErrorCode};

/// After a failure the next try waits this long: a hub that cannot be reached is not asked with every request.
const RETRY: Duration = Duration::from_secs(30);
/// What a client is told to wait while files are fetched or read.
const LOADING: Duration = Duration::from_secs(2);

/// The encoder that is served, if one is. Cheap to clone.
#[derive(Clone, Default)]
pub struct Encoders(Option<Arc<Slot>>);

struct Slot {
    /// As configured: a catalog id or alias, `owner/repo`, or a path.
    spec: String,
    catalog: Option<&'static CatalogEntry>,
    options: PullOptions,
    created: u64,
    // A mutex and not a once-cell: a failed load is tried again.
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    /// Not asked for yet, and not on disk.
    Absent,
    Loading,
    Ready(EncoderHandle),
    Failed {
        at: Instant,
        reason: String,
    },
}

/// What the listing says of the encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderFacts {
    /// Name in requests.
    pub id: String,
    /// Other names that find it.
    pub aliases: Vec<String>,
    /// When it was configured, in seconds since 1970.
    pub created: u64,
    /// Length of its vectors, where it is known before it is loaded.
    pub dim: Option<usize>,
    /// Shortest length they may be cut to.
    pub smallest_dim: Option<usize>,
    /// Longest input in tokens; `None`: any.
    pub max_tokens: Option<usize>,
    /// License.
    pub license: Option<String>,
    /// `ready`, `loading`, `absent` (fetched when it is first asked for) or `failed`.
    pub state: &'static str,
}

impl EncoderFacts {
    /// Its id, then its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

impl Encoders {
    /// The encoder `spec`, found and fetched as `options` say; nothing is read before [`Encoders::start`] or the first request.
    pub fn new(spec: &str, mut options: PullOptions) -> Self {
        // A revision or a quantisation that was named is the generating model's.
        (options.revision, options.quant) = (None, None);
        Self(Some(Arc::new(Slot {
            spec: spec.to_owned(),
            catalog: catalog::find(spec),
            options,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            state: Mutex::new(State::Absent),
            changed: Condvar::new(),
        })))
    }

    /// Loads it in the background if its files are on disk; fetches nothing.
    pub fn start(&self) {
        if let Some(slot) = &self.0 {
            slot.begin(true);
        }
    }

    /// The encoder called `name` (in any case; without a name the one there is), if it is loaded.
    ///
    /// # Errors
    /// 404 for another name; 503 with Retry-After while it is loading, which the first request begins; 503 where it cannot be had.
    pub fn find(&self, name: Option<&str>) -> Result<EncoderHandle, ApiError> {
        let slot = self.slot(name)?;
        let state = slot.lock();
        let (reason, wait) = match &*state {
            State::Ready(handle) => return Ok(handle.clone()),
            State::Failed { at, reason } if at.elapsed() < RETRY => {
                (reason.clone(), RETRY.saturating_sub(at.elapsed()))
            }
            State::Absent | State::Loading | State::Failed { .. } => {
                drop(state);
                slot.begin(false);
                (format!("encoder `{}` is being loaded", slot.id()), LOADING)
            }
        };
        Err(ApiError::new(ErrorCode::ModelUnavailable, reason).with_param("model").with_retry_after(wait))
    }

    /// The encoder, loaded or fetched now if need be. Blocks; not for threads of an async runtime.
    ///
    /// # Errors
    /// 404 if none is configured; 503 with the reason if it cannot be had.
    pub fn wait(&self) -> Result<EncoderHandle, ApiError> {
        let slot = self.slot(None)?;
        slot.begin(false);
        let mut state = slot.lock();
        loop {
            state = match &*state {
                State::Ready(handle) => return Ok(handle.clone()),
                State::Failed { reason, .. } => return Err(ApiError::new(ErrorCode::ModelUnavailable, reason.clone())),
                // Loading on disk alone may have ended with nothing found: then it is fetched.
                State::Absent => {
                    drop(state);
                    slot.begin(false);
                    slot.lock()
                }
                State::Loading => slot.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
            };
        }
    }

    /// Whether `name` is the encoder's.
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|slot| slot.is_named(name))
    }

    /// What the listing says, if there is one.
    pub fn facts(&self) -> Option<EncoderFacts> {
        self.0.as_ref().map(|slot| slot.facts())
    }

    fn slot(&self, name: Option<&str>) -> Result<&Arc<Slot>, ApiError> {
        let known = self.0.as_ref().filter(|slot| name.is_none_or(|name| slot.is_named(name)));
        known.ok_or_else(|| {
            let shown: String = name.unwrap_or("").chars().take(128).collect();
            let served = self.0.as_ref().map_or_else(|| "none".to_owned(), |slot| format!("`{}`", slot.id()));
            let message = format!("no encoder `{shown}` here, `memory.encoder` names one. Served is: {served}");
            ApiError::new(ErrorCode::ModelNotFound, message).with_param("model")
        })
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_all();
    }

    fn id(&self) -> &str {
        self.catalog.map_or(self.spec.as_str(), |entry| entry.id.as_str())
    }

    fn is_named(&self, name: &str) -> bool {
        let loaded = match &*self.lock() {
            State::Ready(handle) => handle.encoder().name().eq_ignore_ascii_case(name),
            _ => false,
        };
        loaded || self.spec.eq_ignore_ascii_case(name) || self.catalog.is_some_and(|entry| entry.is_named(name))
    }

    fn facts(&self) -> EncoderFacts {
        let mut facts = EncoderFacts {
            id: self.id().to_owned(),
            aliases: self.catalog.map(|entry| entry.aliases.clone()).unwrap_or_default(),
            created: self.created,
            dim: self.catalog.and_then(|entry| entry.dim).map(|dim| dim as usize),
            smallest_dim: self.catalog.and_then(|entry| entry.smallest_dim).map(|dim| dim as usize),
            max_tokens: self.catalog.map(|entry| entry.context_len as usize).filter(|&len| len > 0),
            license: self.catalog.map(|entry| entry.license.clone()),
            state: "absent",
        };
        facts.state = match &*self.lock() {
            State::Absent => "absent",
            State::Loading => "loading",
            State::Failed { .. } => "failed",
            State::Ready(handle) => {
                let encoder = handle.encoder();
                facts.id = encoder.name().to_owned();
                facts.dim = Some(encoder.dim());
                facts.max_tokens = Some(encoder.max_tokens()).filter(|&len| len < usize::MAX);
                "ready"
            }
        };
        facts
    }

    /// Begins to load on a thread of its own, unless that is being done, is done, or failed a moment ago.
    fn begin(self: &Arc<Self>, only_on_disk: bool) {
        {
            let mut state = self.lock();
            match &*state {
                State::Absent => {}
                State::Failed { at, .. } if at.elapsed() >= RETRY => {}
                State::Loading | State::Ready(_) | State::Failed { .. } => return,
            }
            *state = State::Loading;
        }
        let slot = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("engram-encoder-load".into()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| slot.load(only_on_disk)));
            slot.set(result.unwrap_or_else(|_| failed("loading the encoder panicked, the server's log says where")));
        });
        if let Err(error) = spawned {
            self.set(failed(format!("no thread to load the encoder on: {error}")));
        }
    }

    fn load(&self, only_on_disk: bool) -> State {
        let begun = Instant::now();
        let mut options = self.options.clone();
        options.offline |= only_on_disk;
        let files = match resolve(&self.spec, &options) {
            Ok(files) => files,
            Err(PullError::Offline { .. }) if only_on_disk => {
                tracing::info!(encoder = self.id(), "not on disk: fetched when it is first asked for");
                return State::Absent;
            }
            Err(error) => {
                tracing::error!(encoder = self.id(), "{error}");
                return failed(format!("encoder `{}` cannot be had: {error}", self.id()));
            }
        };
        let loaded = Encoder::load(&files, Precision::default())
            .and_then(|encoder| EncoderHandle::start(encoder, QueueLimits::default()));
        match loaded {
            Ok(handle) => {
                tracing::info!(encoder = ?handle.encoder(), elapsed = ?begun.elapsed(), "encoder ready");
                State::Ready(handle)
            }
            Err(error) => {
                let error = ApiError::from(error);
                error.log();
                failed(format!("encoder `{}` cannot be loaded, the server's log says why", self.id()))
            }
        }
    }
}

fn failed(reason: impl Into<String>) -> State {
    State::Failed { at: Instant::now(), reason: reason.into() }
}
