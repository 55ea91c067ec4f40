//! `engram memory restore`

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use engram_memory::MemoryError;
use engram_memory::backend::embedded::{self, Embedded};
use serde_json::json;

use super::target::DirectoryArgs;
use crate::cli::args::ConfigArgs;
use crate::openai::response::unix_now;
use crate::startup;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory restore before-upgrade --replace
  engram memory restore /backups/memory.snapshot --data-dir /srv/engram

A memory that is there already is moved aside, not removed; its snapshots stay where they are looked for.")]
pub(super) struct RestoreArgs {
    /// A snapshot's file, or the name it was made with
    snapshot: String,
    /// Yes, in place of the memory that is there
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    directory: DirectoryArgs,
}

pub(super) fn run(config: &ConfigArgs, args: &RestoreArgs) -> anyhow::Result<()> {
    let settings = args.directory.embedded(config)?;
    let dir = &settings.memory.dir;
    let snapshot = find(&args.snapshot, dir)?;
    let present = dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if present {
        if !args.replace {
            bail!("{} holds a memory: add --replace to put the snapshot in its place", dir.display());
        }
        // One that is damaged may be replaced, one that is in use not.
        let opened = Embedded::open(dir, None, startup::embedded_config(&settings.memory));
        if let Err(error @ MemoryError::Locked { .. }) = opened {
            return Err(error.into());
        }
    }
    // Made whole beside its place first: a snapshot that is damaged costs nothing.
    let fresh = beside(dir, "restored");
    let contents = embedded::restore(&snapshot, &fresh)?;
    let old = beside(dir, &format!("before-{}", unix_now()));
    if present {
        rename(dir, &old)?;
    } else if dir.exists() {
        std::fs::remove_dir(dir).with_context(|| format!("{} cannot be replaced", dir.display()))?;
    }
    rename(&fresh, dir)?;
    if old.join("snapshots").is_dir() {
        rename(&old.join("snapshots"), &dir.join("snapshots"))?;
    }
    let answer = json!({
        "records": contents.records.values().sum::<u64>(),
        "taken": contents.created,
        "encoder": contents.encoder,
        "dir": dir,
        "replaced": present.then_some(&old),
    });
    args.directory.print(&answer, |answer| {
        let mut text = format!("{} records in {}\n", answer["records"], answer["dir"].as_str().unwrap_or_default());
        if let Some(old) = answer["replaced"].as_str() {
            text.push_str(&format!("what was there lies in {old}; remove it when it is not needed\n"));
        }
        text
    })
}

/// The file, or the one of that name among the memory's snapshots.
fn find(named: &str, dir: &Path) -> anyhow::Result<PathBuf> {
    let kept = dir.join("snapshots").join(format!("{named}.snapshot"));
    let found = [PathBuf::from(named), kept.clone()].into_iter().find(|path| path.is_file());
    found.with_context(|| format!("no snapshot {named}, neither as a file nor as {}", kept.display()))
}

fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    dir.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("{} cannot be moved to {}", from.display(), to.display()))
}
