//! A generation's events as chunks of a streamed answer: the loop that both endpoints share.

use std::collections::VecDeque;

use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

use super::local::{Event, Generation};
use crate::error::ApiError;

/// Chunks of a streamed answer; after an error there is nothing more.
pub type Chunks = BoxStream<'static, Result<Value, ApiError>>;

/// What an endpoint makes of events.
pub(super) trait Chunking: Send + 'static {
    /// Takes an event of sequence `index`; what it makes of it goes to [`Self::ready`].
    fn take(&mut self, index: usize, event: Event);

    /// Chunks that are made and not given out, oldest first.
    fn ready(&mut self) -> &mut VecDeque<Value>;

    /// The last chunk: the usage, and no choice.
    fn last(&self) -> Value;
}

/// The chunks that `chunking` makes of a generation.
pub(super) fn chunks(generation: Generation, chunking: impl Chunking) -> Chunks {
    futures::stream::unfold((generation, chunking, false), step).boxed()
}

/// The next chunk; `None` after the last, or after an error.
async fn step<C: Chunking>(
    (mut generation, mut chunking, mut ended): (Generation, C, bool),
) -> Option<(Result<Value, ApiError>, (Generation, C, bool))> {
    loop {
        if let Some(chunk) = chunking.ready().pop_front() {
            return Some((Ok(chunk), (generation, chunking, ended)));
        }
        if ended {
            return None;
        }
        match generation.next().await {
            Some((index, Ok(event))) => chunking.take(index, event),
            Some((_, Err(error))) => return Some((Err(error), (generation, chunking, true))),
            None => {
                ended = true;
                let last = chunking.last();
                chunking.ready().push_back(last);
            }
        }
    }
}
