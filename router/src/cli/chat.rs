//! `engram chat`

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::args::ConfigArgs;
use super::output;
use super::prompt::{self, Terminal};
use super::target::{self, SamplingArgs, Target, TargetArgs};

const PATH: &str = "/v1/chat/completions";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram chat                                          a conversation; /help tells its commands
  engram chat \"what does Rust's ? operator do\"
  engram chat --file src/main.rs \"explain this\"
  git diff | engram chat --file - \"write a commit message for this\"
  echo \"2 + 2?\" | engram chat --temperature 0
  engram chat --url http://gpu-box:8080 --model qwen2.5-coder-7b-instruct \"hello\"")]
pub(super) struct ChatArgs {
    /// The question; without one a conversation begins, or a pipe is read to its end
    prompt: Option<String>,
    /// Add a file to the question, - for standard input; may be repeated
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// What the model is told before the first message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Print the whole answer as the API's JSON, not streamed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(config: &ConfigArgs, args: ChatArgs) -> anyhow::Result<()> {
    let settings = target::settings(config, &args.target)?;
    let question = question(&args)?;
    if question.is_none() && args.json {
        return Err(output::usage("--json needs a question: `engram chat --json \"...\"`"));
    }
    target::block_on(async {
        let target = target::find(&args.target, settings).await?;
        let chat = Chat { target: &target, args: &args };
        let result = match question {
            Some(question) => chat.once(question).await,
            None => chat.converse().await,
        };
        target.close().await;
        result
    })
}

/// The one question of this call, or `None` for a conversation.
fn question(args: &ChatArgs) -> anyhow::Result<Option<String>> {
    let mut parts = Vec::new();
    for path in &args.file {
        let text = prompt::read_file(path)?;
        parts.push(format!("{}:\n```\n{}\n```", path.display(), text.trim_end()));
    }
    match &args.prompt {
        Some(prompt) => parts.push(prompt.clone()),
        None if args.file.is_empty() && prompt::is_interactive() => return Ok(None),
        None if args.file.is_empty() => parts.push(prompt::read_stdin()?),
        None => {}
    }
    let question = parts.join("\n\n");
    if question.trim().is_empty() {
        return Err(output::usage("the question is empty"));
    }
    Ok(Some(question))
}

struct Chat<'a> {
    target: &'a Target,
    args: &'a ChatArgs,
}

impl Chat<'_> {
    fn body(&self, messages: &[Value], stream: bool) -> Value {
        let mut body = json!({ "model": self.target.model, "messages": messages, "stream": stream });
        self.args.sampling.add_to(&mut body);
        body
    }

    fn opening(&self) -> Vec<Value> {
        self.args.system.iter().map(|text| json!({ "role": "system", "content": text })).collect()
    }

    async fn once(&self, question: String) -> anyhow::Result<()> {
        let mut messages = self.opening();
        messages.push(json!({ "role": "user", "content": question }));
        if self.args.json {
            let answer = self.target.client.post(PATH, &self.body(&messages, false)).await?;
            return output::write(&format!("{}\n", serde_json::to_string_pretty(&answer)?));
        }
        let ended = self.target.client.stream(PATH, &self.body(&messages, true), target::print_piece).await?;
        output::write("\n")?;
        tell_if_cut(ended.finish_reason.as_deref());
        Ok(())
    }

    async fn converse(&self) -> anyhow::Result<()> {
        eprintln!("{} at {}. /help for help, Ctrl-D to leave.", self.target.model, self.target.client.base());
        let mut terminal = Terminal::new();
        let mut messages = self.opening();
        loop {
            let message = tokio::select! {
                message = terminal.message() => message?,
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(message) = message else {
                eprintln!();
                return Ok(());
            };
            match message.as_str() {
                "" => continue,
                "/exit" | "/quit" => return Ok(()),
                "/clear" => {
                    messages = self.opening();
                    eprintln!("forgotten");
                    continue;
                }
                "/help" => {
                    eprintln!(
                        "/clear begins anew, /exit leaves, Ctrl-C stops an answer, \"\"\" opens and closes several lines"
                    );
                    continue;
                }
                _ => messages.push(json!({ "role": "user", "content": message })),
            }
            match self.answer(&messages).await {
                Ok(answer) => messages.push(json!({ "role": "assistant", "content": answer })),
                // The question that failed is not part of the conversation.
                Err(error) => {
                    messages.pop();
                    eprintln!("error: {error:#}");
                }
            }
        }
    }

    /// Streams one answer; Ctrl-C ends it early, and what came so far counts.
    async fn answer(&self, messages: &[Value]) -> anyhow::Result<String> {
        let mut answer = String::new();
        let body = self.body(messages, true);
        let outcome = {
            let stream = self.target.client.stream(PATH, &body, |text| {
                answer.push_str(text);
                target::print_piece(text)
            });
            tokio::select! {
                ended = stream => Some(ended),
                _ = tokio::signal::ctrl_c() => None,
            }
        };
        output::write("\n")?;
        match outcome {
            Some(Ok(ended)) => tell_if_cut(ended.finish_reason.as_deref()),
            Some(Err(error)) => return Err(error),
            None => eprintln!("(stopped)"),
        }
        if answer.is_empty() {
            bail!("the model said nothing");
        }
        Ok(answer)
    }
}

fn tell_if_cut(finish_reason: Option<&str>) {
    if finish_reason == Some("length") {
        eprintln!("(cut off at the token limit: raise --max-tokens, or the context is full)");
    }
}
