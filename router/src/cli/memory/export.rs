//! `engram memory export`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use engram_memory::Scope;
use engram_memory::backend::Selection;
use engram_memory::backend::embedded::Embedded;
use serde_json::json;

use super::target::{DirectoryArgs, ScopeArgs};
use crate::cli::args::ConfigArgs;
use crate::startup;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory export > memory.jsonl
  engram memory export web.jsonl --project web --vectors --history")]
pub(super) struct ExportArgs {
    /// The file to write [default: standard output]
    file: Option<PathBuf>,
    /// Whose records [default: those of the first configured key]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Superseded versions too
    #[arg(long)]
    history: bool,
    /// Vectors too: larger, and nothing is embedded where they are read with the same encoder
    #[arg(long)]
    vectors: bool,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    directory: DirectoryArgs,
}

pub(super) fn run(config: &ConfigArgs, args: &ExportArgs) -> anyhow::Result<()> {
    let settings = args.directory.embedded(config)?;
    let tenant = startup::tenant(&settings, args.tenant.as_deref())?;
    let domain = args.scope.domain.as_deref().unwrap_or(settings.memory.defaults_of(&tenant.name).domain.as_str());
    let mut scope = Scope::of(&tenant.name, domain)?;
    if let Some(project) = &args.scope.project {
        scope = scope.project(project)?;
    }
    if let Some(session) = &args.scope.session {
        scope = scope.session(session)?;
    }
    let memory = Embedded::open(&settings.memory.dir, None, startup::embedded_config(&settings.memory))?;
    let mut out: BufWriter<Box<dyn Write>> = BufWriter::new(match &args.file {
        Some(path) => Box::new(File::create(path).with_context(|| format!("{} cannot be written", path.display()))?),
        None => Box::new(std::io::stdout().lock()),
    });
    let written = memory.export(&Selection::all(scope), args.history, args.vectors, &mut out)?;
    out.flush().context("the end could not be written")?;
    if args.file.is_some() {
        return args.directory.print(&json!({"records": written}), |_| format!("{written} records exported\n"));
    }
    Ok(())
}
