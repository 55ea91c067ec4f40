//! What an answer costs: money is set aside before a backend is asked, and settled when its answer has ended.

use std::time::SystemTime;

use crate::answer::Asked;
use crate::auth::Tenant;
use crate::money::Usd;
use crate::prices::{Price, TokenCount, check_cost};
use crate::spend::Hold;

use super::Routing;
use super::plan::{Candidate, LeftOut, Target};

/// What is to be paid for one backend's answer. Dropped unsettled it costs nothing: the backend did not answer.
pub struct Bill {
    price: Price,
    model: String,
    backend: String,
    hold: Option<Hold>,
    routing: Routing,
}

impl Bill {
    /// Settles it, and says what it came to.
    pub fn settle(self, usage: &TokenCount) -> Usd {
        let cost = self.price.cost(usage);
        self.routing.metrics().answered(&self.backend, &self.model, usage, cost);
        if let Some(hold) = self.hold {
            hold.settle(cost);
        }
        cost
    }
}

impl Routing {
    /// Sets aside what an answer of the expected length costs.
    ///
    /// # Errors
    /// It is more than the request or its key may cost; the candidate is left out.
    pub fn bill(&self, candidate: &Candidate, asked: &Asked, tenant: &Tenant) -> Result<Bill, LeftOut> {
        let table = self.table();
        let price = match &candidate.target {
            Target::Local(_) => Price::FREE,
            Target::Remote { .. } => table.price(&candidate.model),
        };
        let output = asked.output_tokens.saturating_mul(asked.sequences()) as u64;
        let estimate = price.estimate(asked.prompt_tokens as u64, output);
        let too_dear = |why: String| LeftOut {
            backend: candidate.backend().to_owned(),
            model: candidate.model.clone(),
            why,
            over_budget: true,
        };
        check_cost(estimate, asked.wish.max_cost.or(table.max_cost)).map_err(|over| too_dear(over.to_string()))?;
        let hold = if estimate == Usd::ZERO {
            None
        } else {
            let limits = table.limits_of(tenant);
            let held = self.spend().hold(&tenant.key_id, &limits, estimate, SystemTime::now());
            Some(held.map_err(|over| too_dear(over.to_string()))?)
        };
        let (model, backend) = (candidate.model.clone(), candidate.backend().to_owned());
        Ok(Bill { price, model, backend, hold, routing: self.clone() })
    }
}
