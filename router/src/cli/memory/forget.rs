//! `engram memory forget`

use clap::Args;
use serde_json::json;

use super::target::{Ask, MemoryTarget, ScopeArgs};
use crate::cli::args::ConfigArgs;
use crate::cli::output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory forget 0d6081e5adeec8acd201fc89c67e6a81
  engram memory forget --project web --kind conversation
  engram memory forget --all --yes                 everything, in every domain")]
pub(super) struct ForgetArgs {
    /// Records by their ids
    ids: Vec<String>,
    /// Only this kind; may be repeated
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Everything of this key, in every domain
    #[arg(long, conflicts_with_all = ["ids", "kind"])]
    all: bool,
    /// Yes, a whole domain or everything is meant
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: &ForgetArgs) -> anyhow::Result<()> {
    let mut body = json!({"kinds": args.kind, "scope": args.scope.json(), "tenant": args.all, "confirm": args.yes});
    if !args.ids.is_empty() {
        body["ids"] = json!(args.ids);
    }
    let narrowed = !args.ids.is_empty() || !args.kind.is_empty() || args.scope.project.is_some();
    if !narrowed && args.scope.session.is_none() && !args.yes {
        return Err(output::usage("this forgets a whole domain or more: add --yes if that is meant"));
    }
    let ask = Ask { method: "POST", path: "/v1/memory/forget".into(), body };
    args.target.tell(config, ask, |answer| format!("{} records forgotten\n", answer["forgotten"]))
}
