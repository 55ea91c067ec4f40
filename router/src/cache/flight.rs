//! Equal requests that come at once are answered once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::answer::Answer;
use super::key::CacheKey;

/// A follower that saw so many leaders go without an answer asks for itself: in a row of failures each would wait for the
/// time of all before it.
const LEADERS: usize = 3;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    // Held for a look-up or an insertion, never while waiting.
    under_way: Mutex<HashMap<CacheKey, watch::Receiver<Option<Arc<Answer>>>>>,
}

/// What becomes of a request that joins.
#[derive(Debug)]
pub(super) enum Joined {
    /// It leads: others wait for it.
    Leads(Leader),
    /// Another one's answer.
    Landed(Arc<Answer>),
    /// Its deadline passed before there was an answer.
    TooLate,
}

/// Who answers for all. Dropped without an answer, one of those who wait takes its place.
#[derive(Debug)]
pub(super) struct Leader {
    flights: Arc<Flights>,
    key: CacheKey,
    /// `None`: it asks for itself alone.
    sender: Option<watch::Sender<Option<Arc<Answer>>>>,
}

impl Flights {
    /// Leads, or waits for who leads; until `deadline`, if there is one.
    pub async fn join(self: &Arc<Self>, key: CacheKey, deadline: Option<Instant>) -> Joined {
        for _ in 0..LEADERS {
            let mut receiver = match self.lead_or_follow(key) {
                Ok(leader) => return Joined::Leads(leader),
                Err(receiver) => receiver,
            };
            // An error means that the leader went; then what it left is looked at, and the place is free.
            let landed = async {
                let _ = receiver.wait_for(Option::is_some).await;
                receiver.borrow().clone()
            };
            let landed = match deadline {
                None => landed.await,
                Some(deadline) => match tokio::time::timeout_at(deadline.into(), landed).await {
                    Ok(landed) => landed,
                    Err(_) => return Joined::TooLate,
                },
            };
            if let Some(answer) = landed {
                return Joined::Landed(answer);
            }
        }
        Joined::Leads(Leader { flights: Arc::clone(self), key, sender: None })
    }

    fn lead_or_follow(self: &Arc<Self>, key: CacheKey) -> Result<Leader, watch::Receiver<Option<Arc<Answer>>>> {
        let mut under_way = self.lock();
        if let Some(receiver) = under_way.get(&key) {
            return Err(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key, receiver);
        Ok(Leader { flights: Arc::clone(self), key, sender: Some(sender) })
    }

    /// Requests that lead.
    pub fn under_way(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, watch::Receiver<Option<Arc<Answer>>>>> {
        // A map is whole after every single call.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    /// Gives all who wait the answer.
    pub fn land(self, answer: &Arc<Answer>) {
        if let Some(sender) = &self.sender {
            sender.send_replace(Some(Arc::clone(answer)));
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.sender.is_some() {
            // First the place, then (as fields are dropped) the sender: who wakes finds the place free.
            self.flights.lock().remove(&self.key);
        }
    }
}
