//! Who runs next, where its KV lives, which token follows.
//!
//! [`Engine::start`] gives an [`EngineHandle`]; [`EngineHandle::submit`] takes a [`GenerateRequest`] of
//! token ids and gives a [`TokenStream`]. Between them one thread steps: [`Scheduler::schedule`], the
//! model's forward pass, [`Sampler::sample`], deliver. Text is made of the tokens on the caller's side
//! by [`TextStream`]. Synchronous; the channels at the door serve sync and async callers alike.

#![forbid(unsafe_code)]

mod batch;
mod block_manager;
mod config;
mod engine;
mod error;
mod exp;
mod forward;
mod greatest;
mod handle;
mod kv_cache;
mod output;
mod pace;
mod request;
mod rows;
mod sampler;
mod scheduler;
mod sequence;
mod session;
mod stats;

pub use batch::RowUse;
pub use block_manager::{BlockCounts, BlockHash, BlockId, BlockManager, BlockTable, HashChain};
pub use config::EngineConfig;
pub use engine::Engine;
pub use engram_kernels::ops::KvType;
pub use error::EngineError;
pub use forward::{ForwardPass, Geometry};
pub use handle::{Capacity, DrainReport, EngineHandle, TokenEvents, TokenStream};
pub use kv_cache::KvCache;
pub use output::{Detokenizer, Piece, TextAssembler, TextEvent, TextStream, TextToken};
pub use pace::{Allowance, Pace, StepCost, StepWork};
pub use request::{FinishReason, GenerateRequest, Logprobs, SamplingParams, Timing, TokenEvent, Usage};
pub use sampler::{NotFinite, Sampled, Sampler, SamplerState};
pub use scheduler::{Admitted, Expired, Plan, Scheduled, Scheduler};
pub use sequence::{SeqId, Sequence};
pub use stats::{EngineObserver, EngineStats, Health, Outcome, RequestCounts, StepReport, StepTimes};

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod test_model;
