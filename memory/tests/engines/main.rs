//! Every backend against one suite, with real servers where there are any.

mod conformance;
mod embedded;
mod fleet;
mod outage;
mod postgres;
mod qdrant;
mod redis;
mod servers;
