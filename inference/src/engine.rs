//! The loop: receive, schedule, run, sample, deliver. One thread owns all of it.
//!
//! Idle, the thread blocks on its channel and uses no CPU. A forward pass that fails or panics ends the
//! requests that took part in it; the others and the engine go on, and health is bad until a pass gives
//! finite logits again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use engram_models::Workspace;
use engram_models::forward::ForwardBatch;
use flume::Sender;

use crate::batch::{self, StepBatch};
use crate::block_manager::BlockTable;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::forward::ForwardPass;
use crate::greatest::greatest;
use crate::handle::{Capacity, Command, DrainReport, EngineHandle, Shared, Submission};
use crate::kv_cache::KvCache;
use crate::pace::StepWork;
use crate::request::{FinishReason, TokenEvent};
use crate::rows::{Chosen, RowSampler};
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::{SeqId, SeqMap, Sequence};
use crate::session::Session;
use crate::stats::{EngineObserver, EngineStats, Outcome, StepReport, StepTimes};

/// An engine that has not been handed to its thread yet.
pub struct Engine<M> {
    model: M,
    kv: KvCache,
    scheduler: Scheduler,
    batch: StepBatch,
    /// The pass's buffers; the logits are in it.
    workspace: Workspace,
    rows: RowSampler,
    sessions: SeqMap<Session>,
    /// The standard library's channel: dropped, it drops what it holds, so that no submission waits in it for ever.
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    observer: Arc<dyn EngineObserver>,
    stats: EngineStats,
    mean_run: Option<Duration>,
    probes: Vec<Sender<Result<(), EngineError>>>,
    drain: Option<(Instant, Sender<DrainReport>)>,
}

