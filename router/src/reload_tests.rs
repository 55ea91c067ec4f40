//! All or nothing; what changes at once and what waits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::config::{Sources, resolve};
use crate::flags::Flags;

const FIRST: &str = "[server]\nmax_connections = 7\napi_keys_file = \"keys\"\n[log]\nlevel = \"info\"\n\
                     [flags.x]\npercent = 0\n[flags.old]\n";

struct Running {
    dir: TempDir,
    reloader: Reloader,
    flags: Flags,
    level: Live<String>,
}

fn read(path: &Path) -> anyhow::Result<Resolved> {
    let env = BTreeMap::from([("HOME".to_owned(), "/home/ada".to_owned())]);
    Ok(resolve(&Sources { files: vec![PathBuf::from(path)], env, flags: Vec::new() })?)
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("keys"), "first-key-1\n").unwrap();
        let path = dir.path().join("engram.toml");
        fs::write(&path, FIRST).unwrap();
        let started = read(&path).unwrap();
        let flags = Flags::new(&started.config.flags);
        let level = Live::new(started.config.log.level.clone());
        let mut reloader = Reloader::new(started, move || read(&path));
        let of_reloader = flags.clone();
        reloader.part("flags", move |config| {
            let (flags, configured) = (of_reloader.clone(), config.flags.clone());
            Ok(Box::new(move || flags.replace(&configured)))
        });
        let of_reloader = level.clone();
        reloader.part("log level", move |config| {
            anyhow::ensure!(config.log.level != "trace", "not on my watch");
            let (level, new) = (of_reloader.clone(), config.log.level.clone());
            Ok(Box::new(move || level.store(new)))
        });
        Self { dir, reloader, flags, level }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("engram.toml"), text).unwrap();
    }
}

#[test]
fn what_can_change_does_and_what_cannot_is_named() {
    let running = Running::start();
    assert_eq!(running.reloader.reload().unwrap(), Report::default());
    running.write(
        "[server]\nmax_connections = 8\napi_keys_file = \"keys\"\n[log]\nlevel = \"debug\"\n\
         [routing]\nmax_cost_usd = 1\n[flags.x]\npercent = 100\n[flags.new]\n",
    );
    let report = running.reloader.reload().unwrap();
    assert_eq!(report.changed, ["log.level", "routing.max_cost_usd", "flags.old", "flags.x", "flags.new"]);
    assert_eq!(report.waiting, ["server.max_connections"]);
    assert!(running.flags.enabled("x", "ada") && running.flags.get("old").is_none());
    assert_eq!(*running.level.load(), "debug");
    // What waits is named until it is restarted or taken back; what changed is not named again.
    let report = running.reloader.reload().unwrap();
    assert_eq!((report.changed.len(), report.waiting.len()), (0, 1));
    running.write(FIRST);
    let report = running.reloader.reload().unwrap();
    assert_eq!((report.changed.len(), report.waiting.len()), (5, 0));
}

#[test]
fn files_that_keys_name_count_by_what_they_hold() {
    let running = Running::start();
    fs::write(running.dir.path().join("keys"), "second-key-2\n").unwrap();
    assert_eq!(running.reloader.reload().unwrap().changed, ["server.api_keys"]);
    let backend = "[backends.b]\nkind = \"peer\"\nurl = \"http://h/v1\"\napi_key_file = \"keys\"\n";
    running.write(&format!("{FIRST}{backend}"));
    assert_eq!(running.reloader.reload().unwrap().changed, ["backends.b"]);
    fs::write(running.dir.path().join("keys"), "third-key-33\n").unwrap();
    assert_eq!(running.reloader.reload().unwrap().changed, ["server.api_keys", "backends.b"]);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let running = Running::start();
    let change = "[log]\nlevel = \"debug\"\n[flags.x]\npercent = 100\n";
    let unchanged = |part: &str| {
        let error = format!("{:#}", running.reloader.reload().unwrap_err());
        assert!(error.contains(part), "{error}");
        assert!(!running.flags.enabled("x", "ada") && *running.level.load() == "info", "{part}");
    };
    running.write(&format!("{change}[server]\nprot = 1\n"));
    unchanged("`server.prot`: no such key; did you mean `server.port`?");
    running.write("[log\n");
    unchanged("engram.toml:1:");
    fs::write(running.dir.path().join("keys"), "# none\n").unwrap();
    running.write(&format!("{change}[server]\napi_keys_file = \"keys\"\n"));
    unchanged("holds no key");
    // The flags have agreed by then; that the last part refuses holds them back too.
    running.write(&change.replace("debug", "trace"));
    unchanged("the log level cannot be changed: not on my watch");
    fs::remove_file(running.dir.path().join("engram.toml")).unwrap();
    unchanged("cannot read");
    running.write(change);
    assert_eq!(running.reloader.reload().unwrap().changed.len(), 5);
    assert!(running.flags.enabled("x", "ada"));
}

