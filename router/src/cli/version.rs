//! `engram version`

use clap::Args;
use serde_json::json;

use super::output;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  engram version --json")]
pub(super) struct VersionArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VersionArgs) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let isa = engram_kernels::isa().name();
    let threads = engram_kernels::pool::checked_threads()?;
    let cuda = cfg!(feature = "cuda");
    if args.json {
        let object = json!({ "version": version, "isa": isa, "threads": threads, "cuda": cuda });
        return output::write(&format!("{object}\n"));
    }
    let cuda = if cuda { "cuda" } else { "no cuda" };
    output::write(&format!("engram {version} ({isa}, {threads} threads, {cuda})\n"))
}
