//! What was said before, found again. Nothing of it is here yet.
//!
//! This crate is where Engram's long-term memory is going to live: records of past conversations
//! and of source files, kept on disk, found by meaning and by word, and given back to the router,
//! which puts them into a prompt. Its place among the crates is fixed already:
//!
//! - `router` will depend on it; it depends on none of the others. It is handed something that embeds
//!   text and knows no model, no HTTP and no async runtime.
//! - Records of one scope (a user, a repository) are never found from another.
//!
//! Until the first part of it works, the crate exports nothing, and the server does not mention
//! memory in its API.

#![forbid(unsafe_code)]
