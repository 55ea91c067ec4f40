//! Measurements that the command line and the scripts share: the engine's speed, and how far its
//! answers are from the exact model's.

#![forbid(unsafe_code)]

pub mod agreement;
pub mod engine;
pub mod machine;
pub mod placement;
pub mod upstream;
