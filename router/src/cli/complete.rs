//! `engram complete`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::args::ConfigArgs;
use super::output;
use super::position::Position;
use super::prompt;
use super::target::{self, SamplingArgs, TargetArgs};

const PATH: &str = "/v1/completions";
/// Room for a function; the API's own default of 16 tokens is for no one at a terminal.
const DEFAULT_MAX_TOKENS: u32 = 256;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram complete \"def fibonacci(n):\"
  engram complete < half-written.py
  engram complete --fim src/lib.rs:42            fill in at the end of line 42
  engram complete --fim src/lib.rs:42:9          before column 9 of it
  engram complete --fim app.py:10 --context models.py --context db.py
  engram complete \"def area(r): return \" --suffix \"  # of a circle\"

Only the new text is printed.")]
pub(super) struct CompleteArgs {
    /// The text to go on from; without it standard input is read
    #[arg(conflicts_with = "fim")]
    prompt: Option<String>,
    /// Fill in at a place in a file
    #[arg(long, value_name = "FILE:LINE[:COLUMN]", conflicts_with = "suffix")]
    fim: Option<Position>,
    /// The text that follows the gap
    #[arg(long, value_name = "TEXT")]
    suffix: Option<String>,
    /// Another file of the project for the model to know; may be repeated
    #[arg(long, value_name = "FILE")]
    context: Vec<PathBuf>,
    /// Print the whole answer as the API's JSON, not streamed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(config: &ConfigArgs, args: CompleteArgs) -> anyhow::Result<()> {
    let settings = target::settings(config, &args.target)?;
    let mut body = request(&args)?;
    target::block_on(async {
        let target = target::find(&args.target, settings).await?;
        body["model"] = json!(target.model);
        let result = if args.json {
            let answer = target.client.post(PATH, &body).await;
            answer.and_then(|answer| output::write(&format!("{}\n", serde_json::to_string_pretty(&answer)?)))
        } else {
            body["stream"] = json!(true);
            let ended = target.client.stream(PATH, &body, target::print_piece).await;
            ended.and_then(|_| output::write("\n"))
        };
        target.close().await;
        result
    })
}

/// The request, but for the model and whether it streams.
fn request(args: &CompleteArgs) -> anyhow::Result<Value> {
    let (prefix, suffix) = match &args.fim {
        Some(position) => {
            let text = prompt::read_file(&position.path)?;
            let (prefix, suffix) = position.split(&text).map_err(output::usage)?;
            (prefix.to_owned(), Some(suffix.to_owned()))
        }
        None => {
            let prefix = match &args.prompt {
                Some(prompt) => prompt.clone(),
                None if prompt::is_interactive() => {
                    return Err(output::usage("nothing to complete: give a text, --fim FILE:LINE, or a pipe"));
                }
                None => prompt::read_stdin()?,
            };
            (prefix, args.suffix.clone())
        }
    };
    if suffix.is_none() && !args.context.is_empty() {
        return Err(output::usage("--context goes with --fim or --suffix"));
    }
    let mut body = json!({ "prompt": prefix, "max_tokens": DEFAULT_MAX_TOKENS });
    if let Some(suffix) = suffix {
        body["suffix"] = json!(suffix);
    }
    if !args.context.is_empty() {
        let mut files = Vec::new();
        for path in &args.context {
            files.push(json!({ "path": path, "text": prompt::read_file(path)? }));
        }
        body["fim_context"] = json!(files);
    }
    args.sampling.add_to(&mut body);
    Ok(body)
}
