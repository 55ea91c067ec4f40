//! Time goes from event to event: requests come, nodes compute, fail and join, and it is written down how long each waited.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use super::node::{Node, Speed, Work};
use super::policy::{Asked, Policy, mix};
use super::trace::Conversation;

/// Attempts a request has.
const ATTEMPTS: usize = 3;
/// Seconds between two health checks of a node.
const CHECKED_EVERY: f64 = 5.0;
/// Seconds until a dead node has refused.
const REFUSED_AFTER: f64 = 0.001;

/// What befalls the fleet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Incident {
    /// The node dies, and comes back empty.
    Dies {
        /// Which.
        node: usize,
        /// Seconds at which it dies.
        at: f64,
        /// And at which it is back.
        back: f64,
    },
    /// The node does everything so many times slower.
    Slows {
        /// Which.
        node: usize,
        /// From these seconds on.
        at: f64,
        /// How many times.
        times: f64,
    },
    /// The node was not there before, and joins with an empty cache.
    Joins {
        /// Which.
        node: usize,
        /// At these seconds.
        at: f64,
    },
}

impl Incident {
    /// The node it is about.
    pub fn node(self) -> usize {
        match self {
            Self::Dies { node, .. } | Self::Slows { node, .. } | Self::Joins { node, .. } => node,
        }
    }
}

/// How one request went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Seconds at which it came.
    pub came: f64,
    /// Seconds to its first token; `None`: no node answered it.
    pub first_token: Option<f64>,
    /// Seconds to its last token; `None`: it was cut.
    pub whole: Option<f64>,
    /// Tokens of its prompt.
    pub tokens: u64,
    /// Of these, cached where it was answered.
    pub cached: u64,
    /// Where it was answered, or tried last.
    pub node: usize,
}

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// All requests, in the order in which they ended.
    pub outcomes: Vec<Outcome>,
    /// Each second: the load of the fullest node over the mean.
    pub unevenness: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Asks { talk: usize, turn: usize },
    Again { id: u64 },
    Refused { id: u64 },
    Prefilled { node: usize, life: u32 },
    Answered { node: usize, life: u32, id: u64 },
    Check,
    Second,
    Dies(usize),
    Back(usize),
    Slows(usize, f64),
    Joins(usize),
}

#[derive(Debug)]
struct Job {
    talk: usize,
    turn: usize,
    came: f64,
    sent: f64,
    first_token: Option<f64>,
    tokens: u64,
    cached: u64,
    node: usize,
    tried: Vec<usize>,
}

/// The nodes, the clock, and what is under way.
pub struct Fleet<'a> {
    talks: &'a [Conversation],
    policy: &'a mut dyn Policy,
    nodes: Vec<Node>,
    /// Which live a node lives, and whether it does; events of an earlier life are void.
    lives: Vec<(u32, bool)>,
    members: Vec<usize>,
    jobs: HashMap<u64, Job>,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// What the events are; taken once.
    kinds: Vec<Event>,
    now: f64,
    start: Instant,
    asked: u64,
    left: usize,
    run: Run,
}

impl<'a> Fleet<'a> {
    /// A fleet of `count` nodes, of which one that joins later is not yet a member.
    pub fn new(count: usize, speed: Speed, talks: &'a [Conversation], policy: &'a mut dyn Policy) -> Self {
        Self {
            talks,
            policy,
            nodes: (0..count).map(|_| Node::new(speed)).collect(),
            lives: vec![(0, true); count],
            members: (0..count).collect(),
            jobs: HashMap::new(),
            events: BinaryHeap::new(),
            kinds: Vec::new(),
            now: 0.0,
            start: Instant::now(),
            asked: 0,
            left: 0,
            run: Run::default(),
        }
    }

    /// Runs until every conversation has ended.
    pub fn run(mut self, incident: Option<Incident>) -> Run {
        match incident {
            Some(Incident::Dies { node, at, back }) => {
                self.at(at, Event::Dies(node));
                self.at(back, Event::Back(node));
            }
            Some(Incident::Slows { node, at, times }) => self.at(at, Event::Slows(node, times)),
            Some(Incident::Joins { node, at }) => {
                self.members.retain(|&member| member != node);
                self.at(at, Event::Joins(node));
            }
            None => {}
        }
        self.policy.set_nodes(&self.members, self.start);
        self.left = self.talks.len();
        let talks = self.talks;
        for (talk, conversation) in talks.iter().enumerate() {
            self.at(conversation.start, Event::Asks { talk, turn: 0 });
        }
        self.at(CHECKED_EVERY, Event::Check);
        self.at(1.0, Event::Second);
        while self.left > 0
            && let Some(Reverse((nanos, _, kind))) = self.events.pop()
        {
            self.now = nanos as f64 / 1e9;
            self.take(self.kinds[kind]);
        }
        self.run
    }

    fn at(&mut self, seconds: f64, event: Event) {
        let order = self.kinds.len();
        self.kinds.push(event);
        self.events.push(Reverse(((seconds * 1e9) as u64, order as u64, order)));
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.at(self.now + seconds, event);
    }

