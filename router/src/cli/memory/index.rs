//! `engram memory index`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use engram_memory::Scope;
use engram_memory::ingest::{Control, IndexOptions, IndexReport, Progress, WatchOptions, index_tree, watch_tree};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::sink::ApiSink;
use super::table::one_line;
use super::target::MemoryTarget;
use crate::cli::args::ConfigArgs;
use crate::cli::client::Client;
use crate::cli::output;
use crate::config::human_size;

/// Paths of a list that are shown.
const SHOWN: usize = 10;
/// How long a watch waits where a run failed.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  engram memory index .
  engram memory index ~/src/web --project web --watch
  engram memory index . --exclude 'fixtures/**' --json

Files are split by their syntax into functions, types and their docs. What .gitignore or .engramignore names is left out,
secrets are taken out before anything is stored, and a file that did not change is not read again.")]
pub(super) struct IndexArgs {
    /// The directory
    path: PathBuf,
    /// Project; one directory a project [default: the directory's name]
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Domain [default: the key's, `coding` unless configured]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Go on until interrupted, and index what changes
    #[arg(long)]
    watch: bool,
    /// Leave out what this glob names, as in a .gitignore; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Hidden files too
    #[arg(long)]
    hidden: bool,
    /// Leave out larger files
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    max_file_bytes: u64,
    /// Compare with what is remembered, record by record, not only with what the last run noted
    #[arg(long)]
    reconcile: bool,
    #[command(flatten)]
    target: MemoryTarget,
}

pub(super) fn run(config: &ConfigArgs, args: IndexArgs) -> anyhow::Result<()> {
    let root = args.path.canonicalize().with_context(|| format!("{} cannot be read", args.path.display()))?;
    let project = match (&args.project, root.file_name()) {
        (Some(project), _) => project.clone(),
        (None, Some(name)) => name.to_string_lossy().into_owned(),
        (None, None) => return Err(output::usage("this directory has no name: say --project")),
    };
    // The tenant is the server's to say; only the form of the names counts here.
    let scope = Scope::of("-", args.domain.as_deref().unwrap_or(Scope::DEFAULT_DOMAIN))?.project(&project)?;
    let mut options = IndexOptions::new(scope);
    options.exclude.extend(args.exclude.iter().cloned());
    options.hidden = args.hidden;
    options.max_file_bytes = args.max_file_bytes;
    options.reconcile = args.reconcile;
    options.threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().min(8));
    let mut place = json!({"project": project});
    if let Some(domain) = &args.domain {
        place["domain"] = json!(domain);
    }
    let indexing = Indexing { root, options, place, watch: args.watch, json: args.target.directory.json };
    args.target.with(config, async |client| indexing.run(client).await)
}

/// One call of the command.
struct Indexing {
    root: PathBuf,
    options: IndexOptions,
    /// The scope as the API takes it.
    place: Value,
    watch: bool,
    json: bool,
}

impl Indexing {
    async fn run(self, client: Arc<Client>) -> anyhow::Result<()> {
        let cancel = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&cancel);
        tokio::spawn(async move {
            // Where there is no such signal, the command runs to its end.
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
        });
        let sink = ApiSink::new(Arc::clone(&client), self.place.clone());
        let (json, watch) = (self.json, self.watch);
        let before = if watch { 0 } else { self.stored_bytes(&client).await? };
        let begun = Instant::now();
        let indexing = Arc::new(self);
        let blocking = Arc::clone(&indexing);
        let report = tokio::task::spawn_blocking(move || blocking.index(sink, &cancel)).await;
        let Some(report) = report.context("the run panicked")?? else { return Ok(()) };
        let took = begun.elapsed();
        let grown = indexing.stored_bytes(&client).await?.saturating_sub(before);
        let answer = indexing.answer(&report, Some(took), Some(grown));
        match json {
            true => output::write(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
            false => output::write(&text(&answer)),
        }
    }

