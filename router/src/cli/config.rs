//! `engram config show` and `engram config check`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::{ConfigArgs, Flags};
use super::output;
use super::serve::ServeArgs;
use crate::config::{show_json, show_text};

#[derive(Debug, Args)]
pub(super) struct ConfigCommandArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Every setting, its value and who set it
    #[command(after_help = "\
Examples:
  engram config show
  engram config show --json | jq '.\"server.port\"'
  engram config show --port 9000        what `engram serve --port 9000` would use

The output is itself a config file. Secrets are shown as ***.")]
    Show {
        /// As JSON: {\"server.port\": {\"value\", \"from\", ...}}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        serve: Box<ServeArgs>,
    },
    /// Check config files, and tell every problem
    #[command(after_help = "\
Examples:
  engram config check engram.toml
  engram config check base.toml production.toml      together, the latter wins")]
    Check {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

pub(super) fn run(config: &ConfigArgs, args: &ConfigCommandArgs) -> anyhow::Result<()> {
    match &args.command {
        ConfigCommand::Show { json, serve } => {
            let resolved = config.resolve(serve.flags())?;
            for warning in &resolved.warnings {
                eprintln!("warning: {warning}");
            }
            let text = if *json {
                format!("{}\n", serde_json::to_string_pretty(&show_json(&resolved))?)
            } else {
                show_text(&resolved)
            };
            output::write(&text)
        }
        ConfigCommand::Check { files } => {
            let resolved = ConfigArgs { config: files.clone() }.resolve(Flags::default())?;
            for warning in &resolved.warnings {
                eprintln!("warning: {warning}");
            }
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            output::write(&format!("{}: ok\n", names.join(", ")))
        }
    }
}
