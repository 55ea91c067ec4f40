//! The behaviours of Engram as a whole, one file each: real models, real processes, real clients.

mod support;

mod architectures;
mod clients;
mod crowd;
mod embeddings;
mod encoders;
mod equalities;
mod faults;
mod keys;
mod logits;
mod memory;
mod memory_commands;
mod openai_client;
mod peers;
mod portkey;
mod portkey_front;
mod process;
mod reference;
mod reload;
