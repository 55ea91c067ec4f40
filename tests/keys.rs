//! `engram keys` as an operator uses it: on the file alone, beside a server that runs, and cut off in the middle.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::support::SMOLLM2;
use crate::support::server::{Server, binary};

fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("keys").args(args).arg("--data-dir").arg(data);
    command
}

fn run(data: &Path, args: &[&str]) -> Result<String, String> {
    let output = command(data, args).output().expect("run engram");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("text")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn json(data: &Path, args: &[&str]) -> Value {
    let text = run(data, &[args, &["--json"]].concat()).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    serde_json::from_str(&text).expect("JSON")
}

fn names(data: &Path) -> Vec<String> {
    let list = json(data, &["list"]);
    let keys = list["data"].as_array().expect("a list");
    keys.iter().map(|key| key["name"].as_str().expect("a name").to_owned()).collect()
}

/// The status of a GET with this key.
fn status(server: &Server, path: &str, key: &str) -> u16 {
    let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    client.get(server.url(path)).header("x-api-key", key).send().expect("an answer").status().as_u16()
}

/// Waits until a GET with this key is answered so.
fn until(server: &Server, key: &str, expected: u16) {
    let begun = Instant::now();
    while status(server, "/v1/models", key) != expected {
        assert!(begun.elapsed() < Duration::from_secs(10), "{expected} never came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn commands_open_and_shut_the_doors_of_a_running_server() {
    let server = Server::start(SMOLLM2, &[]);
    let data = server.data_dir();
    assert_eq!(status(&server, "/v1/models", "none"), 200, "there is no key yet");
    let made = json(data, &["create", "ci", "--scope", "inference", "--rpm", "1000"]);
    let key = made["key"].as_str().expect("a key");
    until(&server, "none", 401);
    assert_eq!(status(&server, "/v1/models", key), 200);
    assert_eq!(status(&server, "/metrics", key), 403);
    assert_eq!(status(&server, "/health", "none"), 200, "probes need none");
    let turned = json(data, &["rotate", "ci", "--grace", "1h"]);
    let second = turned["key"].as_str().expect("a key");
    until(&server, second, 200);
    assert_eq!(status(&server, "/v1/models", key), 200, "in its grace");
    run(data, &["revoke", "ci"]).expect("revoked");
    until(&server, key, 401);
    assert_eq!(status(&server, "/v1/models", second), 401);
    assert_eq!(status(&server, "/v1/models", "none"), 401, "the doors do not open again");
    let log = server.log();
    assert!(log.contains("the API keys have changed"), "{log}");
    assert!(!log.contains(&key[3..]) && !log.contains(&second[3..]), "{log}");
}

#[test]
fn a_key_is_shown_once_and_kept_nowhere() {
    let data = tempfile::tempdir().expect("a folder");
    let shown = run(data.path(), &["create", "ci", "--expires", "30d"]).expect("made");
    let key = shown.lines().next().expect("a line");
    assert!(key.starts_with("eg-") && key.len() == 43, "{shown}");
    let list = run(data.path(), &["list"]).expect("listed");
    assert!(list.contains(&key[..11]) && list.contains("in 30d") && !list.contains(key), "{list}");
    for file in std::fs::read_dir(data.path()).expect("a folder") {
        let file = file.expect("a file");
        assert!(!std::fs::read_to_string(file.path()).expect("text").contains(&key[11..]), "{file:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("metadata").permissions());
        assert_eq!(mode & 0o077, 0, "{file:?}");
    }
    for (args, part) in [
        (vec!["create", "ci"], "there is a key called \"ci\" already"),
        (vec!["create", "a b"], "`name` must be 1 to 64 letters"),
        (vec!["create", "x", "--scope", "root"], "\"root\" is no scope, known are"),
        (vec!["revoke", "x"], "no key has the name or id \"x\""),
    ] {
        let error = run(data.path(), &args).expect_err(part);
        assert!(error.contains(part), "{args:?}: {error}");
    }
    std::fs::write(data.path().join("keys.json"), "{\"format\": 1, \"keys\": [").expect("written");
    let error = run(data.path(), &["list"]).expect_err("damaged");
    assert!(error.contains("keys.json is damaged") && error.contains("put a copy of it back"), "{error}");
}

/// Whatever is killed while it changes the file, the file is whole, and what was told to be there is there.
#[test]
fn a_command_that_is_killed_leaves_a_whole_file() {
    let data = tempfile::tempdir().expect("a folder");
    let mut rng = rand::rngs::StdRng::seed_from_u64(5);
    let (mut told, mut killed) = (Vec::new(), 0);
    for round in 0..80 {
        let name = format!("k{round}");
        let mut child = command(data.path(), &["create", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run engram");
        std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
        child.kill().expect("killed, or ended before");
        match child.wait().expect("ended").success() {
            true => told.push(name),
            false => killed += 1,
        }
    }
    let found = names(data.path());
    assert!(told.iter().all(|name| found.contains(name)), "told {told:?}, found {found:?}");
    assert!(killed > 5 && told.len() > 5, "{killed} were killed, {} were not: neither proves much", told.len());
}

#[test]
fn commands_at_once_lose_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let children: Vec<_> = (0..12)
        .map(|number| {
            let mut command = command(data.path(), &["create", &format!("k{number}")]);
            command.stdout(Stdio::null()).spawn().expect("run engram")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("ended").success());
    }
    assert_eq!(names(data.path()).len(), 12);
}
