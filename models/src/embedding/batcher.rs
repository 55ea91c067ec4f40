//! One encoder for many threads: what waits is encoded together.
//!
//! Requests are served in turn, a sequence of each, until a pass is full: a query does not wait behind the thousand documents that
//! came before it. A pass takes what is there and waits for no more. Answers go to a callback, so that threads and tasks of any
//! runtime can wait for them. A static table is so cheap that it is asked on the caller's own thread.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;

use super::{Encoder, EncoderError, Side};

/// How much is taken at once, and how much may wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Tokens of one pass, about; one sequence at least is taken.
    pub pass_tokens: usize,
    /// Tokens that may wait; a request that finds more is refused, one that finds none is always taken.
    pub waiting_tokens: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { pass_tokens: super::PASS_TOKENS, waiting_tokens: 2 << 20 }
    }
}

/// A request's result.
pub type Encoded = Result<Vec<Vec<f32>>, EncoderError>;

/// An encoder with its thread. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub struct EncoderHandle(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    encoder: Encoder,
    limits: QueueLimits,
    // A mutex, because a pass takes milliseconds and the queue is held for microseconds.
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By number of arrival.
    requests: BTreeMap<u64, Request>,
    /// Those with sequences that no pass has taken, next turn first.
    turns: VecDeque<u64>,
    arrivals: u64,
    waiting_tokens: usize,
    closed: bool,
}

struct Request {
    sequences: VecDeque<Vec<u32>>,
    /// By index of the sequence; in order, for sequences are taken in order.
    vectors: Vec<Vec<f32>>,
    total: usize,
    answer: Box<dyn FnOnce(Encoded) + Send>,
    still_wanted: Box<dyn Fn() -> bool + Send>,
}

impl EncoderHandle {
    /// Gives the encoder a thread.
    ///
    /// # Errors
    /// [`EncoderError::Stopped`] if the system has no thread to give.
    pub fn start(encoder: Encoder, limits: QueueLimits) -> Result<Self, EncoderError> {
        let is_static = encoder.is_static();
        let shared = Arc::new(Shared { encoder, limits, queue: Mutex::new(Queue::default()), more: Condvar::new() });
        let mut thread = None;
        if !is_static {
            let shared = Arc::clone(&shared);
            let spawned = std::thread::Builder::new().name("engram-encoder".into()).spawn(move || shared.work());
            thread = Some(spawned.map_err(|_| EncoderError::Stopped)?);
        }
        Ok(Self(Arc::new(Owner { shared, thread })))
    }

    /// The encoder itself: its name, its limits, its tokens.
    pub fn encoder(&self) -> &Encoder {
        &self.0.shared.encoder
    }

    /// Encodes sequences with whatever else waits, and calls `answer` with a vector each. A request that is not `still_wanted`
    /// when its turn comes is dropped without a call.
    ///
    /// # Errors
    /// At once, without a call of `answer`: as [`Encoder::check`]; [`EncoderError::Overloaded`]; [`EncoderError::Stopped`].
    pub fn submit(
        &self,
        sequences: Vec<Vec<u32>>,
        still_wanted: impl Fn() -> bool + Send + 'static,
        answer: impl FnOnce(Encoded) + Send + 'static,
    ) -> Result<(), EncoderError> {
        let shared = &self.0.shared;
        shared.encoder.check(&sequences)?;
        if shared.encoder.is_static() || sequences.is_empty() {
            answer(shared.encoder.encode(&sequences));
            return Ok(());
        }
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let mut queue = shared.lock();
        let (waiting, limit) = (queue.waiting_tokens, shared.limits.waiting_tokens);
        if queue.closed {
            return Err(EncoderError::Stopped);
        }
        if waiting > 0 && waiting + tokens > limit {
            return Err(EncoderError::Overloaded { waiting, limit });
        }
        queue.waiting_tokens += tokens;
        queue.arrivals += 1;
        let number = queue.arrivals;
        let total = sequences.len();
        let request = Request {
            sequences: sequences.into(),
            vectors: Vec::with_capacity(total),
            total,
            answer: Box::new(answer),
            still_wanted: Box::new(still_wanted),
        };
        queue.requests.insert(number, request);
        queue.turns.push_back(number);
        drop(queue);
        shared.more.notify_one();
        Ok(())
    }