impl<M: ForwardPass + 'static> Engine<M> {
    /// Takes the KV memory, proves the model by one pass over one token, and starts the thread.
    pub fn start(
        model: M,
        config: EngineConfig,
        observer: Arc<dyn EngineObserver>,
    ) -> Result<EngineHandle, EngineError> {
        config.validate()?;
        let geometry = model.geometry();
        let kv = KvCache::new(&geometry, &config, &model.device())?;
        let max_len = config.max_model_len.unwrap_or(geometry.max_len).min(geometry.max_len);
        let capacity =
            Capacity { geometry, max_len, num_blocks: kv.num_blocks(), kv_tokens: kv.tokens(), kv_bytes: kv.bytes() };
        tracing::info!(
            blocks = capacity.num_blocks,
            tokens = capacity.kv_tokens,
            bytes = capacity.kv_bytes,
            dtype = config.kv_dtype.name(),
            max_len,
            "KV cache"
        );
        let (sender, commands) = mpsc::channel(); // submissions are bounded by the queue's places
        let shared = Arc::new(Shared::new());
        let mut engine = Self {
            model,
            scheduler: Scheduler::new(config.clone(), kv.num_blocks()),
            kv,
            batch: StepBatch::default(),
            workspace: Workspace::default(),
            rows: RowSampler::default(),
            sessions: SeqMap::default(),
            commands,
            shared: Arc::clone(&shared),
            observer,
            stats: EngineStats::default(),
            mean_run: None,
            probes: Vec::new(),
            drain: None,
        };
        let begun = Instant::now();
        engine.probe_pass().map_err(|e| EngineError::Start(format!("the first forward pass: {e}")))?;
        engine.scheduler.observe(&StepWork { decodes: 1, prefill: 0, pairs: 1 }, begun.elapsed());
        engine.publish_stats();
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                let _stopped = StoppedOnDrop(Arc::clone(&engine.shared));
                engram_kernels::pool::bind_caller();
                engine.run();
            })
            .map_err(|e| EngineError::Start(format!("no thread: {e}")))?;
        Ok(EngineHandle::new(sender, shared, Arc::new(config), capacity))
    }

    fn run(&mut self) {
        loop {
            if self.scheduler.is_idle() && self.drain.is_none() {
                match self.commands.recv() {
                    Ok(command) => self.obey(command),
                    Err(_) => return, // all handles and streams are gone
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
            if self.end_drain() {
                return;
            }
            if self.scheduler.is_idle() {
                self.answer_idle_probes();
            } else {
                self.step();
            }
            self.publish_stats();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.accept(*submission),
            Command::Left(id) => self.end_if_left(id),
            Command::Probe(reply) => self.probes.push(reply),
            Command::DropCache(reply) => {
                let dropped = self.scheduler.blocks_mut().drop_cache();
                self.publish_stats();
                let _ = reply.send(dropped); // who asked may have left
            }
            Command::Drain { deadline, done } => {
                let deadline = self.drain.take().map_or(deadline, |(earlier, _)| earlier.min(deadline));
                self.drain = Some((deadline, done));
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        let Submission { id, request, submitted, events, signal, place } = submission;
        if self.drain.is_some() {
            let _ = events.send(TokenEvent::Failed(EngineError::ShuttingDown)); // who asked may have left
            return;
        }
        self.stats.requests.accepted += 1;
        self.scheduler.add(Sequence::new(id, &request, self.scheduler.block_size(), submitted));
        self.sessions.insert(id, Session::new(&request, submitted, events, signal, place));
    }

    fn end_if_left(&mut self, id: SeqId) {
        if let Some(outcome) = self.sessions.get(&id).and_then(Session::left) {
            self.end(id, outcome, None);
        }
    }

    /// True once a drain is over: everything done, or cut off because its deadline passed.
    fn end_drain(&mut self) -> bool {
        let is_over = |(deadline, _): &(Instant, _)| self.scheduler.is_idle() || *deadline <= Instant::now();
        if !self.drain.as_ref().is_some_and(is_over) {
            return false;
        }
        let left: Vec<SeqId> = self.sessions.keys().copied().collect();
        for id in &left {
            self.end(*id, Outcome::Failed, Some(TokenEvent::Failed(EngineError::ShuttingDown)));
        }
        self.publish_stats();
        self.shared.stopped.store(true, Ordering::Release);
        if let Some((_, done)) = self.drain.take() {
            let _ = done.send(DrainReport { cut_off: left.len() }); // who asked may have left
        }
        true
    }

    fn step(&mut self) {
        let begun = Instant::now();
        let plan = self.scheduler.schedule(begun);
        self.follow(&plan, begun);
        if !plan.entries.is_empty() {
            self.run_plan(&plan, begun);
        }
        self.scheduler.recycle(plan);
    }

    fn run_plan(&mut self, plan: &Plan, begun: Instant) {
        let mut report = self.report(plan);
        let mut batch = std::mem::take(&mut self.batch); // lent to this step
        batch.fill(plan, &self.scheduler);
        let scheduled = Instant::now();
        let passed = self.forward(&batch.forward);
        let forwarded = Instant::now();
        match passed {
            Ok(()) => {
                self.scheduler.advance(plan);
                let chosen = self.rows.choose(&self.workspace, &batch.uses, &self.scheduler, &self.sessions);
                let sampled = Instant::now();
                self.deliver(chosen);
                self.finish_unsampled(plan);
                self.scheduler.observe(&plan.work, begun.elapsed());
                report.times.sample = sampled - forwarded;
                report.times.deliver = sampled.elapsed();
            }
            Err(error) => self.fail(plan, error),
        }
        self.batch = batch;
        report.times.schedule = scheduled - begun;
        report.times.forward = forwarded - scheduled;
        self.stats.times.add(&report.times);
        self.observer.on_step(&report);
    }

    /// Counts the step that `plan` is about to be.
    fn report(&mut self, plan: &Plan) -> StepReport {
        self.stats.steps += 1;
        let decode_tokens = plan.entries.iter().filter(|entry| entry.is_decode()).count();
        let prefill_tokens = plan.num_tokens() - decode_tokens;
        self.stats.prefill_tokens += prefill_tokens as u64;
        self.stats.prefill_budget = plan.prefill_budget;
        StepReport {
            step: self.stats.steps,
            sequences: plan.entries.len(),
            prefill_tokens,
            decode_tokens,
            preempted: plan.preempted.len(),
            times: StepTimes::default(),
        }
    }

    /// Carries out what the plan says about admission, preemption and deadlines.
    fn follow(&mut self, plan: &Plan, now: Instant) {
        for admitted in &plan.admitted {
            if let Some(session) = self.sessions.get_mut(&admitted.id) {
                session.admit(now, admitted.cached_tokens);
                self.stats.prompt_tokens += session.usage().prompt_tokens as u64;
                self.stats.cached_tokens += admitted.cached_tokens as u64;
            }
        }
        for id in &plan.preempted {
            self.stats.preemptions += 1;
            tracing::debug!(seq = id.0, "preempted: out of KV blocks");
        }
        for expired in &plan.expired {
            let id = expired.sequence.id();
            if expired.in_queue {
                let waited = now.saturating_duration_since(expired.sequence.arrived());
                let event = TokenEvent::Failed(EngineError::DeadlineInQueue { waited });
                self.end(id, Outcome::ExpiredInQueue, Some(event));
            } else {
                self.finish(id, FinishReason::Deadline);
            }
        }
    }

    /// Runs the model, which leaves its logits in the workspace; a panic in it is an error like any other.
    fn forward(&mut self, batch: &ForwardBatch) -> Result<(), EngineError> {
        let step = self.stats.steps;
        let (model, kv, workspace) = (&mut self.model, &self.kv, &mut self.workspace);
        match catch_unwind(AssertUnwindSafe(|| model.forward(batch, kv, workspace))) {
            Ok(Ok(())) => {
                let (rows, wanted) = (self.workspace.rows(), batch.logit_rows.len());
                if rows == wanted && (rows == 0 || !self.workspace.logits().is_empty()) {
                    return Ok(());
                }
                let text = format!("the model gave {rows} rows of logits, {wanted} were wanted");
                Err(EngineError::Model { step, source: Arc::new(candle_core::Error::Msg(text).into()) })
            }
            Ok(Err(source)) => Err(EngineError::Model { step, source: Arc::new(source) }),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(EngineError::Panicked { step, message })
            }
        }
    }

    fn deliver(&mut self, mut chosen: Vec<Chosen>) {
        let now = Instant::now();
        let rows = chosen.len();
        let mut bad = 0;
        for chosen in chosen.drain(..) {
            match chosen {
                Chosen::Token { id, token, logprobs } => self.deliver_token(id, token, logprobs, now),
                Chosen::Score { id, logprobs } => {
                    if let Some(scores) = self.sessions.get_mut(&id).and_then(|session| session.scores.as_mut()) {
                        scores.found.push(Some(logprobs));
                    }
                }
                Chosen::NotFinite { id } => {
                    bad += 1;
                    let error = EngineError::NotFinite { step: self.stats.steps };
                    tracing::error!(seq = id.0, "{error}");
                    self.end(id, Outcome::Failed, Some(TokenEvent::Failed(error)));
                }
            }
        }
        self.rows.recycle(chosen);
        if bad > 0 {
            self.note_health(Err(EngineError::NotFinite { step: self.stats.steps }));
        } else if rows > 0 {
            self.note_health(Ok(()));
        }
    }

    fn deliver_token(&mut self, id: SeqId, token: u32, logprobs: Option<crate::request::Logprobs>, now: Instant) {
        self.deliver_scores(id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.sampler.stops_at(token) {
            self.finish(id, FinishReason::Stop);
            return;
        }
        session.sampler.push(token);
        match session.count_token(now) {
            None => self.observer.on_first_token(session.since_submit(now)),
            Some(gap) => self.observer.on_token(gap),
        }
        self.stats.generated_tokens += 1;
        let is_read = session.send(TokenEvent::Token { id: token, logprobs });
        self.scheduler.append(id, token);
        let is_full = |sequence: &Sequence| sequence.output_len() >= sequence.max_tokens();
        if !is_read {
            self.end_if_left(id);
        } else if self.scheduler.sequence(id).is_some_and(is_full) {
            self.finish(id, FinishReason::Length);
        }
    }

    /// Sends the prompt's log-probabilities, once, before the first token.
    fn deliver_scores(&mut self, id: SeqId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(scores) = session.scores.take()
        {
            session.send(TokenEvent::Prompt(scores.found)); // if nobody reads, the token after it shows
        }
    }

    /// Ends the sequences that asked for nothing but their prompt's log-probabilities.
    fn finish_unsampled(&mut self, plan: &Plan) {
        for entry in plan.entries.iter().filter(|entry| !entry.samples) {
            let is_done = |sequence: &Sequence| sequence.max_tokens() == 0 && sequence.remaining() == 0;
            if self.scheduler.sequence(entry.id).is_some_and(is_done) {
                self.deliver_scores(entry.id);
                self.finish(entry.id, FinishReason::Length);
            }
        }
    }

    fn finish(&mut self, id: SeqId, reason: FinishReason) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let event = TokenEvent::Finished { reason, usage: session.usage(), timing: session.timing(Instant::now()) };
        self.end(id, Outcome::Finished(reason), Some(event));
    }

    /// The one way out for a request: blocks back, last event, counters.
    fn end(&mut self, id: SeqId, outcome: Outcome, event: Option<TokenEvent>) {
        self.scheduler.finish(id);
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let now = Instant::now();
        if let (Outcome::Finished(_), Some(ran)) = (outcome, session.ran(now)) {
            self.mean_run = Some(self.mean_run.map_or(ran, |mean| mean.mul_f64(0.9) + ran.mul_f64(0.1)));
        }
        self.stats.requests.count(outcome);
        self.observer.on_finish(outcome, &session.usage(), &session.timing(now));
        self.publish_stats(); // so that who reads the end finds it counted
        if let Some(event) = event {
            session.send(event);
        }
    }

    /// Ends everybody who took part in a pass that failed.
    fn fail(&mut self, plan: &Plan, error: EngineError) {
        tracing::error!(sequences = plan.entries.len(), "{error}");
        for entry in &plan.entries {
            self.end(entry.id, Outcome::Failed, Some(TokenEvent::Failed(error.clone())));
        }
        self.note_health(Err(error));
    }

    fn note_health(&mut self, outcome: Result<(), EngineError>) {
        {
            let mut snapshot = self.shared.snapshot();
            snapshot.failing = outcome.is_err();
            if outcome.is_ok() {
                snapshot.last_healthy = Some(Instant::now());
            }
        }
        for probe in self.probes.drain(..) {
            let _ = probe.send(outcome.clone()); // who asked may have left
        }
    }

    fn answer_idle_probes(&mut self) {
        if !self.probes.is_empty() {
            let _ = self.probe_pass(); // the outcome goes to those who asked
        }
    }

    /// One pass over one token in a block of nobody's.
    fn probe_pass(&mut self) -> Result<(), EngineError> {
        let mut table = BlockTable::default();
        let blocks = self.scheduler.blocks_mut();
        // Idle, every block is free or cached, so one can be had.
        blocks.grow(&mut table, 1);
        let batch = batch::probe(&table, blocks.block_size());
        let outcome = self.forward(&batch).and_then(|()| match greatest(self.workspace.logits()).is_finite {
            true => Ok(()),
            false => Err(EngineError::NotFinite { step: self.stats.steps }),
        });
        self.scheduler.blocks_mut().release(&mut table);
        if let Err(error) = &outcome {
            tracing::error!("health: {error}");
        }
        self.note_health(outcome.clone());
        outcome
    }

    fn publish_stats(&mut self) {
        self.stats.waiting = self.scheduler.waiting().len();
        self.stats.backlog_tokens = self.scheduler.backlog();
        self.stats.step_cost = self.scheduler.step_cost();
        self.stats.running = self.scheduler.running().len();
        self.stats.blocks = self.scheduler.block_counts();
        self.stats.evicted_blocks = self.scheduler.blocks_mut().evicted();
        let mut snapshot = self.shared.snapshot();
        snapshot.stats = self.stats;
        snapshot.mean_run = self.mean_run;
    }
}

/// Tells the handles that the thread is gone, however it went.
struct StoppedOnDrop(Arc<Shared>);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}
