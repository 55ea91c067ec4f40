//! `engram memory` as a person uses it: a tree is indexed, archived and brought back, by a server and without one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::{Server, binary, free_port};

/// The form of a key, and nobody's.
const SECRET: &str = "AKIAZ7QH3DNM5KXW2RTC";

/// A data directory and the tree of a project, and who is asked about them.
struct Place {
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = Self { dir, flags: Vec::new() };
        place.write(
            "src/retry.rs",
            "/// Waits longer after each failure.\npub fn backoff(attempt: u32) -> u64 {\n    1 << attempt\n}\n",
        );
        place.write("src/auth.py", &format!("def login(user):\n    key = \"{SECRET}\"\n    return check(user, key)\n"));
        place.write("README.md", "# Shop\n\nOrders are shipped on Tuesdays.\n");
        place
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.tree().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    /// From now on this server is asked.
    fn ask_server(&mut self, server: &Server) {
        self.flags = vec!["--url".into(), server.url("")];
    }

    /// From now on the memory in this data directory is opened by the command itself; nothing listens at its address.
    fn open_here(&mut self, data: &Path) {
        let config = self.dir.path().join("engram.toml");
        std::fs::write(&config, format!("[server]\nport = {}\n", free_port())).expect("written");
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        self.flags = vec!["--data-dir".into(), text(data), "--config".into(), text(&config)];
    }

    fn run(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(binary());
        command.arg("memory").args(args).args(&self.flags).arg("--json");
        let output = command.output().expect("run engram");
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn good(&self, args: &[&str]) -> Value {
        self.run(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    fn index(&self) -> Value {
        self.good(&["index", self.tree().to_str().expect("text")])
    }

    /// Path and content of the best hit.
    fn best(&self, query: &str) -> Option<(String, String)> {
        let found = self.good(&["search", query, "--project", "shop"]);
        let hit = found["hits"].as_array()?.first()?.clone();
        Some((hit["provenance"]["path"].as_str()?.to_owned(), hit["content"].as_str()?.to_owned()))
    }

    fn found_in(&self, query: &str) -> Option<String> {
        self.best(query).map(|(path, _)| path)
    }
}

fn path(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Whether a text stands in any file under `dir`.
fn holds(dir: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.into_iter().any(|path| match path.is_dir() {
        true => holds(&path, text),
        false => std::fs::read(&path).expect("read").windows(text.len()).any(|window| window == text.as_bytes()),
    })
}

#[test]
fn a_tree_is_indexed_forgotten_and_brought_back() {
    let mut server = Server::start(SMOLLM2, &[]);
    let data = server.data_dir().to_owned();
    let mut place = Place::new();
    place.ask_server(&server);
    let first = place.index();
    assert_eq!((&first["files"], &first["changed"], &first["project"]), (&json!(3), &json!(true), &json!("shop")));
    assert_eq!(first["secrets"], json!([{"path": "src/auth.py", "line": 2, "rule": "aws-access-key"}]));
    let records = first["records_new"].as_u64().expect("a count");
    assert!(records >= 3, "{first}");
    assert_eq!(place.found_in("waits longer after each failure"), path("src/retry.rs"));
    assert_eq!(place.found_in("login"), path("src/auth.py"));
    // What else is remembered passes through the same rules.
    let note = format!("the key is {SECRET}, rotate it");
    let id = place.good(&["remember", &note, "--project", "other"])["id"].clone();
    let record = place.good(&["show", id.as_str().expect("an id")]);
    assert_eq!(record["content"], "the key is [redacted:aws-access-key], rotate it");
    assert!(!holds(&data.join("memory"), SECRET));

    let again = place.index();
    assert_eq!((&again["changed"], &again["records_new"]), (&json!(false), &json!(0)), "{again}");
    // Another name for a file moves its records, and a change writes only what is new.
    std::fs::rename(place.tree().join("src/retry.rs"), place.tree().join("src/wait.rs")).expect("renamed");
    place.write("src/auth.py", "def logout(user):\n    return drop(user)\n");
    let changed = place.index();
    assert_eq!(
        (&changed["records_new"], &changed["records_moved"], &changed["records_forgotten"]),
        (&json!(1), &json!(1), &json!(1)),
        "{changed}"
    );
    assert_eq!(place.found_in("backoff"), path("src/wait.rs"));

    // A project that was forgotten is indexed again, though no file changed; so is one that lost a record.
    place.good(&["snapshot", "whole"]);
    place.good(&["forget", "--project", "shop"]);
    assert_eq!(place.found_in("backoff"), None);
    assert_eq!(place.index()["records_new"], records);
    let found = place.good(&["search", "backoff", "--project", "shop"]);
    place.good(&["forget", found["hits"][0]["id"].as_str().expect("an id")]);
    place.index();
    assert_eq!(place.found_in("backoff"), path("src/wait.rs"));

    // Without a server, over the same directory; while one runs the directory is its own.
    place.open_here(&data);
    let error = place.run(&["export", place.tree().join("x").to_str().expect("text")]).expect_err("locked");
    assert!(error.contains("in use by another process"), "{error}");
    server.terminate();
    assert!(server.wait(Duration::from_secs(30)).success());
    assert_eq!(place.found_in("backoff"), path("src/wait.rs"));
    assert_eq!(place.index()["changed"], false);
    archive(&mut place, &data, records);
}

/// Restores, exports and imports what the test has indexed.
fn archive(place: &mut Place, data: &Path, records: u64) {
    place.good(&["forget", "--all", "--yes"]);
    let error = place.run(&["restore", "whole"]).expect_err("there is one");
    assert!(error.contains("--replace"), "{error}");
    let restored = place.good(&["restore", "whole", "--replace"]);
    assert_eq!(restored["records"], records + 1);
    assert!(data.join("memory/snapshots/whole.snapshot").is_file());
    assert_eq!(place.found_in("backoff"), path("src/wait.rs"));
    // Without its manifest every record is written again and met there: none is twice, as the export shows.
    place.index();
    assert_eq!(place.good(&["reembed"])["embedded"], 0);

    let file = place.dir.path().join("all.jsonl");
    let file = file.to_str().expect("text");
    assert_eq!(place.good(&["export", file])["records"], records + 1);
    let text = std::fs::read_to_string(file).expect("read");
    assert_eq!(text.lines().count() as u64, records + 1);
    let elsewhere = place.dir.path().join("elsewhere");
    place.open_here(&elsewhere);
    assert_eq!(place.good(&["import", file]), json!({"written": records + 1, "there": 0}));
    assert_eq!(place.good(&["import", file]), json!({"written": 0, "there": records + 1}));
    assert_eq!(place.found_in("backoff"), path("src/wait.rs"));
    let repaired = place.good(&["repair"]);
    assert_eq!((&repaired["kept"], &repaired["lost"]), (&json!(records + 1), &json!(0)));
    assert_eq!(place.found_in("backoff"), path("src/wait.rs"));
}
