//! The life of a server: serving, draining (running requests finish, new ones are refused),
//! stopping (what still runs is ended). Waiting for either is a `watch` channel.

use std::sync::Arc;

use tokio::sync::watch;

/// Where in its life the server is; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Takes requests.
    Serving,
    /// Finishes what runs; `/ready` says 503.
    Draining,
    /// Ends what still runs.
    Stopping,
}

/// The server's phase and the number of requests it works on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
    in_flight: Arc<watch::Sender<usize>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), in_flight: Arc::new(watch::Sender::new(0)) }
    }
}

impl Drain {
    /// Where the server is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves forward to `phase`; back is not a way.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    /// Waits until the server is at `phase` or past it.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// Counts a request until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(self.clone())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Waits until no request is in flight.
    pub async fn idle(&self) {
        let _ = self.in_flight.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight(Drain);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn phases_only_move_forward_and_wake_who_waits() {
        let drain = Drain::default();
        drain.reached(Phase::Serving).await;
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.reached(Phase::Draining).await }
        });
        drain.advance(Phase::Stopping);
        waiting.await.expect("woken");
        drain.advance(Phase::Serving);
        assert_eq!(drain.phase(), Phase::Stopping);
    }

    #[tokio::test]
    async fn idle_comes_when_the_last_request_ends() {
        let drain = Drain::default();
        drain.idle().await;
        let (one, two) = (drain.enter(), drain.enter());
        assert_eq!(drain.in_flight(), 2);
        drop(one);
        assert!(tokio::time::timeout(Duration::from_millis(20), drain.idle()).await.is_err());
        drop(two);
        drain.idle().await;
    }
}
