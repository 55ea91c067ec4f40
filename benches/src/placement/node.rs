//! One node: prompts are computed one after the other, as far as they are not cached; answers are written beside each other.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// How fast a node is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Prompt tokens a second.
    pub prefill: f64,
    /// Seconds a token of an answer that runs alone.
    pub token: f64,
    /// And for each other that runs beside it.
    pub beside: f64,
    /// Answers at once; more wait.
    pub slots: usize,
    /// Tokens that the KV cache holds.
    pub cache_tokens: u64,
}

impl Default for Speed {
    fn default() -> Self {
        Self { prefill: 8000.0, token: 0.012, beside: 0.0004, slots: 64, cache_tokens: 300_000 }
    }
}

/// What a node has to do for a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The request.
    pub id: u64,
    /// Names and tokens of the prompt's parts.
    pub prompt: Vec<(u64, u32)>,
    /// And of its answer.
    pub answer: (u64, u32),
}

/// A prompt about to be computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Started {
    /// The request.
    pub id: u64,
    /// Tokens of the prompt.
    pub tokens: u64,
    /// Of these, found in the cache.
    pub cached: u64,
    /// Seconds it takes.
    pub seconds: f64,
}

/// A node's queue, what runs, and its cache.
#[derive(Debug)]
pub struct Node {
    speed: Speed,
    /// All times are this many times as long.
    pub slowness: f64,
    waiting: VecDeque<Work>,
    prefilling: Option<Work>,
    running: HashMap<u64, Work>,
    cache: Lru,
}

impl Node {
    /// An idle node with an empty cache.
    pub fn new(speed: Speed) -> Self {
        Self {
            speed,
            slowness: 1.0,
            waiting: VecDeque::new(),
            prefilling: None,
            running: HashMap::new(),
            cache: Lru::new(speed.cache_tokens),
        }
    }

    /// Requests that it has.
    pub fn load(&self) -> usize {
        self.waiting.len() + usize::from(self.prefilling.is_some()) + self.running.len()
    }

    /// One more request.
    pub fn push(&mut self, work: Work) {
        self.waiting.push_back(work);
    }

    /// Begins the next prompt, if one waits and nothing is in its way.
    pub fn start(&mut self) -> Option<Started> {
        if self.prefilling.is_some() || self.running.len() >= self.speed.slots {
            return None;
        }
        let work = self.waiting.pop_front()?;
        let tokens: u64 = work.prompt.iter().map(|&(_, tokens)| u64::from(tokens)).sum();
        let cached = self.cache.prefix(&work.prompt);
        // The last token is always computed: its logits begin the answer.
        let fresh = (tokens - cached).max(1);
        let seconds = fresh as f64 / self.speed.prefill * self.slowness;
        let started = Started { id: work.id, tokens, cached, seconds };
        self.prefilling = Some(work);
        Some(started)
    }

    /// The prompt is computed and the answer begins: its id, and the seconds it takes.
    pub fn prefilled(&mut self) -> Option<(u64, f64)> {
        let work = self.prefilling.take()?;
        self.cache.keep(&work.prompt);
        let each = self.speed.token + self.speed.beside * self.running.len() as f64;
        let (id, seconds) = (work.id, f64::from(work.answer.1) * each * self.slowness);
        self.running.insert(id, work);
        Some((id, seconds))
    }

    /// The answer is there.
    pub fn answered(&mut self, id: u64) {
        if let Some(mut work) = self.running.remove(&id) {
            work.prompt.push(work.answer);
            self.cache.keep(&work.prompt);
        }
    }

    /// The node dies: the requests whose answer had not begun, and those whose answer is cut. Its cache is gone.
    pub fn die(&mut self) -> (Vec<u64>, Vec<u64>) {
        let unanswered = self.prefilling.take().into_iter().chain(self.waiting.drain(..)).map(|work| work.id).collect();
        let mut cut: Vec<u64> = self.running.drain().map(|(id, _)| id).collect();
        cut.sort_unstable();
        self.cache = Lru::new(self.speed.cache_tokens);
        (unanswered, cut)
    }
}

/// Parts of prompts by the time of their last use.
#[derive(Debug)]
struct Lru {
    parts: HashMap<u64, (u64, u32)>,
    by_use: BTreeMap<u64, u64>,
    tokens: u64,
    most: u64,
    clock: u64,
}

impl Lru {
    fn new(most: u64) -> Self {
        Self { parts: HashMap::new(), by_use: BTreeMap::new(), tokens: 0, most, clock: 0 }
    }

    /// Tokens of the parts that are there, from the first on without a gap.
    fn prefix(&self, prompt: &[(u64, u32)]) -> u64 {
        prompt.iter().take_while(|(name, _)| self.parts.contains_key(name)).map(|&(_, tokens)| u64::from(tokens)).sum()
    }

    /// Puts all parts in, the last first: what others may share is the last to go.
    fn keep(&mut self, prompt: &[(u64, u32)]) {
        for &(name, tokens) in prompt.iter().rev() {
            self.clock += 1;
            match self.parts.insert(name, (self.clock, tokens)) {
                Some((used, _)) => drop(self.by_use.remove(&used)),
                None => self.tokens += u64::from(tokens),
            }
            self.by_use.insert(self.clock, name);
        }
        while self.tokens > self.most
            && let Some((_, name)) = self.by_use.pop_first()
            && let Some((_, tokens)) = self.parts.remove(&name)
        {
            self.tokens -= u64::from(tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(id: u64, prompt: &[(u64, u32)]) -> Work {
        Work { id, prompt: prompt.to_vec(), answer: (1000 + id, 100) }
    }

    #[test]
    fn a_shared_beginning_is_computed_once() {
        let mut node = Node::new(Speed::default());
        node.push(work(1, &[(1, 800), (2, 80)]));
        node.push(work(2, &[(1, 800), (3, 80)]));
        let first = node.start().expect("idle");
        assert_eq!((first.tokens, first.cached, first.seconds), (880, 0, 0.11));
        assert_eq!(node.start(), None, "one prompt at a time");
        assert_eq!(node.prefilled(), Some((1, 1.2)));
        let second = node.start().expect("free again");
        assert_eq!((second.tokens, second.cached), (880, 800));
        assert_eq!(node.load(), 2);
        node.answered(1);
        node.push(work(3, &[(1, 800), (2, 80), (1001, 100), (4, 20)]));
        node.prefilled();
        assert_eq!(node.start().map(|started| started.cached), Some(980), "the answer is cached too");
    }

    #[test]
    fn the_oldest_goes_and_the_beginning_last() {
        let mut cache = Lru::new(100);
        cache.keep(&[(1, 40), (2, 40)]);
        cache.keep(&[(3, 40)]);
        assert_eq!(cache.prefix(&[(1, 40), (2, 40)]), 40);
        assert_eq!(cache.prefix(&[(3, 40)]), 40);
        assert_eq!(cache.tokens, 80);
    }

    #[test]
    fn the_dead_have_nothing() {
        let mut node = Node::new(Speed::default());
        (1..=3).for_each(|id| node.push(work(id, &[(id, 10)])));
        node.start();
        node.prefilled();
        node.start();
        assert_eq!(node.die(), (vec![2, 3], vec![1]));
        assert_eq!((node.load(), node.start()), (0, None));
    }
}
