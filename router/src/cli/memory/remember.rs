//! `engram memory remember`

use clap::Args;
use serde_json::{Value, json};

use super::target::{Ask, MemoryTarget, ScopeArgs};
use crate::cli::args::ConfigArgs;
use crate::cli::{output, prompt};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory remember \"we retry with backoff, never in a loop\" --project web
  engram memory remember --kind workflow --pin < release-steps.md")]
pub(super) struct RememberArgs {
    /// The text; without it standard input is read
    content: Option<String>,
    /// code, knowledge, conversation, document or workflow
    #[arg(long, value_name = "KIND", default_value = "knowledge")]
    kind: String,
    /// Seconds it is kept [default: as configured for its kind]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<f64>,
    /// It never expires
    #[arg(long)]
    pin: bool,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: &RememberArgs) -> anyhow::Result<()> {
    let content = match &args.content {
        Some(content) => content.clone(),
        None if prompt::is_interactive() => {
            return Err(output::usage("nothing to remember: give a text, or a pipe"));
        }
        None => prompt::read_stdin()?,
    };
    let mut body = json!({"content": content, "kind": args.kind, "scope": args.scope.json(), "pinned": args.pin});
    if let Some(ttl) = args.ttl {
        body["ttl"] = json!(ttl);
    }
    let ask = Ask { method: "POST", path: "/v1/memory/records".into(), body };
    args.target.tell(config, ask, |record| {
        let id = record["id"].as_str().unwrap_or_default();
        match record["is_new"] == Value::Bool(true) {
            true => format!("{id}\n"),
            false => format!("{id} (known, seen {} times)\n", record["seen"]),
        }
    })
}
