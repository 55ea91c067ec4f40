//! Who runs in the next step: continuous batching under a token budget.
//!
//! Every step mixes the running sequences' decodes (one token each) with chunks of the prompts that
//! are still being read. Decisions, in order:
//!
//! 1. *Expire* what is past its deadline.
//! 2. *Admit* waiting sequences, highest rank first, then first come; rank is priority plus one level
//!    per `priority_aging` waited, so nothing waits for ever. Nobody overtakes a sequence that lacks
//!    blocks. Sequences of lower priority make room if that suffices. A sequence whose next
//!    block is just being computed by another's prefill is held back and shares it.
//! 3. *Decode*, best rank first. If blocks run out the worst (lowest rank, then latest) is preempted:
//!    it gives its blocks back, keeps its tokens, and reads prompt and output again later.
//! 4. *Prefill* with what is left of the budget: a quarter goes to the oldest, so that a long prompt
//!    always advances; the rest to whoever has least left, so that a short one is not stuck behind it.
//!    A step that gives anybody a token keeps `max_itl`: prefill gets the time that [`Pace`] says is left
//!    beside the decodes. A step that gives nobody one is as long as the budget allows.
//!
//! Pure: no clock (it is handed `now`, and how long steps took), no channel, no tokenizer, no tensor.
//! Chunked prefill: <https://arxiv.org/abs/2308.16369>, continuous batching: Orca, OSDI 2022.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::block_manager::{BlockCounts, BlockHash, BlockManager, BlockTable};
use crate::config::EngineConfig;
use crate::pace::{Allowance, Pace, StepCost, StepWork};
use crate::sequence::{SeqId, SeqMap, Sequence};

/// Most logit rows of a step that score prompts: one row of a 150,000-token vocabulary is 600 kB.
const MAX_SCORING_ROWS: usize = 64;

/// One sequence's part in a step: tokens `start..start + len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// Who.
    pub id: SeqId,
    /// Position of the first token.
    pub start: usize,
    /// Number of tokens, at least 1.
    pub len: usize,
    /// The last token is the sequence's newest, so the next one is sampled from its logits.
    pub samples: bool,
}

impl Scheduled {
    /// One token that the next is sampled from: a running sequence's, or the last of a prompt.
    pub fn is_decode(&self) -> bool {
        self.samples && self.len == 1
    }
}

/// A sequence that runs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Who.
    pub id: SeqId,
    /// Tokens whose KV came from the prefix cache.
    pub cached_tokens: usize,
}

/// A sequence that the scheduler let go because its deadline passed.
#[derive(Debug)]
pub struct Expired {
    /// Its state; the blocks are given back already.
    pub sequence: Sequence,
    /// It never ran.
    pub in_queue: bool,
}

/// What one step does.
#[derive(Debug, Default)]
pub struct Plan {
    /// Decodes, then prefill chunks.
    pub entries: Vec<Scheduled>,
    /// First admissions.
    pub admitted: Vec<Admitted>,
    /// Who had to give its blocks back.
    pub preempted: Vec<SeqId>,
    /// Who is over.
    pub expired: Vec<Expired>,
    /// What all entries together have to do.
    pub work: StepWork,
    /// Tokens of a fresh prompt that the step had room for.
    pub prefill_budget: usize,
}

impl Plan {
    /// Tokens of the step.
    pub fn num_tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.len).sum()
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.admitted.clear();
        self.preempted.clear();
        self.expired.clear();
        self.work = StepWork::default();
        self.prefill_budget = 0;
    }
}

/// What is left of a step for prefill.
struct Room {
    tokens: usize,
    /// Rows of logits that score prompts.
    scoring: usize,
    time: Allowance,
}

impl Room {
    fn fits(&self, start: usize) -> usize {
        self.time.fits(start).min(self.tokens)
    }
}

/// Order of service: highest rank first; decodes then by arrival, prefills by what is left of them.
type Place = (Reverse<i64>, usize, SeqId);

/// Waiting and running sequences and their blocks.
#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    pace: Pace,
    blocks: BlockManager,
    sequences: SeqMap<Sequence>,
    waiting: Vec<SeqId>,
    running: Vec<SeqId>,
    /// No deadline is before this; `None`: there is none.
    next_deadline: Option<Instant>,
    /// Blocks that running prefills will have computed, and whose prefill it is.
    in_flight: HashMap<BlockHash, SeqId>,
    /// Buffers of the last step, for the next.
    order: Vec<Place>,
    spare: Plan,
}

