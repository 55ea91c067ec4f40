//! `engram memory` as a person uses it: a tree is indexed, archived and brought back, by a server and without one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// A configuration in `dir` with these lines in it; the flags that name it.
fn configured(dir: &Path, lines: &str) -> Vec<String> {
    let file = dir.join("server.toml");
    std::fs::write(&file, lines).expect("written");
    vec!["--config".to_owned(), file.to_str().expect("text").to_owned()]
}

fn serve(flags: &[String]) -> Server {
    Server::start(SMOLLM2, &flags.iter().map(String::as_str).collect::<Vec<_>>())
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

#[test]
fn a_watched_tree_is_followed_until_it_is_interrupted() {
    let server = Server::start(SMOLLM2, &[]);
    let mut place = Place::new();
    place.ask_server(&server);
    let mut command = Command::new(binary());
    command.args(["memory", "index", "--watch", "--json"]).arg(place.tree()).args(&place.flags);
    let mut watching = command.stdout(Stdio::piped()).spawn().expect("run engram");
    let mut reports = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut report = || serde_json::from_str::<Value>(&reports.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(report()["files"], 3);
    place.write("src/ship.rs", "/// Sends a parcel by the next boat.\npub fn ship(parcel: Parcel) {}\n");
    let added = report();
    assert_eq!((&added["records_new"], &added["records_forgotten"]), (&json!(1), &json!(0)), "{added}");
    assert_eq!(place.found_in("sends a parcel by boat"), path("src/ship.rs"));
    std::fs::remove_file(place.tree().join("src/ship.rs")).expect("removed");
    let gone = report();
    assert_eq!((&gone["records_new"], &gone["records_forgotten"]), (&json!(0), &json!(1)), "{gone}");
    assert_ne!(place.found_in("sends a parcel by boat"), path("src/ship.rs"));
    let pid = libc::pid_t::try_from(watching.id()).expect("a pid");
    // SAFETY: kill has no memory effects; the pid is our own child, not yet waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0, "SIGINT");
    let begun = Instant::now();
    let status = loop {
        match watching.try_wait().expect("wait") {
            Some(status) => break status,
            None if begun.elapsed() > Duration::from_secs(20) => {
                watching.kill().expect("killed");
                panic!("it goes on after an interrupt");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{status}");
    // It left the project as a whole run does.
    assert_eq!(place.index()["changed"], false);
}

#[test]
fn records_are_imported_from_a_pipe_and_a_bad_line_is_named() {
    let mut place = Place::new();
    let data = place.dir.path().join("data");
    place.open_here(&data);
    place.index();
    let note = place.good(&["remember", "we ship on Tuesdays", "--project", "shop"]);
    let file = place.dir.path().join("all.jsonl");
    let exported = place.good(&["export", file.to_str().expect("text"), "--vectors", "--history"]);
    let records = exported["records"].as_u64().expect("a count");
    let text =
        std::fs::read_to_string(&file).expect("read").replace("we ship on Tuesdays", &format!("the key is {SECRET}"));
    place.open_here(&place.dir.path().join("elsewhere"));
    let import = |text: &str| {
        let mut command = Command::new(binary());
        command.args(["memory", "import", "--json"]).args(&place.flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut importing = command.spawn().expect("run engram");
        importing.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
        importing.wait_with_output().expect("its end")
    };
    let broken = text.lines().take(2).chain(["{\"record\": 1}"]).collect::<Vec<_>>().join("\n");
    let refused = import(&broken);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("line 3"), "{error}");
    let imported = import(&text);
    let answer: Value = serde_json::from_slice(&imported.stdout).expect("JSON");
    assert_eq!(answer["written"].as_u64().zip(answer["there"].as_u64()).map(|(a, b)| a + b), Some(records), "{answer}");
    assert_eq!(place.found_in("backoff"), path("src/retry.rs"));
    let shown = place.good(&["show", note["id"].as_str().expect("an id")]);
    assert_eq!(shown["content"], "the key is [redacted:aws-access-key]", "secrets do not come in with an import");
}

/// A manifest that is larger than a request may be goes in parts, and comes back whole.
#[test]
fn a_tree_whose_manifest_is_larger_than_a_body_is_indexed() {
    let mut place = Place::new();
    let server = serve(&configured(place.dir.path(), "[server]\nbody_limit_bytes = \"1280KiB\"\n"));
    place.ask_server(&server);
    let long = "a-directory-with-a-long-name".repeat(5);
    for n in 0..6000 {
        place.write(&format!("{long}/{}/file-{n}.txt", n % 50), "");
    }
    assert_eq!(place.index()["files"], 6003);
    let held = std::fs::metadata(&manifest(&server.data_dir().join("memory/manifests"))).expect("the manifest").len();
    assert!(held > 1280 << 10, "{held} bytes are no test of a limit of 1280 KiB");
    // Files this fresh are read once more; the manifest of that run names all of them.
    assert_eq!(place.index()["changed"], false);
    let again = place.index();
    assert_eq!((&again["changed"], &again["files_unchanged"]), (&json!(false), &json!(6003)), "{again}");
}

/// The only file under `dir`.
fn manifest(dir: &Path) -> PathBuf {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let entry = entries.remove(0);
    if entry.is_dir() { manifest(&entry) } else { entry }
}

const FAST: &str = "wordllama-l2-supercat-256";
const GOOD: &str = "all-minilm-l6-v2";

/// Another encoder takes over while the server serves; a run that was killed goes on where it stopped.
#[test]
fn the_encoder_is_changed_while_the_server_serves_and_after_a_kill() {
    const RECORDS: usize = 1500;
    const RUN: &str = "/v1/admin/memory/reembed";
    let mut place = Place::new();
    let data = place.dir.path().join("memory");
    let config = |encoder: &str| format!("[memory]\nencoder = \"{encoder}\"\ndir = {data:?}\n");
    let flags = configured(place.dir.path(), &config(FAST));
    let server = serve(&flags);
    place.ask_server(&server);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let post = |server: &Server, path: &str, body: Value| {
        let request = reqwest::Client::new().post(server.url(path)).json(&body);
        runtime.block_on(async { request.send().await.expect("an answer").json::<Value>().await.expect("JSON") })
    };
    let run =
        |server: &Server| serde_json::from_str::<Value>(&server.blocking_get(RUN).expect("an answer").1).expect("JSON");
    // Asked by the command, which waits until the memory is open.
    place.good(&["remember", "Parcels are shipped on Tuesdays, by boat.", "--project", "shop"]);
    let kinds = ["is retried", "is cached", "was moved", "needs a review", "runs at night"];
    let notes: Vec<Value> = (0..RECORDS)
        .map(|n| json!({"content": format!("job {n} of the nightly batch {}", kinds[n % 5]), "scope": {"project": "shop"}, "kind": "code"}))
        .collect();
    notes.chunks(500).for_each(|notes| assert!(post(&server, "/v1/memory/records", json!(notes))["data"].is_array()));
    let found = |place: &Place| {
        let found = place.good(&["search", "when do parcels go", "--project", "shop"]);
        found["hits"][0]["content"].as_str().expect("a hit").to_owned()
    };
    let shipped = "Parcels are shipped on Tuesdays, by boat.";
    assert_eq!(found(&place), shipped);
    let begun = post(&server, RUN, json!({"encoder": GOOD}));
    assert_eq!((&begun["state"], &begun["before"], &begun["open"]), (&json!("running"), &json!(FAST), &json!(true)));
    let refused = post(&server, RUN, json!({"encoder": "jina-code"}));
    assert!(
        refused["error"]["message"].as_str().is_some_and(|message| message.contains("wait for its end")),
        "{refused}"
    );
    let unknown = post(&server, RUN, json!({"encoder": "/etc/passwd"}));
    assert!(
        unknown["error"]["message"].as_str().is_some_and(|message| message.contains("none of the catalog")),
        "{unknown}"
    );
    let waiting = Instant::now();
    while run(&server)["embedded"].as_u64() < Some(100) {
        assert!(waiting.elapsed() < Duration::from_secs(60), "{}", run(&server));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(found(&place), shipped, "it serves meanwhile");
    let before = run(&server);
    assert_eq!(before["state"], "running", "too fast for this test: {before}");
    drop(server); // SIGKILL

    let server = serve(&flags);
    place.ask_server(&server);
    assert_eq!(found(&place), shipped);
    let done = place.good(&["reembed", "--encoder", GOOD]);
    assert_eq!((&done["before"], &done["now"], &done["by_server"]), (&json!(FAST), &json!(GOOD), &json!(true)));
    let embedded = done["embedded"].as_u64().expect("a count");
    let stopped_at = before["embedded"].as_u64().expect("a count");
    assert!(embedded > 0 && embedded <= RECORDS as u64 + 1 - stopped_at, "{embedded} after {stopped_at}");
    // Without a restart, and with what is written from now on.
    assert_eq!(place.good(&["stats"])["encoder"], GOOD);
    place.good(&["remember", "The office dog is called Bruno.", "--project", "shop"]);
    let dog = place.good(&["search", "name of the pet", "--project", "shop"]);
    assert_eq!(dog["hits"][0]["content"], "The office dog is called Bruno.");
    assert_eq!(found(&place), shipped);
    assert_eq!(place.good(&["reembed", "--encoder", GOOD])["embedded"], 0);
    drop(server);

    // The old configuration is refused with the cure, and the cure works where the server's memory is shut.
    let server = serve(&flags);
    place.ask_server(&server);
    let error = place.run(&["stats"]).expect_err("another encoder's");
    assert!(error.contains("engram memory reembed") && error.contains(GOOD), "{error}");
    let port = server.url("").rsplit(':').next().expect("a port").to_owned();
    let file = place.dir.path().join("here.toml");
    std::fs::write(&file, format!("[server]\nport = {port}\n{}", config(FAST))).expect("written");
    place.flags = vec!["--config".into(), file.to_str().expect("text").into()];
    let back = place.good(&["reembed"]);
    assert_eq!(
        (&back["now"], &back["by_server"], &back["restart"]),
        (&json!(FAST), &json!(false), &json!(true)),
        "{back}"
    );
    assert_eq!(back["embedded"].as_u64(), Some(RECORDS as u64 + 2));
}
