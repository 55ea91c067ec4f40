//! The order among candidates that are equal by the plan: which of several peers, and whether the engine here is so
//! busy that others come first.

use std::collections::VecDeque;
use std::time::Instant;

use crate::answer::{Asked, Endpoint};
use crate::auth::Tenant;
use crate::breaker::BreakerState;
use crate::placement::{Placed, PrefixKey};

use super::plan::{Candidate, Target};
use super::{Backend, Routing};

impl Routing {
    /// The candidates as they are asked now: the engine here last when it has a queue, and last of all who is down.
    pub fn order(&self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        // Stable sorts: the plan's order holds among equals.
        candidates.sort_by_key(|candidate| match &candidate.target {
            Target::Local(model) => self.spills(model),
            Target::Remote { .. } => false,
        });
        candidates.sort_by_key(|candidate| match &candidate.target {
            Target::Local(_) => false,
            Target::Remote { backend, .. } => !backend.is_up(),
        });
        candidates
    }

    /// Which of `rest` is asked next, by its place: the first, unless that is a peer and others have the same model.
    pub fn place(&self, rest: &VecDeque<Candidate>, asked: &Asked, tenant: &Tenant) -> (usize, Option<Placed>) {
        let Some(first) = rest.front().filter(|first| peer(first).is_some()) else {
            return (0, None);
        };
        let equal = |candidate: &&Candidate| peer(candidate).is_some() && candidate.model == first.model;
        let group: Vec<&Candidate> = rest.iter().take_while(equal).collect();
        let key = match asked.endpoint {
            Endpoint::Chat => PrefixKey::of_chat(&tenant.name, &first.model, None, &asked.body),
            Endpoint::Completions => PrefixKey::of_completion(&tenant.name, &first.model, None, &asked.body),
            Endpoint::Embeddings => None,
        };
        let now = Instant::now();
        let may = |name: &str| {
            group
                .iter()
                .any(|candidate| candidate.backend() == name && peer(candidate).is_some_and(|peer| works(peer, now)))
        };
        let placed = self.placement().choose(key, may, rand::random(), now);
        let at = placed.as_ref().and_then(|placed| group.iter().position(|member| member.backend() == placed.node()));
        (at.unwrap_or(0), placed)
    }
}

fn peer(candidate: &Candidate) -> Option<&Backend> {
    match &candidate.target {
        Target::Remote { backend, .. } if !backend.is_hosted() => Some(backend),
        _ => None,
    }
}

fn works(backend: &Backend, now: Instant) -> bool {
    backend.is_up() && backend.breaker().state(now) != BreakerState::Open
}
