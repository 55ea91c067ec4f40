//! `engram memory stats` and `engram memory snapshot`

use clap::Args;
use serde_json::{Value, json};

use super::table::table;
use super::target::{Ask, MemoryTarget};
use crate::cli::args::ConfigArgs;
use crate::config::human_size;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory stats
  engram memory stats --domain business --json")]
pub(super) struct StatsArgs {
    /// Domain [default: the key's]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    #[command(flatten)]
    target: MemoryTarget,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory snapshot
  engram memory snapshot before-upgrade")]
pub(super) struct SnapshotArgs {
    /// Its name [default: made from the time]
    name: Option<String>,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: &StatsArgs) -> anyhow::Result<()> {
    let parameter = args.domain.as_ref().map_or_else(String::new, |domain| format!("?domain={domain}"));
    let ask = Ask { method: "GET", path: format!("/v1/memory/stats{parameter}"), body: Value::Null };
    args.target.tell(config, ask, text)
}

pub(super) fn snapshot(config: &ConfigArgs, args: &SnapshotArgs) -> anyhow::Result<()> {
    let body = args.name.as_ref().map_or_else(|| json!({}), |name| json!({"name": name}));
    let ask = Ask { method: "POST", path: "/v1/memory/snapshots".into(), body };
    args.target.tell(config, ask, |report| {
        let size = human_size(report["bytes"].as_u64().unwrap_or_default());
        format!("{}: {} records, {size}\n", report["name"].as_str().unwrap_or_default(), report["records"])
    })
}

fn text(stats: &Value) -> String {
    let number = |name: &str| stats[name].as_u64().unwrap_or_default();
    let mut rows = vec![vec!["KIND".to_owned(), "RECORDS".to_owned()]];
    for (kind, count) in stats["records"].as_object().into_iter().flatten() {
        rows.push(vec![kind.clone(), count.to_string()]);
    }
    rows.push(vec!["all".to_owned(), number("total").to_string()]);
    format!(
        "{}\ndomain {}, encoder {}: {} vectors, {} deleted and not compacted yet, {} in memory, {} on disk\n",
        table(&rows),
        stats["domain"].as_str().unwrap_or_default(),
        stats["encoder"].as_str().unwrap_or_default(),
        number("vectors"),
        number("tombstones"),
        human_size(number("index_bytes")),
        human_size(number("disk_bytes")),
    )
}
