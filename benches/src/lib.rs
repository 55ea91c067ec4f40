//! Measurements that the command line and the scripts share: the engine's speed, how far its answers are from the
//! exact model's, and how a fleet fares by how its nodes are chosen.

#![forbid(unsafe_code)]

pub mod agreement;
pub mod engine;
pub mod machine;
pub mod placement;
pub mod upstream;
