//! The order among candidates that are equal by the plan: which replica of a peer, and whether the engine here is so
//! busy that others come first.

use crate::answer::Asked;
use crate::auth::Tenant;

use super::Routing;
use super::plan::{Candidate, Target};

impl Routing {
    /// The candidates as they are asked now: those that are down last, the engine here after others when it has a queue.
    pub fn order(&self, mut candidates: Vec<Candidate>, _asked: &Asked, _tenant: &Tenant) -> Vec<Candidate> {
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
}