impl Scheduler {
    /// Nothing waiting, nothing running, `num_blocks` free blocks.
    pub fn new(config: EngineConfig, num_blocks: usize) -> Self {
        let blocks = BlockManager::new(num_blocks, config.block_size, config.prefix_cache);
        Self {
            pace: Pace::new(config.max_itl),
            config,
            blocks,
            sequences: SeqMap::default(),
            waiting: Vec::new(),
            running: Vec::new(),
            next_deadline: None,
            in_flight: HashMap::new(),
            order: Vec::new(),
            spare: Plan::default(),
        }
    }

    /// Takes a new sequence into the queue. The caller has checked that alone it fits the blocks there are.
    pub fn add(&mut self, mut sequence: Sequence) {
        debug_assert!(
            self.blocks.blocks_for(sequence.tokens().len()) <= self.blocks.counts().total,
            "a sequence that can never run would block the queue"
        );
        if self.config.prefix_cache {
            sequence.hash_blocks();
        }
        if let Some(deadline) = sequence.deadline() {
            self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        }
        self.waiting.push(sequence.id());
        self.sequences.insert(sequence.id(), sequence);
    }

    /// Decides the next step. Not empty as long as any sequence is left after it.
    pub fn schedule(&mut self, now: Instant) -> Plan {
        let mut plan = std::mem::take(&mut self.spare);
        self.expire(now, &mut plan);
        self.admit(now, &mut plan);
        self.plan_decodes(&mut plan);
        self.plan_prefills(&mut plan);
        plan
    }

    /// Takes a plan back once it is carried out, so that the next needs no memory of its own.
    pub fn recycle(&mut self, mut plan: Plan) {
        plan.clear();
        self.spare = plan;
    }

    /// Tells how long a step of `work` took, from its schedule to its last token sent.
    pub fn observe(&mut self, work: &StepWork, elapsed: Duration) {
        self.pace.observe(work, elapsed);
    }

    /// Tells that the KV of the plan's tokens is written: full blocks can be shared from now on.
    pub fn advance(&mut self, plan: &Plan) {
        for entry in &plan.entries {
            let Some(sequence) = self.sequences.get_mut(&entry.id) else {
                continue;
            };
            let before = sequence.computed / self.config.block_size;
            sequence.computed = entry.start + entry.len;
            sequence.mark_scored(sequence.computed);
            let after = sequence.computed / self.config.block_size;
            for position in before..after.min(sequence.chain.hashes().len()) {
                let hash = sequence.chain.hashes()[position];
                self.blocks.publish(&mut sequence.table, position, hash);
                if self.in_flight.get(&hash) == Some(&entry.id) {
                    self.in_flight.remove(&hash);
                }
            }
        }
    }