    /// Runs once and says what it did, or watches.
    fn index(&self, mut sink: ApiSink, cancel: &AtomicBool) -> anyhow::Result<Option<IndexReport>> {
        let bar = if self.json { ProgressBar::hidden() } else { bar() };
        let mut follow = |progress: &Progress| {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.files as u64);
            bar.set_message(format!("{} records", progress.records));
        };
        if self.watch {
            return self.watch(&mut sink, cancel, &mut follow, &bar).map(|()| None);
        }
        let report = index_tree(&self.root, &self.options, &mut sink, Control { cancel, progress: &mut follow })?;
        bar.finish_and_clear();
        Ok(Some(report))
    }

    /// Runs whenever something changes, and tells each time. Once a run came to its end, a server that goes away is waited for:
    /// the next run catches up.
    fn watch(
        &self,
        sink: &mut ApiSink,
        cancel: &AtomicBool,
        follow: &mut dyn FnMut(&Progress),
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let (mut first, mut told) = (Some(Instant::now()), Ok(()));
        loop {
            let mut on_run = |report: &IndexReport| {
                bar.finish_and_clear();
                let took = first.take().map(|begun| begun.elapsed());
                if took.is_none() && unchanged(report) {
                    return;
                }
                let answer = self.answer(report, took, None);
                told = match self.json {
                    true => output::write(&format!("{answer}\n")),
                    false => output::write(&text(&answer)),
                };
                if told.is_err() {
                    // Nobody reads any more, as when a pipe was closed.
                    cancel.store(true, Ordering::Relaxed);
                }
            };
            let control = Control { cancel, progress: &mut *follow };
            match watch_tree(&self.root, &self.options, WatchOptions::default(), sink, control, &mut on_run) {
                Err(error) if first.is_none() && !cancel.load(Ordering::Relaxed) => {
                    eprintln!("{error}; tried again in {} s", AGAIN.as_secs());
                    let begun = Instant::now();
                    while begun.elapsed() < AGAIN && !cancel.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
                ended => {
                    ended?;
                    return told;
                }
            }
        }
    }

    /// Bytes that the whole memory has on disk.
    async fn stored_bytes(&self, client: &Client) -> anyhow::Result<u64> {
        let stats = client.send("GET", "/v1/memory/stats", &Value::Null).await?;
        Ok(stats["disk_bytes"].as_u64().unwrap_or_default())
    }

    /// A run's report; `took`: its time, where it was taken; `grown`: bytes on disk that came.
    fn answer(&self, report: &IndexReport, took: Option<Duration>, grown: Option<u64>) -> Value {
        let progress = &report.progress;
        let seconds = took.map(|took| took.as_secs_f64()).filter(|&seconds| seconds > 0.0);
        let rate = |count: usize| seconds.map(|seconds| (count as f64 / seconds * 10.0).round() / 10.0);
        let each = grown.filter(|_| progress.records > 0).map(|grown| grown / progress.records as u64);
        let secrets = report.secrets.iter();
        let secrets: Vec<Value> =
            secrets.map(|(path, found)| json!({"path": path, "line": found.line, "rule": found.rule})).collect();
        let unread = report.unread.iter();
        let unread: Vec<Value> = unread.map(|(path, why)| json!({"path": path, "why": why})).collect();
        json!({
            "project": self.place["project"],
            "seconds": seconds.map(|seconds| (seconds * 1000.0).round() / 1000.0),
            "changed": !unchanged(report),
            "files": progress.files,
            "files_unchanged": report.unchanged,
            "files_per_second": rate(progress.files),
            "bytes_read": progress.bytes,
            "records_new": progress.records,
            "records_per_second": rate(progress.records),
            "records_kept": report.kept,
            "records_moved": report.relocated,
            "records_forgotten": report.forgotten,
            "disk_bytes_per_record": each,
            "secrets": secrets,
            "unread": unread,
            "commit": report.commit,
            "interrupted": report.cancelled,
        })
    }
}

