//! `engram serve`

use clap::Args;

use super::args::{ConfigArgs, EngineArgs, FetchArgs, Flags, LogArgs, ServerArgs};
use crate::{logging, startup};

/// Flags of `engram serve`; `engram config show` takes them too.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  engram serve
  engram serve --model smollm2-135m-instruct --port 9000
  engram serve --model Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M --kv-memory 4GiB
  engram serve --model ./my-model.gguf --offline
  engram serve --model none --config front.toml   # no model here: its [backends.*] answer
  ENGRAM_API_KEYS=my-long-secret engram serve --host 0.0.0.0

What a flag does not say comes from the environment (ENGRAM_SERVER_PORT sets server.port), then from
the config file, then from the defaults; `engram config show` tells which. SIGTERM and Ctrl-C let
running streams finish; a second one ends at once. SIGHUP has the configuration read again: what can\nchange without a restart does, a file with a mistake changes nothing, and the log tells.")]
pub struct ServeArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    log: LogArgs,
}

impl ServeArgs {
    /// What was given.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        self.server.flags(&mut flags);
        self.engine.flags(&mut flags);
        self.fetch.flags(&mut flags);
        self.log.flags(&mut flags);
        flags
    }
}

pub(super) fn run(config: &ConfigArgs, args: &ServeArgs) -> anyhow::Result<()> {
    let resolved = config.resolve(args.flags())?;
    startup::use_threads(&resolved.config)?;
    let level = logging::init(&resolved.config.log)?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    let (config, args) = (config.clone(), args.clone());
    startup::run(resolved, Box::new(move || Ok(config.resolve(args.flags())?)), level)
}
