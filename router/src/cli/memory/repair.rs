//! `engram memory repair`

use clap::Args;
use engram_memory::backend::embedded::{Embedded, Repaired};
use serde_json::json;

use super::target::DirectoryArgs;
use crate::cli::args::ConfigArgs;
use crate::startup;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory repair --data-dir /srv/engram

Every value has a checksum: those that can be read are kept, and what follows from records is made anew. The damaged
files are kept beside them.")]
pub(super) struct RepairArgs {
    #[command(flatten)]
    directory: DirectoryArgs,
}

pub(super) fn run(config: &ConfigArgs, args: &RepairArgs) -> anyhow::Result<()> {
    let settings = args.directory.embedded(config)?;
    // The damage may have taken the encoder's name with it.
    let (_, encoder) = startup::encoder(&settings)?;
    let repaired = Embedded::repair(&settings.memory.dir, Some(&encoder))?;
    // What was indexed may be among what was lost: the next run looks.
    crate::memory::manifests(&settings.memory.dir).clear()?;
    args.directory.print(&json!(repaired), |_| text(&repaired))
}

fn text(repaired: &Repaired) -> String {
    let Repaired { kept, lost, without_vector, log_gaps, damaged } = repaired;
    let mut text = format!("{kept} records are kept, {lost} are lost\n");
    if *without_vector > 0 {
        text.push_str(&format!("{without_vector} have lost their vector: they are found by word and name only\n"));
    }
    if *log_gaps > 0 {
        text.push_str(&format!("{log_gaps} stretches of the log could not be read; each may have held writes\n"));
    }
    text.push_str(&format!("the damaged files lie in {}; remove them when they are not needed\n", damaged.display()));
    text
}