    fn clock(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Asks { talk, turn } => self.asks(talk, turn),
            Event::Again { id } => self.send(id),
            Event::Refused { id } => self.failed(id),
            Event::Prefilled { node, life } if self.lives[node] == (life, true) => self.prefilled(node),
            Event::Answered { node, life, id } if self.lives[node] == (life, true) => self.answered(node, id),
            Event::Prefilled { .. } | Event::Answered { .. } => {}
            Event::Check => {
                for node in self.members.clone() {
                    self.policy.checked(node, self.lives[node].1, self.start + Duration::from_secs_f64(self.now));
                }
                self.after(CHECKED_EVERY, Event::Check);
            }
            Event::Second => {
                self.weigh();
                self.after(1.0, Event::Second);
            }
            Event::Dies(node) => self.dies(node),
            Event::Back(node) => self.lives[node].1 = true,
            Event::Slows(node, times) => self.nodes[node].slowness = times,
            Event::Joins(node) => {
                self.members.push(node);
                self.policy.set_nodes(&self.members, self.clock());
            }
        }
    }

    fn asks(&mut self, talk: usize, turn: usize) {
        let id = self.asked;
        self.asked += 1;
        let job = Job {
            talk,
            turn,
            came: self.now,
            sent: self.now,
            first_token: None,
            tokens: 0,
            cached: 0,
            node: 0,
            tried: Vec::new(),
        };
        self.jobs.insert(id, job);
        self.send(id);
    }

    fn send(&mut self, id: u64) {
        let now = self.clock();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let talk = &self.talks[job.talk];
        let body = talk.body(job.turn);
        let draw = mix(id, job.tried.len() as u64);
        let asked = Asked { id, body: &body, conversation: talk.id, tried: &job.tried, draw };
        let node = self.policy.choose(&asked, now);
        (job.node, job.sent) = (node, self.now);
        if !self.lives[node].1 {
            return self.after(REFUSED_AFTER, Event::Refused { id });
        }
        let work = Work { id, prompt: talk.prompt(job.turn).collect(), answer: talk.answer(job.turn) };
        self.nodes[node].push(work);
        self.start(node);
    }

    fn start(&mut self, node: usize) {
        let Some(started) = self.nodes[node].start() else { return };
        if let Some(job) = self.jobs.get_mut(&started.id) {
            (job.tokens, job.cached) = (started.tokens, started.cached);
        }
        self.after(started.seconds, Event::Prefilled { node, life: self.lives[node].0 });
    }

    fn prefilled(&mut self, node: usize) {
        let Some((id, seconds)) = self.nodes[node].prefilled() else { return };
        let clock = self.clock();
        if let Some(job) = self.jobs.get_mut(&id) {
            job.first_token = Some(self.now);
            self.policy.first_token(id, Duration::from_secs_f64(self.now - job.sent), clock);
        }
        self.after(seconds, Event::Answered { node, life: self.lives[node].0, id });
        self.start(node);
    }

    fn answered(&mut self, node: usize, id: u64) {
        self.nodes[node].answered(id);
        self.start(node);
        self.policy.ended(id);
        let Some(job) = self.jobs.remove(&id) else { return };
        self.write_down(&job, Some(self.now));
        match self.talks[job.talk].turns.get(job.turn + 1) {
            Some(next) => self.after(next.thinking, Event::Asks { talk: job.talk, turn: job.turn + 1 }),
            None => self.left -= 1,
        }
    }

    fn dies(&mut self, node: usize) {
        self.lives[node] = (self.lives[node].0 + 1, false);
        let (unanswered, cut) = self.nodes[node].die();
        unanswered.into_iter().for_each(|id| self.failed(id));
        for id in cut {
            let now = self.clock();
            self.policy.failed(id, now);
            self.policy.ended(id);
            self.give_up(id);
        }
    }

    /// Before its first token a request goes on elsewhere.
    fn failed(&mut self, id: u64) {
        let now = self.clock();
        self.policy.failed(id, now);
        self.policy.ended(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.tried.push(job.node);
        if job.tried.len() >= ATTEMPTS {
            return self.give_up(id);
        }
        self.after(0.0, Event::Again { id });
    }

    fn give_up(&mut self, id: u64) {
        if let Some(job) = self.jobs.remove(&id) {
            self.write_down(&job, None);
            self.left -= 1;
        }
    }

    fn write_down(&mut self, job: &Job, end: Option<f64>) {
        self.run.outcomes.push(Outcome {
            came: job.came,
            first_token: job.first_token.map(|at| at - job.came),
            whole: end.map(|at| at - job.came),
            tokens: job.tokens,
            cached: job.cached,
            node: job.node,
        });
    }

    fn weigh(&mut self) {
        let loads: Vec<usize> =
            self.members.iter().filter(|&&node| self.lives[node].1).map(|&node| self.nodes[node].load()).collect();
        let mean = loads.iter().sum::<usize>() as f64 / loads.len().max(1) as f64;
        let most = loads.into_iter().max().unwrap_or(0) as f64;
        if mean > 0.0 {
            self.run.unevenness.push((self.now, most / mean));
        }
    }
}
