//! The memory embedded with another encoder while it serves: one run at a time, on a thread of its own.
//!
//! A run that ends early, by a stop of the server or by a failure, loses nothing: the next one with the same encoder goes
//! on where it stopped.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use engram_memory::Embedder;
use serde::Serialize;

use super::store::MemoryStore;
use crate::error::{ApiError, ErrorCode};

/// Loads the encoder of this name, or fetches it. Blocks.
pub type LoadEncoder = Box<dyn Fn(&str) -> anyhow::Result<Arc<dyn Embedder>> + Send + Sync>;

/// What a run does, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// There was none since the server started.
    #[default]
    Idle,
    /// It goes on.
    Running,
    /// The new vectors are searched.
    Done,
    /// It was told to stop.
    Stopped,
    /// It could not go on.
    Failed,
}

/// The run that goes on, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Reembedding {
    /// What it does.
    pub state: RunState,
    /// The encoder that the memory is embedded with.
    pub encoder: Option<String>,
    /// The one in use before.
    pub before: Option<String>,
    /// Records that it embedded; those of a run before it do not count.
    pub embedded: u64,
    /// Records there were when it began.
    pub total: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// Runs, one after another. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reembeddings(Arc<Inner>);

#[derive(Default)]
struct Inner {
    load: OnceLock<LoadEncoder>,
    /// Held to look at it or to change it, never while a run works.
    last: Mutex<Reembedding>,
    stop: AtomicBool,
}

impl Reembeddings {
    /// Says how encoders are had. Only the first to say it is heard.
    pub fn load_by(&self, load: LoadEncoder) {
        let _ = self.0.load.set(load);
    }

    /// The run that goes on, or the last one.
    pub fn last(&self) -> Reembedding {
        self.lock().clone()
    }

    /// Ends the run that goes on, after the batch it is at; no other begins.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }

    /// Begins to embed `store` with `encoder`, unless that is being done.
    ///
    /// # Errors
    /// 400 while another encoder's run goes on; 503 if it cannot begin.
    pub fn start(&self, store: Arc<dyn MemoryStore>, encoder: &str) -> Result<Reembedding, ApiError> {
        let mut last = self.lock();
        if last.state == RunState::Running {
            let running = last.encoder.as_deref().unwrap_or_default();
            if running == encoder {
                return Ok(last.clone());
            }
            let message = format!("`encoder`: the memory is being embedded by `{running}`, wait for its end");
            return Err(ApiError::invalid_value("encoder", message));
        }
        if self.0.stop.load(Ordering::SeqCst) || self.0.load.get().is_none() {
            let message = "this server embeds nothing anew: it stops, or loads no encoders";
            return Err(ApiError::new(ErrorCode::MemoryUnavailable, message));
        }
        let begun = Reembedding {
            state: RunState::Running,
            encoder: Some(encoder.to_owned()),
            before: Some(store.encoder()),
            ..Reembedding::default()
        };
        let (runs, name) = (self.clone(), encoder.to_owned());
        let run = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| runs.run(store.as_ref(), &name)));
            let ended = ended.unwrap_or_else(|_| Err("the run panicked, the server's log says where".to_owned()));
            runs.end(ended);
        };
        let thread = std::thread::Builder::new().name("memory-reembed".to_owned()).spawn(run);
        thread.map_err(|error| ApiError::internal("no thread to embed the memory on", error))?;
        *last = begun.clone();
        Ok(begun)
    }

    /// Whether it came to its end; an error in words for clients.
    fn run(&self, store: &dyn MemoryStore, encoder: &str) -> Result<bool, String> {
        let told = |error: engram_memory::MemoryError| {
            let error = ApiError::from(error);
            error.log();
            error.to_string()
        };
        let load = self.0.load.get().ok_or("this server loads no encoders")?;
        let embedder = load(encoder).map_err(|error| format!("{error:#}"))?;
        let total = store.stats(None).map_err(told)?.records.values().sum();
        self.lock().total = total;
        let mut go_on = |embedded| {
            self.lock().embedded = embedded;
            if self.0.stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.reembed(embedder, &mut go_on).map_err(told)
    }

    fn end(&self, ended: Result<bool, String>) {
        let mut last = self.lock();
        match ended {
            Ok(whole) => last.state = if whole { RunState::Done } else { RunState::Stopped },
            Err(error) => (last.state, last.error) = (RunState::Failed, Some(error)),
        }
        let Reembedding { state, encoder, embedded, error, .. } = &*last;
        tracing::info!(?state, encoder, embedded, error, "embedding the memory anew ended");
    }

    fn lock(&self) -> MutexGuard<'_, Reembedding> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
