//! The behaviours of Engram as a whole, one file each: real models, real processes, real clients.

mod support;

mod architectures;
mod clients;
mod embeddings;
mod encoders;
mod equalities;
mod keys;
mod logits;
mod memory;
mod memory_commands;
mod openai_client;
mod portkey;
mod portkey_front;
mod process;
mod reference;
mod reload;
