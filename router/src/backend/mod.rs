//! Who answers a request: the models that this process serves itself.
//!
//! - [`Models`] finds a [`ServedModel`] by the name a client gave; it turns texts and messages into ids.
//! - [`Generation`] hands sequences to the model's engine and reads text from all of them; dropping
//!   it aborts them.
//!
//! - [`LocalChat`] and [`LocalCompletion`] are what the two endpoints make of it, whole or in chunks.

mod chat;
mod chunks;
mod completion;
mod encoders;
mod local;
mod served;

pub use chat::{Asker, LocalChat};
pub use chunks::Chunks;
pub use completion::LocalCompletion;
pub use encoders::{EncoderFacts, Encoders};
pub use local::{Event, Generation, Job, Output, Tally};
pub use served::{ModelFacts, Models, ServedModel};
