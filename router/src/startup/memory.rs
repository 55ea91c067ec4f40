//! The memory of a server: opened beside the model, so that neither waits for the other.

use std::sync::Arc;

use crate::config::Config;
use crate::memory::MemoryService;
use crate::metrics::Metrics;

/// The memory's doors.
pub fn start(config: &Config, metrics: Arc<Metrics>) -> MemoryService {
    let service = MemoryService::new(config.memory.clone(), metrics);
    service.shut("this build has no memory store yet");
    service
}
