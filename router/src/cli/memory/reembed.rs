//! `engram memory reembed`

use clap::Args;
use engram_memory::backend::Backend;
use engram_memory::backend::embedded::Embedded;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::target::DirectoryArgs;
use crate::cli::args::ConfigArgs;
use crate::startup;

/// Records embedded together.
const BATCH: usize = 64;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory reembed            after `memory.encoder` was changed

The old vectors stay until the new ones are complete: if it is interrupted, the old encoder still opens the memory, and
the next call goes on where this one stopped.")]
pub(super) struct ReembedArgs {
    #[command(flatten)]
    directory: DirectoryArgs,
}

pub(super) fn run(config: &ConfigArgs, args: &ReembedArgs) -> anyhow::Result<()> {
    let settings = args.directory.embedded(config)?;
    let memory = Embedded::open(&settings.memory.dir, None, startup::embedded_config(&settings.memory))?;
    let before = memory.encoder()?;
    let (embedder, now) = startup::encoder(&settings)?;
    let total = memory.stats(None)?.records.values().sum();
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} records {per_sec} {eta}");
    let bar = if args.directory.json { ProgressBar::hidden() } else { ProgressBar::new(total) };
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let done = memory.reembed(&embedder, BATCH, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    args.directory.print(&json!({"embedded": done, "before": before, "now": now}), |_| match before == now {
        true => format!("{} made these vectors already: nothing to do\n", now.name),
        false => format!("{done} records embedded by {}, before it was {}\n", now.name, before.name),
    })
}
