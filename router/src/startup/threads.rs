//! Sizing the worker pool.

use anyhow::Context;

use crate::config::Config;

/// What the pool reads when it starts; it belongs to `kernels`, which knows no configuration.
const VARIABLE: &str = "ENGRAM_THREADS";

/// Makes `engine.threads` count for the pool of this process; to be called before anything else runs.
///
/// The pool takes its size from the environment, and a process cannot change its own environment
/// safely: where the setting came from a flag or a file, the program starts itself anew, once, under the
/// same process id.
pub fn use_threads(config: &Config) -> anyhow::Result<()> {
    engram_kernels::dispatch::checked_isa()?;
    engram_kernels::pool::bind_threads(config.engine.pin_threads);
    let Some(threads) = config.engine.threads.map(|threads| threads.to_string()) else { return Ok(()) };
    if std::env::var(VARIABLE).is_ok_and(|set| set.trim() == threads) {
        return Ok(());
    }
    let program = std::env::current_exe().context("`engine.threads`: this program cannot find itself")?;
    let mut again = std::process::Command::new(program);
    again.args(std::env::args_os().skip(1)).env(VARIABLE, threads);
    Err(replace(again)).context("`engine.threads`: this program cannot start anew; set ENGRAM_THREADS instead")
}

/// Returns only if it failed.
#[cfg(unix)]
fn replace(mut program: std::process::Command) -> std::io::Error {
    std::os::unix::process::CommandExt::exec(&mut program)
}

/// Runs it as a child and ends with its exit code.
#[cfg(not(unix))]
fn replace(mut program: std::process::Command) -> std::io::Error {
    match program.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}