    /// Adds a sampled token to its sequence.
    pub fn append(&mut self, id: SeqId, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.push(token);
            if self.config.prefix_cache {
                sequence.hash_blocks();
            }
        }
    }

    /// Lets a sequence go, waiting or running, and takes its blocks back.
    pub fn finish(&mut self, id: SeqId) -> Option<Sequence> {
        self.waiting.retain(|other| *other != id);
        self.running.retain(|other| *other != id);
        self.take_blocks(id);
        self.sequences.remove(&id)
    }

    /// A sequence, if it is still here.
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// Everybody who runs.
    pub fn running(&self) -> &[SeqId] {
        &self.running
    }

    /// Everybody who waits.
    pub fn waiting(&self) -> &[SeqId] {
        &self.waiting
    }

    /// Tokens that those who wait and run have still to read before they can say any.
    pub fn backlog(&self) -> usize {
        // One token of a running sequence is its decode.
        self.sequences.values().map(|sequence| sequence.remaining().saturating_sub(1)).sum()
    }

    /// What steps cost now.
    pub fn step_cost(&self) -> Option<StepCost> {
        self.pace.cost()
    }

    /// Nobody left.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Tokens a block holds.
    pub fn block_size(&self) -> usize {
        self.config.block_size
    }

    /// States of the blocks.
    pub fn block_counts(&self) -> BlockCounts {
        self.blocks.counts()
    }

    /// The blocks: for a pass that belongs to no sequence, and to drop the cache.
    pub fn blocks_mut(&mut self) -> &mut BlockManager {
        &mut self.blocks
    }

    fn expire(&mut self, now: Instant, plan: &mut Plan) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let over: Vec<SeqId> =
            self.sequences.values().filter(|sequence| sequence.is_expired(now)).map(Sequence::id).collect();
        for id in over {
            if let Some(sequence) = self.finish(id) {
                let in_queue = !sequence.was_admitted;
                plan.expired.push(Expired { sequence, in_queue });
            }
        }
        self.next_deadline = self.sequences.values().filter_map(Sequence::deadline).min();
    }

    fn admit(&mut self, now: Instant, plan: &mut Plan) {
        if self.waiting.is_empty() {
            return;
        }
        for id in &self.waiting {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.rank = sequence.aged_rank(now, self.config.priority_aging);
            }
        }
        let mut queue = std::mem::take(&mut self.waiting);
        queue.sort_by_key(|id| (Reverse(self.rank(*id)), *id));
        let mut blocked = false;
        for id in queue {
            if blocked || self.is_held_back(id) {
                self.waiting.push(id);
            } else if self.make_room(id, plan) {
                self.start(id, plan);
            } else {
                blocked = true;
                self.waiting.push(id);
            }
        }
    }

    fn rank(&self, id: SeqId) -> i64 {
        self.sequences.get(&id).map_or(i64::MIN, |sequence| sequence.rank)
    }

    /// True if the first block this sequence lacks is being computed. Who computes it inherits the
    /// rank of who waits for it.
    fn is_held_back(&mut self, id: SeqId) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let waits_for = match sequence.held_on {
            Some(hash) if self.in_flight.contains_key(&hash) => Some(hash),
            _ => {
                let hashes = sequence.shareable();
                hashes.get(self.blocks.known_prefix(hashes)).copied()
            }
        };
        let rank = sequence.rank;
        let holder = waits_for.and_then(|hash| self.in_flight.get(&hash)).copied();
        sequence.held_on = waits_for.filter(|_| holder.is_some());
        if let Some(holder) = holder.and_then(|id| self.sequences.get_mut(&id)) {
            holder.rank = holder.rank.max(rank);
        }
        holder.is_some()
    }

    /// Takes the blocks for all tokens of a waiting sequence, preempting lower priorities if that suffices.
    fn make_room(&mut self, id: SeqId, plan: &mut Plan) -> bool {
        loop {
            if self.running.len() < self.config.max_num_seqs && self.take_room(id) {
                return true;
            }
            let lower: Vec<SeqId> = self.running.iter().copied().filter(|other| self.yields(*other, id)).collect();
            let held = |id: &SeqId| self.sequences.get(id).map_or(0, |sequence| sequence.table.len());
            let could_be = self.blocks.available() + lower.iter().map(held).sum::<usize>();
            let tokens = self.sequences.get(&id).map_or(0, |sequence| sequence.tokens().len());
            let needed = self.blocks.blocks_for(tokens) + self.running.len() - lower.len();
            match self.worst(&lower) {
                Some(victim) if could_be >= needed => self.preempt(victim, plan),
                _ => return false,
            }
        }
    }

    /// Who runs gives way to who was asked for with a higher priority. Age alone preempts nobody, or
    /// a long queue would have everybody recomputed in turn; but it protects who ran late.
    fn yields(&self, runs: SeqId, waits: SeqId) -> bool {
        match (self.sequences.get(&runs), self.sequences.get(&waits)) {
            (Some(runs), Some(waits)) => runs.priority() < waits.priority() && runs.rank < waits.rank,
            _ => false,
        }
    }

    fn take_room(&mut self, id: SeqId) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let mut table = BlockTable::default();
        let cached = self.blocks.take_prefix(&mut table, sequence.shareable());
        let needed = self.blocks.blocks_for(sequence.tokens().len()) - cached;
        // One block in reserve for each that runs, so that a newcomer does not push out another at once.
        let reserve = self.running.len();
        if needed + reserve > self.blocks.available() || !self.blocks.grow(&mut table, sequence.tokens().len()) {
            self.blocks.release(&mut table);
            return false;
        }
        sequence.table = table;
        sequence.computed = cached * self.config.block_size;
        true
    }

    fn start(&mut self, id: SeqId, plan: &mut Plan) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        sequence.held_on = None;
        if !std::mem::replace(&mut sequence.was_admitted, true) {
            plan.admitted.push(Admitted { id, cached_tokens: sequence.computed });
        }
        let computed = sequence.computed / self.config.block_size;
        for hash in sequence.chain.hashes().iter().skip(computed) {
            self.in_flight.entry(*hash).or_insert(id);
        }
        self.running.push(id);
    }

    fn worst(&self, among: &[SeqId]) -> Option<SeqId> {
        among.iter().copied().min_by_key(|id| (self.rank(*id), Reverse(*id)))
    }

    fn preempt(&mut self, id: SeqId, plan: &mut Plan) {
        self.take_blocks(id);
        self.running.retain(|other| *other != id);
        self.waiting.push(id);
        plan.preempted.push(id);
    }

    fn take_blocks(&mut self, id: SeqId) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        for hash in sequence.chain.hashes().iter().skip(sequence.computed / self.config.block_size) {
            if self.in_flight.get(hash) == Some(&id) {
                self.in_flight.remove(hash);
            }
        }
        self.blocks.release(&mut sequence.table);
        sequence.computed = 0;
    }

    /// Those who run and have as much left as `wanted` says, in order of service.
    fn in_order(&mut self, wanted: impl Fn(usize) -> bool) -> Vec<Place> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        for id in &self.running {
            if let Some(sequence) = self.sequences.get(id)
                && wanted(sequence.remaining())
            {
                order.push((Reverse(sequence.rank), sequence.remaining(), *id));
            }
        }
        order.sort_unstable();
        order
    }

    fn plan_decodes(&mut self, plan: &mut Plan) {
        let decodes = self.in_order(|remaining| remaining == 1);
        for &(_, _, id) in &decodes {
            // The victim is never planned already: it is the worst, and the better ones come first.
            while !plan.preempted.contains(&id) && !self.grow(id) {
                match self.worst(&self.running) {
                    Some(victim) => self.preempt(victim, plan),
                    None => break,
                }
            }
            if !plan.preempted.contains(&id) {
                self.plan_tokens(id, 1, plan);
            }
        }
        self.order = decodes;
    }

    fn grow(&mut self, id: SeqId) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return true;
        };
        let tokens = sequence.tokens().len();
        self.blocks.grow(&mut sequence.table, tokens)
    }

    fn plan_prefills(&mut self, plan: &mut Plan) {
        let prefills = self.in_order(|remaining| remaining > 1);
        let tokens = self.config.max_batch_tokens - plan.num_tokens();
        let time = self.time_for_prefill(&prefills, tokens, &plan.work);
        let mut room = Room { tokens, scoring: MAX_SCORING_ROWS, time };
        plan.prefill_budget = room.fits(0);
        let oldest = prefills.iter().map(|(_, _, id)| *id).min();
        let mut share = oldest.map_or(0, |oldest| self.take_chunk(oldest, 0, 4, &mut room));
        for &(_, _, id) in &prefills {
            let already = if Some(id) == oldest { std::mem::take(&mut share) } else { 0 };
            let len = already + self.take_chunk(id, already, 1, &mut room);
            if len > 0 {
                self.plan_tokens(id, len, plan);
            }
        }
        self.order = prefills;
    }

    /// How long the step's prefill may take. Nobody waits for a step that gives no token: it is bounded by
    /// `tokens` alone. Where a prompt ends in this step, its first token waits for no other prompt.
    fn time_for_prefill(&self, prefills: &[Place], tokens: usize, decodes: &StepWork) -> Allowance {
        if decodes.decodes > 0 {
            return self.pace.beside(decodes);
        }
        match prefills.first().and_then(|(_, _, id)| self.sequences.get(id)) {
            Some(next) if next.remaining() <= tokens => self.pace.to_finish(next.computed, next.remaining()),
            _ => self.pace.unbounded(),
        }
    }

    /// Takes one `part`-th of the room for a prompt, or what it has left after the `already` granted tokens.
    /// Positions that score the prompt cost logit rows, of which a step has few.
    fn take_chunk(&self, id: SeqId, already: usize, part: usize, room: &mut Room) -> usize {
        let Some(sequence) = self.sequences.get(&id) else {
            return 0;
        };
        let start = sequence.computed + already;
        let wanted = (sequence.remaining() - already).min(self.config.max_prefill_chunk.saturating_sub(already));
        let wanted = wanted.min(room.fits(start).div_ceil(part));
        let rows = sequence.scoring(start, wanted);
        // Past the last row that the step has left, not even a token without a row: order is kept.
        let len = if rows.len() > room.scoring { rows.start + room.scoring - start } else { wanted };
        room.scoring -= rows.len().min(room.scoring);
        room.tokens -= len;
        room.time.spend(start, len);
        len
    }

    fn plan_tokens(&self, id: SeqId, len: usize, plan: &mut Plan) {
        if let Some(sequence) = self.sequences.get(&id) {
            let start = sequence.computed;
            let samples = len == sequence.remaining() && sequence.max_tokens() > 0;
            plan.entries.push(Scheduled { id, start, len, samples });
            if sequence.remaining() == 1 {
                plan.work.add_decode(start + 1);
            } else {
                plan.work.add_prefill(start, len);
            }
        }
    }

    /// Walks everything. For tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let tables: Vec<&BlockTable> = self.sequences.values().map(|sequence| &sequence.table).collect();
        self.blocks.check(&tables);
        assert_eq!(self.waiting.len() + self.running.len(), self.sequences.len());
        for id in &self.waiting {
            assert!(self.sequences[id].table.is_empty() && self.sequences[id].computed == 0);
        }
        for (hash, id) in &self.in_flight {
            assert!(self.running.contains(id), "{id:?} computes a block but does not run");
            let sequence = &self.sequences[id];
            let at = sequence.chain.hashes().iter().position(|other| other == hash).unwrap();
            assert!(at >= sequence.computed / self.config.block_size, "a computed block is still in flight");
        }
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