#[test]
fn a_port_does_not_begin_or_cease_to_speak_tls() {
    let running = Running::start();
    running.write(&format!("{FIRST}[tls]\ncert_file = \"c\"\nkey_file = \"k\"\n"));
    let report = running.reloader.reload().unwrap();
    assert_eq!((report.changed.len(), report.waiting), (0, vec!["tls.cert_file".into(), "tls.key_file".into()]));
}

#[tokio::test]
async fn who_watches_is_woken_and_who_holds_keeps() {
    let live = Live::new(1);
    let (held, mut watching) = (live.load(), live.subscribe());
    live.clone().store(2);
    watching.changed().await.unwrap();
    assert_eq!((*held, **watching.borrow(), *live.load()), (1, 2, 2));
    live.update(|old| old + 40);
    assert_eq!(*live.load(), 42);
}

/// What is logged, to be read again.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_is_ever_told() {
    let all = "[server]\napi_keys = [\"team hidden-key-1\"]\n[memory]\npostgres_url = \"postgres://u:hidden@h/d\"\n\
               qdrant_api_key = \"hidden-q\"\nredis_url = \"redis://:hidden@h\"\n\
               [trace]\notlp_endpoint = \"http://127.0.0.1:1\"\notlp_headers = [\"authorization: hidden-o\"]\n\
               [backends.p]\nkind = \"portkey\"\nurl = \"https://h/v1\"\napi_key = \"${KEY:-hidden-b}\"\n\
               headers = [\"x-key: hidden-h\"]\nportkey_virtual_key = \"hidden-v\"\n\
               portkey_config = '{\"api_key\": \"hidden-c\"}'\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engram.toml");
    fs::write(&path, all).unwrap();
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let mut told = String::new();
    tracing::subscriber::with_default(lines.finish(), || {
        let started = read(&path).unwrap();
        let backend = &started.config.routing.backends[0];
        assert_eq!(backend.api_key.as_ref().unwrap().expose(), "hidden-b");
        told += &format!("{started:?}\n{:#?}\n", started.config);
        told += &crate::config::show_text(&started);
        told += &crate::config::show_json(&started).to_string();
        let from = path.clone();
        let reloader = Reloader::new(started, move || read(&from));
        let api_key = "hidden-b}\"";
        for (old, new) in [
            ("hidden-", "hidden-new-"),
            (api_key, "hidden b}\""),
            ("\"team hidden-key-1\"", "7, \"hidden-key-1\""),
            ("\"x-key: hidden-h\"", "\"x key: hidden-h\""),
            ("\"x-key: hidden-h\"", "\"x-key: hidden\\n\""),
            ("\"x-key: hidden-h\"", "\"hidden-h\""),
            ("https://h/v1", "https://u:hidden@h/v1"),
            ("https://h/v1", "https://h/v1?key=hidden"),
            ("hidden-c\"}", "hidden-c\""),
            ("\"hidden-v\"", "[\"hidden-v\"]"),
            ("\"hidden-q\"", "\"hidden-q"),
            ("api_key =", "apikey ="),
            // A variable's value in the wrong place.
            ("kind =", "tries = \"${KEY:-hidden}\"\nkind ="),
            ("kind =", "models = [\"${KEY:-hidden}\"]\ntimeout_s = \"${KEY:-hidden}\"\nkind ="),
            ("https://h/v1", "${KEY:-hidden}"),
        ] {
            let text = all.replacen(old, new, if old == "hidden-" { usize::MAX } else { 1 });
            assert_ne!(text, all, "{old}");
            fs::write(&path, text).unwrap();
            if let Err(error) = reloader.reload() {
                told += &format!("{error:#} {error:?}\n");
            }
            reloader.reload_and_tell();
        }
    });
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("the configuration stays as it was") && logged.contains("configuration read again"));
    assert!(told.contains("***") && told.lines().count() > 100);
    for text in [&told, &logged] {
        let line = text.replace(":-hidden", "").lines().find(|line| line.contains("hidden")).map(str::to_owned);
        assert_eq!(line, None);
    }
}
