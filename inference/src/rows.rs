//! The rows of a step's logits to tokens and log-probabilities, several rows at a time.

use std::sync::{Mutex, PoisonError};

use engram_models::Workspace;

use crate::batch::RowUse;
use crate::greatest::greatest;
use crate::request::Logprobs;
use crate::sampler::{Sampler, SamplerState};
use crate::scheduler::Scheduler;
use crate::sequence::{SeqId, SeqMap};
use crate::session::Session;

/// What a row came to.
#[derive(Debug)]
pub(crate) enum Chosen {
    /// The next token of a sequence.
    Token { id: SeqId, token: u32, logprobs: Option<Logprobs> },
    /// The log-probabilities of the next prompt position of a sequence.
    Score { id: SeqId, logprobs: Logprobs },
    /// The row held NaN or an infinity.
    NotFinite { id: SeqId },
}

/// A row's task: everything needed, so that any worker may do it.
enum Job<'a> {
    Sample { id: SeqId, state: &'a SamplerState, position: usize },
    Score { id: SeqId, token: u32, alternatives: usize },
}

/// Samplers with their buffers, lent to whichever worker takes a row; memory is kept from step to step.
#[derive(Default)]
pub(crate) struct RowSampler {
    /// The lock is held to take one out or put it back.
    samplers: Mutex<Vec<Sampler>>,
    /// A place for each row's result. A lock a row, since safe Rust has no other way for workers to write
    /// to places of one list; nobody ever waits for it.
    done: Vec<Mutex<Option<Chosen>>>,
    chosen: Vec<Chosen>,
}

impl RowSampler {
    /// Does what `uses` says with each row of a pass's logits, of which there are as many; in the order of the rows. Give the list back with [`Self::recycle`].
    pub fn choose(
        &mut self,
        pass: &Workspace,
        uses: &[RowUse],
        scheduler: &Scheduler,
        sessions: &SeqMap<Session>,
    ) -> Vec<Chosen> {
        if uses.is_empty() {
            return std::mem::take(&mut self.chosen);
        }
        let (rows, values) = (pass.rows().min(uses.len()), pass.logits());
        let vocab = values.len() / pass.rows().max(1);
        if self.done.len() < rows {
            self.done.resize_with(rows, Mutex::default);
        }
        let this = &*self;
        engram_kernels::pool().run(rows, &|row| {
            if let Some(job) = job(&uses[row], scheduler, sessions) {
                let chosen = this.with_sampler(|s| do_job(s, &job, &values[row * vocab..(row + 1) * vocab]));
                *this.done[row].lock().unwrap_or_else(PoisonError::into_inner) = Some(chosen);
            }
        });
        let mut chosen = std::mem::take(&mut self.chosen);
        let results = self.done[..rows].iter_mut();
        chosen.extend(results.filter_map(|slot| slot.get_mut().unwrap_or_else(PoisonError::into_inner).take()));
        chosen
    }

    /// Takes a list of results back, for the next step to use.
    pub fn recycle(&mut self, mut chosen: Vec<Chosen>) {
        chosen.clear();
        self.chosen = chosen;
    }

    fn with_sampler<T>(&self, work: impl FnOnce(&mut Sampler) -> T) -> T {
        let lock = || self.samplers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sampler = lock().pop().unwrap_or_default();
        let result = work(&mut sampler);
        lock().push(sampler);
        result
    }
}

fn job<'a>(use_: &RowUse, scheduler: &Scheduler, sessions: &'a SeqMap<Session>) -> Option<Job<'a>> {
    match *use_ {
        RowUse::Sample { id } => {
            let position = scheduler.sequence(id)?.output_len();
            Some(Job::Sample { id, state: &sessions.get(&id)?.sampler, position })
        }
        RowUse::Score { id, position } => {
            let token = *scheduler.sequence(id)?.tokens().get(position + 1)?;
            let alternatives = sessions.get(&id)?.scores.as_ref()?.alternatives;
            Some(Job::Score { id, token, alternatives })
        }
    }
}

fn do_job(sampler: &mut Sampler, job: &Job<'_>, row: &[f32]) -> Chosen {
    match *job {
        Job::Sample { id, state, position } => match sampler.sample(row, state, position) {
            Ok(sampled) => Chosen::Token { id, token: sampled.id, logprobs: sampled.logprobs },
            Err(_) => Chosen::NotFinite { id },
        },
        Job::Score { id, .. } if !greatest(row).is_finite => Chosen::NotFinite { id },
        Job::Score { id, token, alternatives } => {
            Chosen::Score { id, logprobs: sampler.logprobs(row, token, alternatives) }
        }
    }
}
