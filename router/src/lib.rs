//! HTTP, the command line, and what joins them to the engine.
#![forbid(unsafe_code)]

mod access;
pub mod api;
pub mod app;
pub mod auth;
pub mod backend;
pub mod cache;
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
pub mod openai;
pub mod openapi;
pub mod placement;
pub mod request_id;
mod server;
pub mod sse;
pub mod startup;

pub use app::AppState;
pub use server::serve;

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod memory_api_tests;
#[cfg(test)]
mod scripted;
