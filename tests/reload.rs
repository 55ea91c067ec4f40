//! SIGHUP: a running server takes over what can change, names what cannot, and never half of a file.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::{Server, stream};

const FIRST: &str = "[log]\nlevel = \"info\"\n[flags.trial]\npercent = 0\n";

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the config file");
}

/// Sends SIGHUP and waits for a line of the log that was not there before.
fn reload(server: &Server, line: &str) -> String {
    let before = server.log().len();
    server.hang_up();
    let begun = Instant::now();
    loop {
        let log = server.log();
        if log[before..].contains(line) {
            return log[before..].to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no {line:?} in:\n{}", &log[before..]);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn percent(server: &Server) -> Value {
    let (status, body) = server.blocking_get("/v1/admin/flags/trial").expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).expect("JSON")["percent"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_is_all_or_nothing_and_touches_no_stream() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("engram.toml");
    write(&file, FIRST);
    let server = Server::start(SMOLLM2, &["--config", file.to_str().expect("a path")]);
    let url = server.url("/v1/completions");
    let body = json!({"model": SMOLLM2, "prompt": "def add(a, b):", "max_tokens": 200, "stream": true,
        "ignore_eos": true, "temperature": 0.0});
    let running = tokio::spawn(async move { stream(&reqwest::Client::new(), &url, &body, None).await });
    while server.metric("engram_sequences_running", "") < 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    write(&file, "[log]\nlevel = \"debug\"\n[flags.trial]\npercent = 100\n[server]\nprot = 1\n");
    let told = reload(&server, "the configuration stays as it was");
    assert!(told.contains("`server.prot`: no such key; did you mean `server.port`?"), "{told}");
    assert_eq!(percent(&server), 0.0);

    std::fs::write(dir.path().join("keys"), "team sk-hidden-key\n").expect("the keys");
    write(
        &file,
        "[log]\nlevel = \"debug\"\n[flags.trial]\npercent = 100\n[server]\nmax_connections = 9\napi_keys_file = \"keys\"\n",
    );
    let told = reload(&server, "configuration read again");
    assert!(told.contains("`server.max_connections` is different") && told.contains("at a restart only"), "{told}");
    for changed in ["log.level", "server.api_keys", "flags.trial"] {
        assert!(told.contains(changed), "{changed} is not in {told}");
    }
    // From now on a key is asked for, and the log says more.
    assert_eq!(server.blocking_get("/v1/models").expect("an answer").0, 401);
    let asked = reqwest::Client::new().get(server.url("/v1/admin/flags/trial")).bearer_auth("sk-hidden-key");
    let flag: Value = asked.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(flag["percent"], 100.0, "{flag}");
    assert!(server.log().contains("DEBUG") && !server.log().contains("sk-hidden"), "{}", server.log());

    let result = running.await.expect("the client task");
    assert!(result.done && result.finish_reason.as_deref() == Some("length"), "cut off: {:?}", result.error);
}
