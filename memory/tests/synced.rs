//! An acknowledgement comes after the `fdatasync` of what it acknowledges, as the kernel sees it.
//!
//! The test runs itself again under strace and reads the order of its system calls.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use engram_memory::backend::embedded::{Embedded, EmbeddedConfig, EncoderId};
use engram_memory::backend::{Backend, Change, Forget, Stored};
use engram_memory::{Kind, Record, Scope, Timestamp};

const INSIDE: &str = "ENGRAM_TRACED";
const NAME: &str = "an_acknowledgement_comes_after_its_fdatasync";
/// Rounds of a put, a change and a forget.
const ROUNDS: usize = 8;

fn stored(n: usize) -> Stored {
    let scope = Scope::of("t", "coding").expect("a scope");
    let record = Record::new(scope, Kind::Document, format!("content {n}"), Timestamp::now());
    Stored { record, vector: vec![1.0, 0.0] }
}

/// Writes, and says on standard output when each write was acknowledged.
fn traced(dir: &Path) {
    let encoder = EncoderId { name: "traced".to_owned(), dim: 2 };
    let memory = Embedded::open(dir, Some(&encoder), EmbeddedConfig::default()).expect("a memory");
    let say = |line: &str| std::io::stdout().write_all(line.as_bytes()).expect("standard output");
    say("\nbegin\n");
    for n in 0..ROUNDS {
        let stored = stored(n);
        let (partition, id) = (stored.record.scope.partition.clone(), stored.record.id);
        memory.put(vec![stored]).expect("a put");
        say("acknowledged\n");
        let change = Change { content: Some((format!("changed {n}"), vec![0.0, 1.0])), ..Change::default() };
        memory.change(&partition, id, change).expect("a change");
        say("acknowledged\n");
        memory.forget(&Forget::Ids(partition, vec![id])).expect("a forget");
        say("acknowledged\n");
    }
}

/// What a line of the trace says.
enum Event {
    Written,
    Synced,
    Acknowledged,
    Begun,
}

/// Reads a trace of `strace -f -y`: calls that ended, those on the log named by its path.
fn events(trace: &str) -> Vec<Event> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.trim().split_once(' ') else { continue };
        if call.ends_with("<unfinished ...>") {
            begun.insert(thread, call);
            continue;
        }
        let start = if call.contains(" resumed>") { begun.remove(thread).unwrap_or_default() } else { call };
        let start = start.trim_start();
        let failed = call.contains("= -1");
        let on_log = start.split_once('>').is_some_and(|(file, _)| file.ends_with(".log"));
        events.extend(match start.split_once('(').map_or("", |(name, _)| name) {
            "write" if on_log && !failed => Some(Event::Written),
            "fdatasync" if on_log && !failed => Some(Event::Synced),
            "write" if start.contains("\"acknowledged") => Some(Event::Acknowledged),
            "write" if start.contains("begin") => Some(Event::Begun),
            _ => None,
        });
    }
    events
}

#[test]
fn an_acknowledgement_comes_after_its_fdatasync() {
    if let Ok(dir) = std::env::var(INSIDE) {
        return traced(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let trace = dir.path().join("trace");
    let strace = |out: &Path| {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", "trace=write,fdatasync", "-o"]).arg(out);
        command
    };
    if !strace(&trace).arg("true").status().is_ok_and(|status| status.success()) {
        println!("{NAME}: there is no strace here, or it may not trace: nothing was tested");
        return;
    }
    let mut command = strace(&trace);
    command.arg(std::env::current_exe().expect("this program")).args(["--exact", NAME, "--nocapture"]);
    assert!(command.env(INSIDE, dir.path().join("memory")).status().expect("a run").success());
    let (mut written, mut synced, mut acknowledged) = (false, false, None);
    for event in events(&std::fs::read_to_string(&trace).expect("the trace")) {
        match event {
            Event::Begun => acknowledged = Some(0),
            Event::Written => (written, synced) = (true, false),
            Event::Synced => synced = written,
            Event::Acknowledged => {
                assert!(written && synced, "acknowledged, written {written}, synced {synced}: after {acknowledged:?}");
                (written, synced) = (false, false);
                acknowledged = acknowledged.map(|count| count + 1);
            }
        }
    }
    assert_eq!(acknowledged, Some(3 * ROUNDS));
}
