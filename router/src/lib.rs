//! HTTP, the command line, and what joins them to the engine.
#![forbid(unsafe_code)]

mod access;
pub mod answer;
pub mod api;
pub mod app;
pub mod auth;
pub mod backend;
pub mod breaker;
pub mod bulkhead;
pub mod cache;
pub mod cli;
pub mod config;
pub mod context;
pub mod drain;
pub mod error;
pub mod flags;
pub mod health;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod money;
pub mod openai;
pub mod openapi;
pub mod placement;
pub mod prices;
pub mod reload;
pub mod remote;
pub mod request_id;
pub mod retry;
pub mod routing;
mod server;
pub mod spend;
pub mod sse;
pub mod startup;
pub mod tls;
pub mod trace;
mod window;

pub use app::AppState;
pub use server::{Door, serve, serve_doors};

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod memory_api_tests;
#[cfg(test)]
mod routing_tests;
#[cfg(test)]
mod scripted;