    /// Encodes sequences and waits for the vectors. Not for threads of an async runtime.
    ///
    /// # Errors
    /// As [`EncoderHandle::submit`]; [`EncoderError::Model`] and [`EncoderError::Panicked`] if the pass fails.
    pub fn encode(&self, sequences: Vec<Vec<u32>>) -> Encoded {
        let (send, receive) = mpsc::sync_channel(1);
        self.submit(sequences, || true, move |encoded| drop(send.send(encoded)))?;
        receive.recv().unwrap_or(Err(EncoderError::Stopped))
    }

    /// Texts to vectors; a text longer than the encoder reads is cut. Not for threads of an async runtime.
    ///
    /// # Errors
    /// As [`EncoderHandle::encode`].
    pub fn embed(&self, texts: &[&str], side: Side) -> Encoded {
        let encoder = self.encoder();
        self.encode(texts.iter().map(|text| encoder.cut(encoder.tokens(text, side))).collect())
    }

    /// Tokens that wait for a pass.
    pub fn waiting_tokens(&self) -> usize {
        self.0.shared.lock().waiting_tokens
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_one();
        // A callback may hold the last clone: then this is the thread itself, which cannot wait for its own end.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join(); // its passes are guarded, so it does not end in a panic
        }
    }
}

/// The sequences of a pass and whose they are.
#[derive(Default)]
struct Pass {
    owners: Vec<u64>,
    sequences: Vec<Vec<u32>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Whoever panicked while holding it left it whole: all changes are single assignments.
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The thread's life: take what waits, encode, answer; until closed and empty.
    fn work(&self) {
        loop {
            let pass = {
                let mut queue = self.lock();
                while queue.turns.is_empty() && !queue.closed {
                    queue = self.more.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
                if queue.turns.is_empty() {
                    return;
                }
                queue.take(self.limits.pass_tokens)
            };
            let encoded = catch_unwind(AssertUnwindSafe(|| self.encoder.encode(&pass.sequences)));
            let encoded = encoded.unwrap_or_else(|panic| Err(EncoderError::Panicked { message: said(&*panic) }));
            let done = self.lock().put(&pass.owners, encoded);
            for (request, encoded) in done {
                (request.answer)(encoded);
            }
        }
    }
}

impl Queue {
    /// A sequence of each request in turn, until there are `budget` tokens or nothing is left.
    fn take(&mut self, budget: usize) -> Pass {
        let mut pass = Pass::default();
        let mut tokens = 0;
        while let Some(number) = self.turns.pop_front() {
            let Some(request) = self.requests.get_mut(&number) else { continue };
            let next = request.sequences.front().map_or(0, Vec::len);
            if tokens > 0 && tokens + next > budget {
                self.turns.push_front(number);
                break;
            }
            if !(request.still_wanted)() {
                self.forget(number);
                continue;
            }
            if let Some(sequence) = request.sequences.pop_front() {
                tokens += next;
                self.waiting_tokens -= next;
                pass.owners.push(number);
                pass.sequences.push(sequence);
            }
            if !request.sequences.is_empty() {
                self.turns.push_back(number);
            }
        }
        pass
    }

    /// Hands a pass's vectors to their requests; gives those that are complete, or that the pass failed.
    fn put(&mut self, owners: &[u64], encoded: Encoded) -> Vec<(Request, Encoded)> {
        let mut done = Vec::new();
        match encoded {
            Ok(vectors) => {
                for (number, vector) in owners.iter().zip(vectors) {
                    let Some(request) = self.requests.get_mut(number) else { continue };
                    request.vectors.push(vector);
                    if request.vectors.len() == request.total
                        && let Some(mut request) = self.requests.remove(number)
                    {
                        let vectors = std::mem::take(&mut request.vectors);
                        done.push((request, Ok(vectors)));
                    }
                }
            }
            Err(error) => {
                for number in owners {
                    if let Some(request) = self.forget(*number) {
                        done.push((request, Err(error.clone())));
                    }
                }
            }
        }
        done
    }

    /// Takes a request out with all that waits of it.
    fn forget(&mut self, number: u64) -> Option<Request> {
        let request = self.requests.remove(&number)?;
        self.waiting_tokens -= request.sequences.iter().map(Vec::len).sum::<usize>();
        self.turns.retain(|turn| *turn != number);
        Some(request)
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a message").to_owned()
}