/// Whether a run left the memory as it was.
fn unchanged(report: &IndexReport) -> bool {
    report.progress.records == 0 && report.relocated == 0 && report.forgotten == 0 && !report.cancelled
}

/// On standard error, and only where that is a terminal.
fn bar() -> ProgressBar {
    const FORM: &str = "{bar:30} {pos}/{len} files, {msg} {elapsed}";
    let style = ProgressStyle::with_template(FORM).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// The report for people.
fn text(answer: &Value) -> String {
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    let project = one_line(answer["project"].as_str().unwrap_or_default(), 80);
    // A watch takes no times but that of its first run: it waits in between.
    let timed = |form: &dyn Fn(f64) -> String| answer["seconds"].as_f64().map(form).unwrap_or_default();
    let mut text = match answer["changed"] == true {
        false => {
            let took = timed(&|seconds| format!(" ({seconds} s)"));
            format!("{project}: nothing changed in {} files{took}\n", number("files"))
        }
        true => format!(
            "{project}: {} files{}, {} of them unchanged\n\
             \x20 {} new records{}, {} kept, {} moved, {} forgotten\n",
            number("files"),
            timed(&|seconds| format!(" in {seconds} s ({} files/s)", answer["files_per_second"])),
            number("files_unchanged"),
            number("records_new"),
            timed(&|_| format!(" ({} records/s)", answer["records_per_second"])),
            number("records_kept"),
            number("records_moved"),
            number("records_forgotten"),
        ),
    };
    if let Some(each) = answer["disk_bytes_per_record"].as_u64() {
        text.push_str(&format!("  {} read, {} on disk a record\n", human_size(number("bytes_read")), human_size(each)));
    }
    let mut list = |name: &str, head: &str, line: &dyn Fn(&Value) -> String| {
        let items = answer[name].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return;
        }
        text.push_str(&format!("  {} {head}\n", items.len()));
        items.iter().take(SHOWN).for_each(|item| text.push_str(&format!("    {}\n", one_line(&line(item), 120))));
        if items.len() > SHOWN {
            text.push_str(&format!("    and {} more, see --json\n", items.len() - SHOWN));
        }
    };
    let word = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    list("secrets", "secrets taken out", &|item| {
        format!("{}:{} {}", word(item, "path"), item["line"], word(item, "rule"))
    });
    list("unread", "files could not be read", &|item| format!("{}: {}", word(item, "path"), word(item, "why")));
    if answer["interrupted"] == true {
        text.push_str("  interrupted: the next run goes on from here\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_for_people() {
        let check = |answer: Value, expected: &str| assert_eq!(text(&answer), expected);
        check(
            json!({"project": "web", "changed": false, "files": 7, "seconds": 0.1}),
            "web: nothing changed in 7 files (0.1 s)\n",
        );
        check(
            json!({"project": "web", "changed": true, "files": 7, "files_unchanged": 3, "files_per_second": 3.5,
                "seconds": 2.0, "records_new": 20, "records_per_second": 10.0, "bytes_read": 2048,
                "disk_bytes_per_record": 1024, "interrupted": true,
                "secrets": [{"path": "a.rs", "line": 3, "rule": "aws-access-key"}]}),
            "web: 7 files in 2 s (3.5 files/s), 3 of them unchanged\n  20 new records (10.0 records/s), 0 kept, 0 moved, \
             0 forgotten\n  2 KiB read, 1 KiB on disk a record\n  1 secrets taken out\n    a.rs:3 aws-access-key\n  \
             interrupted: the next run goes on from here\n",
        );
        check(
            json!({"project": "web", "changed": true, "files": 7, "files_unchanged": 6, "seconds": null, "records_new": 1}),
            "web: 7 files, 6 of them unchanged\n  1 new records, 0 kept, 0 moved, 0 forgotten\n",
        );
    }
}
