//! `engram memory search`

use clap::Args;
use serde_json::{Value, json};

use super::table::{one_line, source, table};
use super::target::{Ask, MemoryTarget, ScopeArgs};
use crate::cli::args::ConfigArgs;
use crate::cli::output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory search \"where are retries decided\"
  engram memory search Scheduler::schedule --kind code --project web -k 3
  engram memory search retry --filter '{\"glob\": {\"field\": \"path\", \"pattern\": \"src/**\"}}' --json")]
pub(super) struct SearchArgs {
    /// What to look for
    query: String,
    /// Hits at most
    #[arg(short, default_value_t = 10, value_name = "N")]
    k: usize,
    /// Only this kind; may be repeated
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only what meets this condition, as JSON
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Leave out hits below this score, 0 to 1
    #[arg(long, value_name = "SCORE")]
    min_score: Option<f64>,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: &SearchArgs) -> anyhow::Result<()> {
    let mut body = json!({"query": args.query, "k": args.k, "kinds": args.kind, "scope": args.scope.json()});
    if let Some(filter) = &args.filter {
        let filter: Value =
            serde_json::from_str(filter).map_err(|error| output::usage(format!("--filter is not JSON: {error}")))?;
        body["filter"] = filter;
    }
    if let Some(score) = args.min_score {
        body["min_score"] = json!(score);
    }
    let ask = Ask { method: "POST", path: "/v1/memory/search".into(), body };
    args.target.tell(config, ask, text)
}

fn text(answer: &Value) -> String {
    let hits = answer["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
    if hits.is_empty() {
        return "nothing found\n".into();
    }
    let mut rows = vec![["SCORE", "ID", "FROM", "CONTENT"].map(str::to_owned).to_vec()];
    rows.extend(hits.iter().map(|hit| {
        vec![
            format!("{:.3}", hit["score"].as_f64().unwrap_or_default()),
            hit["id"].as_str().unwrap_or_default().to_owned(),
            source(hit),
            one_line(hit["content"].as_str().unwrap_or_default(), 60),
        ]
    }));
    table(&rows)
}
