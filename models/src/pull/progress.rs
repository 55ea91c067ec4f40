//! How a pull tells what it is doing: bars on a terminal, a line every few seconds elsewhere, or nothing.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Watches a pull. Files are fetched one after the other; calls come from one thread at a time.
pub trait Progress: Send + Sync {
    /// A transfer begins, or goes on: `done` of `total` bytes are already here.
    fn start(&self, name: &str, done: u64, total: Option<u64>);
    /// `done` bytes of the current file are here.
    fn at(&self, done: u64);
    /// The current file is complete, or its transfer gave up.
    fn finish(&self);
    /// Something a person wants to know: a source that failed, a wait, a corrupt file.
    fn note(&self, message: &str);
}

/// Bars on standard error where that is a terminal, lines otherwise.
pub fn for_terminal() -> Arc<dyn Progress> {
    if std::io::stderr().is_terminal() { Arc::new(Bars::default()) } else { Arc::new(Lines::default()) }
}

/// Says nothing; notes still reach the log.
#[derive(Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _name: &str, _done: u64, _total: Option<u64>) {}
    fn at(&self, _done: u64) {}
    fn finish(&self) {}
    fn note(&self, message: &str) {
        tracing::warn!("{message}");
    }
}

/// A progress bar a file, on standard error.
#[derive(Debug, Default)]
pub struct Bars {
    current: Mutex<Option<ProgressBar>>, // uncontended: one transfer at a time
}

impl Bars {
    fn with_current(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.current.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn start(&self, name: &str, done: u64, total: Option<u64>) {
        let template = match total {
            Some(_) => "{msg:.bold} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{msg:.bold} {spinner} {bytes} {bytes_per_sec}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        bar.set_style(style);
        bar.set_message(name.to_string());
        bar.set_position(done);
        bar.reset_eta(); // bytes that were here before say nothing about the speed
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn at(&self, done: u64) {
        self.with_current(|bar| bar.set_position(done));
    }

    fn finish(&self) {
        if let Some(bar) = self.current.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.abandon(); // leaves the line as it is: complete, or where it stopped
        }
    }

    fn note(&self, message: &str) {
        let guard = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match guard.as_ref() {
            Some(bar) => bar.suspend(|| eprintln!("{message}")),
            None => eprintln!("{message}"),
        }
    }
}

/// A line on standard error when a file begins and ends, and every five seconds between.
#[derive(Debug, Default)]
pub struct Lines {
    current: Mutex<Option<Transfer>>, // uncontended: one transfer at a time
}

#[derive(Debug)]
struct Transfer {
    name: String,
    started_with: u64,
    done: u64,
    total: Option<u64>,
    started: Instant,
    told: Instant,
}

const TELL_EVERY: Duration = Duration::from_secs(5);

impl Transfer {
    fn line(&self) -> String {
        let speed =
            (self.done.saturating_sub(self.started_with)) as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let speed = HumanBytes(speed as u64);
        match self.total {
            Some(total) if total > 0 => {
                let percent = self.done.min(total) * 100 / total;
                format!("{}: {} of {} ({percent} %), {speed}/s", self.name, HumanBytes(self.done), HumanBytes(total))
            }
            _ => format!("{}: {}, {speed}/s", self.name, HumanBytes(self.done)),
        }
    }
}

fn tell(line: &str) {
    // A closed standard error is no reason to stop a download.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

impl Progress for Lines {
    fn start(&self, name: &str, done: u64, total: Option<u64>) {
        let now = Instant::now();
        let size = total.map_or_else(String::new, |total| format!(", {}", HumanBytes(total)));
        let resumed = if done > 0 { format!(", going on at {}", HumanBytes(done)) } else { String::new() };
        tell(&format!("fetching {name}{size}{resumed}"));
        let transfer = Transfer { name: name.to_string(), started_with: done, done, total, started: now, told: now };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(transfer);
    }

    fn at(&self, done: u64) {
        let mut guard = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transfer) = guard.as_mut() {
            transfer.done = done;
            if transfer.told.elapsed() >= TELL_EVERY {
                transfer.told = Instant::now();
                tell(&transfer.line());
            }
        }
    }

    fn finish(&self) {
        if let Some(transfer) = self.current.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tell(&transfer.line());
        }
    }

    fn note(&self, message: &str) {
        tell(message);
    }
}
