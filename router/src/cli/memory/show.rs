//! `engram memory show`

use clap::Args;
use serde_json::Value;

use super::table::{printable, source};
use super::target::{Ask, MemoryTarget};
use crate::cli::args::ConfigArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory show 0d6081e5adeec8acd201fc89c67e6a81
  engram memory show 0d6081e5adeec8acd201fc89c67e6a81 --as-of 1795513701411 --json")]
pub(super) struct ShowArgs {
    /// The record's id
    id: String,
    /// As it stood then, in milliseconds since 1970
    #[arg(long, value_name = "MS")]
    as_of: Option<u64>,
    /// Domain [default: the key's]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: &ShowArgs) -> anyhow::Result<()> {
    let mut parameters = Vec::new();
    parameters.extend(args.as_of.map(|ms| format!("as_of={ms}")));
    parameters.extend(args.domain.as_ref().map(|domain| format!("domain={domain}")));
    let path = format!("/v1/memory/records/{}?{}", args.id, parameters.join("&"));
    args.target.tell(config, Ask { method: "GET", path, body: Value::Null }, text)
}

fn text(record: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let scope = &record["scope"];
    format!(
        "id        {}\nfrom      {}, trust {}\nscope     {} / {} / {}\nversion   {}, seen {} times\nfeedback  useful {}, \
         wrong {}\n\n{}\n",
        word(&record["id"]),
        source(record),
        word(&record["provenance"]["trust"]),
        word(&scope["domain"]),
        word(&scope["project"]),
        word(&scope["session"]),
        record["version"],
        record["seen"],
        record["feedback"]["useful"],
        record["feedback"]["wrong"],
        printable(record["content"].as_str().unwrap_or_default()),
    )
}
