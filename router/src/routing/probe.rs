//! The active health check: each backend is asked at its own interval, whoever else is slow.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::placement::Placement;

use super::{Backend, Routing};

/// Every so many probes the models are listed anew.
const DISCOVER_EVERY: u32 = 12;

/// Probes `backends` until they are replaced. A task holds its backend only while it asks, so that one that a reload
/// has dropped is soon gone.
pub fn start(placement: &Arc<Placement>, backends: impl IntoIterator<Item = Arc<Backend>>) {
    for backend in backends {
        // Without an interval it is never asked, and only what requests see counts.
        if let Some(interval) = backend.config().health_interval {
            tokio::spawn(watch(Arc::downgrade(&backend), Arc::clone(placement), interval));
        }
    }
}

async fn watch(backend: Weak<Backend>, placement: Arc<Placement>, interval: Duration) {
    let mut probes = 0_u32;
    loop {
        let Some(backend) = backend.upgrade() else {
            return;
        };
        backend.probe(probes.is_multiple_of(DISCOVER_EVERY)).await;
        placement.checked(backend.name(), backend.is_up(), Instant::now());
        drop(backend);
        probes = probes.wrapping_add(1);
        tokio::time::sleep(interval).await;
    }
}

impl Routing {
    /// Asks all backends once, at the same time, and waits for them: so that the first requests find models.
    pub async fn discover(&self) {
        let table = self.table();
        futures::future::join_all(table.backends.values().map(|backend| backend.probe(true))).await;
    }
}
