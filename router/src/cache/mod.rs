//! Answers that were given before, and questions that are just being answered.
//!
//! [`CacheKey`] is a hash of all that an answer depends on; [`ResponseCache`] keeps whole answers under it, and lets equal
//! requests that come meanwhile wait for the one that is under way. [`replay`] makes a stream of an answer, and
//! [`Assembler`] an answer of a stream, so either form serves both. [`SemanticCache`] finds answers to questions that
//! mean the same, where that is wanted.
//!
//! Only an [`Answer`] can be kept, and only what is whole becomes one.

mod answer;
mod assemble;
mod exact;
mod flight;
mod key;
mod replay;
mod semantic;

pub use answer::{Answer, Incomplete};
pub use assemble::Assembler;
pub use exact::{Asked, CacheSettings, Counts, Recorder, ResponseCache, WaitedTooLong, cacheable, choices};
pub use key::{Asker, CacheKey};
pub use replay::replay;
pub use semantic::{Embed, EmbedFailed, Look, Question, SemanticCache, SemanticSettings, Unanswered};

use crate::remote::Endpoint;
