//! `engram memory`: what is remembered, looked at and looked after from the command line.
//!
//! Every command speaks the API: to the server that runs, or, where none does, to one that is started inside this
//! process over the same directory. The directory is locked by whoever has it open, so the two never meet.

mod export;
mod forget;
mod import;
mod index;
mod reembed;
mod remember;
mod repair;
mod restore;
mod search;
mod show;
mod sink;
mod stats;
pub(super) mod table;
mod target;

use clap::{Args, Subcommand};

use super::args::ConfigArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory remember \"we retry with backoff, never in a loop\" --project web
  engram memory search \"how do we retry\" --project web
  engram memory show 0d6081e5adeec8acd201fc89c67e6a81
  engram memory forget --project web
  engram memory index . --project web
  engram memory stats --json

A server that runs is asked (--url, or the configured address); where none does, the memory's directory is opened. Export, import, restore
and repair work on the directory itself, and need it to themselves.")]
pub(super) struct MemoryArgs {
    #[command(subcommand)]
    command: MemoryCommand,
}

#[derive(Debug, Subcommand)]
enum MemoryCommand {
    /// Remember the source under a directory, and what changed in it since
    Index(index::IndexArgs),
    /// Remember a text
    Remember(remember::RememberArgs),
    /// Find what was remembered
    Search(search::SearchArgs),
    /// Show a record
    Show(show::ShowArgs),
    /// Forget records
    Forget(forget::ForgetArgs),
    /// How much is remembered
    Stats(stats::StatsArgs),
    /// Write the whole memory into a file in its own directory
    Snapshot(stats::SnapshotArgs),
    /// Make the memory what a snapshot holds
    Restore(restore::RestoreArgs),
    /// Write records as JSON lines
    Export(export::ExportArgs),
    /// Read records that were exported
    Import(import::ImportArgs),
    /// Embed every record with another encoder, while the server serves
    Reembed(reembed::ReembedArgs),
    /// Keep what can be read of a damaged memory
    Repair(repair::RepairArgs),
}

pub(super) fn run(config: &ConfigArgs, args: MemoryArgs) -> anyhow::Result<()> {
    match args.command {
        MemoryCommand::Index(args) => index::run(config, args),
        MemoryCommand::Remember(args) => remember::run(config, &args),
        MemoryCommand::Search(args) => search::run(config, &args),
        MemoryCommand::Show(args) => show::run(config, &args),
        MemoryCommand::Forget(args) => forget::run(config, &args),
        MemoryCommand::Stats(args) => stats::run(config, &args),
        MemoryCommand::Snapshot(args) => stats::snapshot(config, &args),
        MemoryCommand::Restore(args) => restore::run(config, &args),
        MemoryCommand::Export(args) => export::run(config, &args),
        MemoryCommand::Import(args) => import::run(config, &args),
        MemoryCommand::Reembed(args) => reembed::run(config, &args),
        MemoryCommand::Repair(args) => repair::run(config, &args),
    }
}
