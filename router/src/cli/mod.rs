//! The command line: what was typed, and which command it runs.
//!
//! Results go to standard output, everything else (logs, progress, questions) to standard error, so
//! that scripts can read one without the other. Exit codes: 0 done, 1 failed, 2 not understood.

mod args;
mod bench;
mod chat;
mod client;
mod complete;
mod config;
mod keys;
mod memory;
mod models;
mod output;
mod position;
mod prompt;
mod pull;
mod serve;
mod target;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use args::ConfigArgs;
pub(crate) use output::write as print;

use crate::config::{ConfigErrors, Origin};

/// Engram: a self-hosted inference server for code models.
#[derive(Debug, Parser)]
#[command(
    name = "engram",
    version,
    about = "A self-hosted inference server for code models",
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
Examples:
  engram serve                                   serve the default model on 127.0.0.1:8080
  engram pull smollm2-135m-instruct              fetch a model without serving it
  engram chat \"what does Rust's ? operator do\"   ask once; without a question: a conversation
  engram config show                             every setting, its value and who set it")]
pub struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over HTTP, as OpenAI's API
    Serve(serve::ServeArgs),
    /// Fetch a model and check it
    Pull(pull::PullArgs),
    /// The models that are known and on disk
    Models(models::ModelsArgs),
    /// Talk to a model
    Chat(chat::ChatArgs),
    /// Complete text, or fill in a gap in a file
    Complete(complete::CompleteArgs),
    /// What projects said before: remember, search, forget
    Memory(memory::MemoryArgs),
    /// API keys: make, list, rotate, revoke
    Keys(keys::KeysArgs),
    /// Measure how fast this machine runs a model
    Bench(bench::BenchArgs),
    /// Show or check the configuration
    Config(config::ConfigCommandArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  engram completions bash > ~/.local/share/bash-completion/completions/engram
  engram completions zsh  > \"${fpath[1]}/_engram\"
  engram completions fish > ~/.config/fish/completions/engram.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Version, instruction set, threads
    Version(version::VersionArgs),
}

/// Parses the process's arguments and runs the command.
pub fn run() -> ExitCode {
    // Prints help and version (0) or what was not understood (2), and ends the process by itself.
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let Cli { config, command } = cli;
    match command {
        Command::Serve(args) => serve::run(&config, &args),
        Command::Pull(args) => pull::run(&config, &args),
        Command::Models(args) => models::run(&config, &args),
        Command::Chat(args) => chat::run(&config, args),
        Command::Complete(args) => complete::run(&config, args),
        Command::Memory(args) => memory::run(&config, args),
        Command::Keys(args) => keys::run(&config, &args),
        Command::Bench(args) => bench::run(&config, &args),
        Command::Config(args) => config::run(&config, &args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "engram", &mut script);
            output::write(&String::from_utf8_lossy(&script))
        }
        Command::Version(args) => version::run(&args),
    }
}

/// Tells the error and its causes, and chooses the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    // `engram models | head`: the reader had enough, which is no error.
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let mut text = String::new();
    for (index, cause) in error.chain().enumerate() {
        let cause = cause.to_string();
        // Some errors quote their cause in their own text: once is enough.
        if index > 0 && text.contains(&cause) {
            continue;
        }
        text.push_str(if index == 0 { "error: " } else { "\n  because: " });
        text.push_str(&cause);
    }
    eprintln!("{text}");
    let usage = error.downcast_ref::<output::UsageError>().is_some()
        || error.downcast_ref::<ConfigErrors>().is_some_and(is_usage);
    ExitCode::from(if usage { 2 } else { 1 })
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What was typed is at fault, not a file or the environment.
fn is_usage(errors: &ConfigErrors) -> bool {
    use crate::config::ConfigError::{BadValue, UnknownKey, VariableCycle};
    errors.0.iter().any(|error| match error {
        BadValue { origin, .. } | UnknownKey { origin, .. } | VariableCycle { origin, .. } => {
            matches!(origin, Origin::Flag(_))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests;
