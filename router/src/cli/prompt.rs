//! Where the words of a user come from: arguments, files, a pipe, the terminal.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use tokio::sync::mpsc;

/// Largest text read from a file or a pipe, in bytes: far more than any context holds.
const MAX_BYTES: u64 = 64 << 20;

/// All of standard input.
pub fn read_stdin() -> anyhow::Result<String> {
    read(std::io::stdin().lock(), "standard input")
}

/// All of a file; `-` is standard input.
pub fn read_file(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return read_stdin();
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read(file, &path.display().to_string())
}

fn read(source: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{name} is larger than {MAX_BYTES} bytes");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => bail!("{name} is not UTF-8 text at byte {}", error.utf8_error().valid_up_to()),
    }
}

/// Whether a person types.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal()
}

/// Lines of the terminal, read on a thread of its own so that the runtime never waits for a key.
pub struct Terminal {
    lines: mpsc::Receiver<std::io::Result<String>>,
    wanted: std::sync::mpsc::Sender<&'static str>,
}

impl Terminal {
    /// Starts the thread; it reads only when a line is asked for.
    pub fn new() -> Self {
        let (send, lines) = mpsc::channel(1);
        let (wanted, prompts) = std::sync::mpsc::channel::<&'static str>();
        std::thread::spawn(move || {
            for prompt in prompts {
                eprint!("{prompt}");
                let _ = std::io::stderr().flush();
                let mut line = String::new();
                let result = std::io::stdin().lock().read_line(&mut line).map(|_| line);
                if send.blocking_send(result).is_err() {
                    return;
                }
            }
        });
        Self { lines, wanted }
    }

    /// The next message; `None` at the end of the input. Lines between two `"""` are one message.
    pub async fn message(&mut self) -> anyhow::Result<Option<String>> {
        let Some(first) = self.line("> ").await? else { return Ok(None) };
        let Some(opened) = first.trim_start().strip_prefix("\"\"\"") else { return Ok(Some(first.trim().to_owned())) };
        let mut text = opened.to_owned();
        loop {
            let Some(line) = self.line("... ").await? else { return Ok(Some(text)) };
            if let Some(last) = line.trim_end().strip_suffix("\"\"\"") {
                text.push_str(last);
                return Ok(Some(text.trim().to_owned()));
            }
            text.push_str(&line);
        }
    }

    async fn line(&mut self, prompt: &'static str) -> anyhow::Result<Option<String>> {
        if self.wanted.send(prompt).is_err() {
            return Ok(None);
        }
        match self.lines.recv().await {
            Some(line) => Ok(Some(line?).filter(|line| !line.is_empty())),
            None => Ok(None),
        }
    }
}
