//! HTTP, the command line, and what joins them to the engine.
#![forbid(unsafe_code)]

mod access;
pub mod api;
pub mod app;
pub mod auth;
pub mod backend;
pub mod breaker;
pub mod bulkhead;
pub mod cli;
pub mod config;
pub mod context;
pub mod drain;
pub mod error;
pub mod health;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod money;
pub mod openai;
pub mod openapi;
pub mod prices;
pub mod request_id;
pub mod retry;
mod server;
pub mod spend;
pub mod sse;
pub mod startup;
mod window;

pub use app::AppState;
pub use server::serve;

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod memory_api_tests;
#[cfg(test)]
mod scripted;
