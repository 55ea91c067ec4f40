//! From a chat or completion body to its answer: the plan is made, its backends are asked in order, and what the first
//! good one says goes to the client, whole or as a stream.
//!
//! - [`Asked`] is the request, read as far as routing needs it.
//! - [`begin`] has a candidate begin to answer, [`seam`] has another go on with an answer that broke off.
//! - [`kept`] looks for an answer that was given before, and keeps whole ones.
//! - [`stream`] writes an answer as events, [`whole`] as one body; both settle what it cost, and remember it.

mod asked;
mod begin;
mod kept;
mod seam;
mod serve;
mod stream;
mod whole;

pub use asked::{Asked, Endpoint};
pub use kept::QuestionEncoder;
pub use serve::{Caller, serve};
