//! `engram memory reembed`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use engram_memory::backend::Backend;
use engram_memory::backend::embedded::Embedded;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::target::MemoryTarget;
use crate::cli::args::ConfigArgs;
use crate::cli::client::Client;
use crate::cli::target::block_on;
use crate::config::Config;
use crate::startup;

/// Records embedded together.
const BATCH: usize = 64;
/// How often a server is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);
const PATH: &str = "/v1/admin/memory/reembed";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory reembed                                  after `memory.encoder` was changed
  engram memory reembed --encoder jina-embeddings-v2-base-code

A server that runs serves on with the old vectors until the new ones are complete, and then with those, without a restart;
`memory.encoder` should name the encoder by the next one. Where no server runs, or its memory is shut because the encoder is
another, the directory is opened. An interrupted run loses nothing: the next call goes on where it stopped.")]
pub(super) struct ReembedArgs {
    /// The encoder [default: the configured one, `memory.encoder`]
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: &ReembedArgs) -> anyhow::Result<()> {
    let mut settings = args.target.directory.settings(config)?;
    if let Some(encoder) = &args.encoder {
        settings.memory.encoder.clone_from(encoder);
    }
    let bar = if args.target.directory.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} records {per_sec} {eta}");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let asked = block_on(async {
        match args.target.running(&settings).await? {
            Some(client) => by_server(&client, &settings.memory.encoder, &bar).await,
            None => Ok(Asked::Nobody),
        }
    })?;
    let (mut answer, server) = match asked {
        Asked::Answered(answer) => (answer, true),
        Asked::Nobody => (here(config, args, &settings, &bar)?, false),
        Asked::Shut => {
            let mut answer = here(config, args, &settings, &bar)?;
            answer["restart"] = json!(true);
            (answer, false)
        }
    };
    bar.finish_and_clear();
    answer["by_server"] = json!(server);
    args.target.directory.print(&answer, text)
}

/// What became of asking a server.
enum Asked {
    Answered(Value),
    /// It has no memory open, and so does not hold the directory.
    Shut,
    Nobody,
}

/// Has the server do it, and follows it.
async fn by_server(client: &Arc<Client>, encoder: &str, bar: &ProgressBar) -> anyhow::Result<Asked> {
    if client.send("GET", PATH, &Value::Null).await?["open"] != true {
        return Ok(Asked::Shut);
    }
    let mut run = client.send("POST", PATH, &json!({"encoder": encoder})).await?;
    while run["state"] == "running" {
        bar.set_length(run["total"].as_u64().unwrap_or_default());
        bar.set_position(run["embedded"].as_u64().unwrap_or_default());
        tokio::time::sleep(LOOK).await;
        run = client
            .send("GET", PATH, &Value::Null)
            .await
            .context("the server goes on, if it runs: call again to follow it")?;
    }
    match run["state"].as_str() {
        Some("done") => {}
        Some("stopped") => bail!("the server stopped it; call again to go on where it stopped"),
        _ => bail!("the server could not: {}", run["error"].as_str().unwrap_or("it says no more")),
    }
    let now = client.send("GET", "/v1/memory/stats", &Value::Null).await?["encoder"].take();
    Ok(Asked::Answered(json!({"embedded": run["embedded"], "before": run["before"], "now": now})))
}

/// Does it in the directory.
fn here(config: &ConfigArgs, args: &ReembedArgs, settings: &Config, bar: &ProgressBar) -> anyhow::Result<Value> {
    args.target.directory.embedded(config)?;
    let memory = Embedded::open(&settings.memory.dir, None, startup::embedded_config(&settings.memory))?;
    let before = memory.encoder()?;
    let (embedder, now) = startup::encoder(settings)?;
    bar.set_length(memory.stats(None)?.records.values().sum());
    let done = memory.reembed(&embedder, BATCH, &mut |done| bar.set_position(done))?;
    Ok(json!({"embedded": done, "before": before.name, "now": now.name}))
}

fn text(answer: &Value) -> String {
    let [before, now] = ["before", "now"].map(|name| answer[name].as_str().unwrap_or_default());
    if before == now {
        return format!("{now} made these vectors already: nothing to do\n");
    }
    let next = match (answer["by_server"] == true, answer["restart"] == true) {
        (true, _) => "the server uses them now; `memory.encoder` must name that encoder when it starts again\n",
        (_, true) => "the server that runs has no memory open: restart it\n",
        _ => "",
    };
    format!("{} records embedded by {now}, before it was {before}\n{next}", answer["embedded"])
}
