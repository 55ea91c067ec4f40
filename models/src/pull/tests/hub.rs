//! The hub, played by a server of ours.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Home, bytes, entry, sha256};
use crate::pull::error::PullError;
use crate::pull::sources::{Wanted, find_or_fetch};
use crate::pull::test_server::{Reply, Request, Server};
use crate::pull::{ModelFiles, Source, WeightsFiles, installed, resolve};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

type Files = Vec<(&'static str, Arc<Vec<u8>>)>;

/// Serves `o/r` at any revision; `content` may replace how a file's bytes are sent.
fn hub(files: Files, content: impl Fn(&Request, usize, Arc<Vec<u8>>) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request, before| {
        if request.path.starts_with("/api/models/o/r") {
            let names: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({ "rfilename": name })).collect();
            let info = serde_json::json!({ "id": "o/r", "sha": COMMIT, "siblings": names });
            return Reply::Document("application/json", info.to_string());
        }
        let name = request.path.strip_prefix(&format!("/o/r/resolve/{COMMIT}/")).unwrap_or_default();
        match files.iter().find(|(known, _)| *known == name) {
            // Small files are in git, and have a git hash for their ETag.
            Some((_, data)) if request.method == "HEAD" => {
                let sum = sha256(data);
                Reply::Head(if data.len() < 1000 { sum[..40].to_string() } else { sum }, data.len())
            }
            Some((_, data)) => content(request, before, Arc::clone(data)),
            None => Reply::Status(404),
        }
    })
}

fn gguf_hub() -> (Server, Arc<Vec<u8>>) {
    let data = bytes(150_000, 11);
    let files =
        vec![("README.md", bytes(10, 1)), ("x-Q8_0.gguf", bytes(5000, 2)), ("x-Q4_K_M.gguf", Arc::clone(&data))];
    (hub(files, |_, _, data| Reply::File(data)), data)
}

fn weights(files: &ModelFiles) -> Vec<u8> {
    fs::read(&files.weights.paths()[0]).expect("weights")
}

#[test]
fn a_repository_is_fetched_once_and_found_after() {
    let (server, data) = gguf_hub();
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    home.options.hub.token = Some("hf_secret".to_string());
    let files = resolve("o/r", &home.options).expect("fetched");
    assert_eq!(files.source, Source::Hub { repo: "o/r".into(), commit: COMMIT.into() });
    assert!(weights(&files) == *data && matches!(files.weights, WeightsFiles::Gguf(_)));
    assert!(files.weights.paths()[0].ends_with(format!("models--o--r/snapshots/{COMMIT}/x-Q4_K_M.gguf")));
    let tokens: Vec<_> = server.requests().into_iter().map(|request| request.authorization).collect();
    assert!(tokens.iter().all(|token| token.as_deref() == Some("Bearer hf_secret")), "{tokens:?}");

    // The layout is the one the other tools read.
    let folder = home.options.hub.cache.join("models--o--r");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).expect("ref"), COMMIT);
    assert!(folder.join("blobs").join(sha256(&data)).is_file());

    let asked = server.requests().len();
    home.options.offline = true;
    let again = resolve("o/r", &home.options).expect("on disk");
    assert_eq!(again.source, Source::HubCache { repo: "o/r".into(), commit: COMMIT.into() });
    assert_eq!(again.weights, files.weights);
    assert_eq!(server.requests().len(), asked, "the network was not touched");
    let here = installed(&home.options);
    assert!(here.len() == 1 && here[0].id == "o/r" && here[0].verified && here[0].bytes == 150_000, "{here:?}");

    let error = resolve("o/r:Q8_0", &home.options).expect_err("not here, and offline");
    assert!(matches!(&error, PullError::Offline { .. }), "{error}");
    assert!(error.to_string().contains("engram pull o/r"), "{error}");
    home.options.offline = false;
    assert_eq!(weights(&resolve("o/r:Q8_0", &home.options).expect("another type")).len(), 5000);
    let error = resolve("o/r:Q2_K", &home.options).expect_err("no such type").to_string();
    assert!(error.contains("no GGUF file of type Q2_K; it has: x-Q8_0.gguf, x-Q4_K_M.gguf"), "{error}");
}

#[test]
fn a_pinned_revision_is_asked_for() {
    let (server, _) = gguf_hub();
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    home.options.revision = Some("v1.0".to_string());
    resolve("o/r", &home.options).expect("fetched");
    assert!(server.requests()[0].path.ends_with("/revision/v1.0"), "{}", server.requests()[0].path);
    assert!(home.options.hub.cache.join("models--o--r/refs/v1.0").is_file());
    home.options.offline = true;
    home.options.revision = None;
    resolve(&format!("o/r@{COMMIT}"), &home.options).expect("a commit is on disk whatever branch brought it");
    assert!(resolve("o/r", &home.options).is_err(), "main was not asked for");
    for bad in ["../../x", "/etc", "a\nb"] {
        home.options.revision = Some(bad.to_string());
        assert!(matches!(resolve("o/r", &home.options), Err(PullError::UnsafeName { .. })), "{bad:?}");
    }
}

#[test]
fn shards_come_with_what_they_need() {
    let files: Files = vec![
        ("config.json", bytes(50, 1)),
        ("model-00001-of-00002.safetensors", bytes(3000, 2)),
        ("model-00002-of-00002.safetensors", bytes(4000, 3)),
        ("model.safetensors.index.json", bytes(60, 4)),
        ("tokenizer.json", bytes(70, 5)),
        ("tokenizer_config.json", bytes(80, 6)),
        ("pytorch_model.bin", bytes(90, 7)),
    ];
    let server = hub(files, |_, _, data| Reply::File(data));
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    let files = resolve("o/r", &home.options).expect("fetched");
    assert_eq!((files.weights.paths().len(), files.bytes()), (2, 7000));
    assert!(files.tokenizer.is_some() && files.tokenizer_config.is_some() && files.config.is_some());
    assert!(!server.requests().iter().any(|request| request.path.ends_with(".bin")));
    home.options.offline = true;
    resolve("o/r", &home.options).expect("on disk");
    fs::remove_file(&files.weights.paths()[1]).expect("lose a shard");
    assert!(resolve("o/r", &home.options).is_err(), "a model with a shard missing is not whole");
}

#[test]
fn an_interrupted_file_goes_on_and_a_spoilt_one_is_fetched_anew() {
    let data = bytes(150_000, 11);
    let server = hub(vec![("x-Q4_K_M.gguf", Arc::clone(&data))], |_, _, data| Reply::File(data));
    let path = format!("/o/r/resolve/{COMMIT}/x-Q4_K_M.gguf");
    for (left_over, ranges) in [(data[..60_000].to_vec(), vec![60_000]), (vec![0; 60_000], vec![60_000, 0])] {
        let mut home = Home::new();
        home.options.hub.endpoint = server.address.clone();
        let blobs = home.options.hub.cache.join("models--o--r/blobs");
        fs::create_dir_all(&blobs).expect("folder");
        fs::write(blobs.join(format!("{}.incomplete", sha256(&data))), &left_over).expect("left over");
        let before = server.ranges(&path).len();
        let files = resolve("o/r", &home.options).expect("whole");
        assert!(weights(&files) == *data);
        assert_eq!(server.ranges(&path)[before..], ranges);
    }
}

#[test]
fn corrupt_bytes_are_refused_and_the_next_pull_heals() {
    let data = bytes(150_000, 11);
    let bad = bytes(150_000, 12);
    let sent = Arc::clone(&bad);
    let server = hub(vec![("x-Q4_K_M.gguf", Arc::clone(&data))], move |_, before, data| match before {
        0 => Reply::File(Arc::clone(&sent)),
        _ => Reply::File(data),
    });
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    let error = resolve("o/r", &home.options).expect_err("corrupt").to_string();
    assert!(error.contains(&format!("expected sha256 {}, found {}", sha256(&data), sha256(&bad))), "{error}");
    let files = resolve("o/r", &home.options).expect("healed");

    // And a file that spoils later, on disk.
    let blob = files.weights.paths()[0].canonicalize().expect("blob");
    fs::write(&blob, &bad[..100_000]).expect("spoil");
    home.options.offline = true;
    assert!(matches!(resolve("o/r", &home.options), Err(PullError::Corrupt { bytes: 100_000, .. })));
    home.options.offline = false;
    assert!(weights(&resolve("o/r", &home.options).expect("healed")) == *data);
}

#[test]
fn a_token_does_not_follow_a_redirect_to_another_host() {
    let data = bytes(150_000, 11);
    let stored = Arc::clone(&data);
    let cdn = Server::start(move |_, _| Reply::Cut(Arc::clone(&stored), 100_000));
    let target = format!("{}/blob?signature=s", cdn.address);
    let server = hub(vec![("x-Q4_K_M.gguf", Arc::clone(&data))], move |_, _, _| Reply::Redirect(target.clone()));
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    home.options.hub.token = Some("hf_secret".to_string());
    assert!(weights(&resolve("o/r", &home.options).expect("fetched")) == *data);
    let asked = cdn.requests();
    assert!(asked.len() == 2 && asked.iter().all(|request| request.authorization.is_none()), "{asked:?}");
}

#[test]
fn a_hub_that_refuses_or_hangs_is_told() {
    let check = |reply: fn() -> Reply, told: &str| {
        let server = Server::start(move |_, _| reply());
        let mut home = Home::new();
        home.options.hub.endpoint = server.address.clone();
        home.options.timeouts.idle = Duration::from_millis(300);
        let started = Instant::now();
        let error = resolve("o/r", &home.options).expect_err(told).to_string();
        assert!(error.contains(&server.address) && error.contains(told), "{error}");
        assert!(started.elapsed() < Duration::from_secs(6), "{told}: {:?}", started.elapsed());
    };
    check(|| Reply::Status(401), "set HF_TOKEN");
    check(|| Reply::Status(404), "not found");
    check(|| Reply::Status(500), "500");
    check(|| Reply::Hang, "cannot be reached: operation timed out");
    check(|| Reply::Document("application/json", "[]".into()), "o/r");
    check(|| Reply::Document("application/json", r#"{"id":"o/r","sha":"../../x"}"#.into()), "no commit");
    let home = Home::new();
    let error = resolve("o/r", &home.options).expect_err("nobody listens").to_string();
    assert!(error.contains("cannot get `o/r`; tried\n  hub http://127.0.0.1:"), "{error}");
}

#[test]
fn a_renamed_repository_is_followed() {
    let data = bytes(150_000, 11);
    let served = Arc::clone(&data);
    let server =
        Server::start(move |request, _| match (request.method.as_str(), request.path.split_once("/resolve/")) {
            (_, None) => {
                let files = r#"[{"rfilename":"x-Q4_K_M.gguf"}]"#;
                let info = format!(r#"{{"id":"O/R","sha":"{COMMIT}","siblings":{files}}}"#);
                Reply::Document("application/json", info)
            }
            (_, Some(("/o/r", rest))) => Reply::Redirect(format!("/O/R/resolve/{rest}")),
            ("HEAD", _) => Reply::Head(sha256(&served), served.len()),
            _ => Reply::File(Arc::clone(&served)),
        });
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    home.options.hub.token = Some("hf_secret".to_string());
    assert!(weights(&resolve("o/r", &home.options).expect("fetched")) == *data);
    let asked = server.requests();
    assert!(asked.iter().all(|request| request.authorization.is_some()), "{asked:?}");
}

#[test]
fn names_that_would_leave_the_cache_are_not_followed() {
    let server = Server::start(|request, _| match request.method.as_str() {
        "HEAD" => Reply::Head("../../../evil".to_string(), 10),
        _ => {
            let files = r#"[{"rfilename":"../../evil-Q4_0.gguf"},{"rfilename":"/etc/x-Q4_0.gguf"},{"rfilename":"x-Q8_0.gguf"}]"#;
            Reply::Document("application/json", format!(r#"{{"id":"o/r","sha":"{COMMIT}","siblings":{files}}}"#))
        }
    });
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    let error = resolve("o/r", &home.options).expect_err("an ETag with a path in it").to_string();
    assert!(error.contains("no name for a file") && error.contains("x-Q8_0.gguf"), "{error}");
}

#[test]
fn the_catalog_outranks_the_hub() {
    let (server, data) = gguf_hub();
    let model = |sha256: &str| {
        entry(&format!(
            "[[model]]\nid = \"t\"\naliases = []\ntitle = \"t\"\nkind = \"embed\"\nlicense = \"MIT\"\ncontext_len = 1\n\
             parameters = 1\nhub = {{ repo = \"o/r\" }}\n[[model.file]]\npath = \"x-Q4_K_M.gguf\"\nrole = \"weights\"\n\
             bytes = 150000\nsha256 = \"{sha256}\"\n"
        ))
    };
    let wanted = |sha256: &str| Wanted {
        id: "t".into(),
        repo: "o/r".into(),
        revision: "main".into(),
        quant: None,
        entry: Some(model(sha256)),
    };
    let mut home = Home::new();
    home.options.hub.endpoint = server.address.clone();
    let other = "0".repeat(64);
    let error = find_or_fetch(&wanted(&other), &home.options).expect_err("another file than pinned").to_string();
    assert!(error.contains("the catalog pins 000000"), "{error}");
    assert!(server.ranges(&format!("/o/r/resolve/{COMMIT}/x-Q4_K_M.gguf")).is_empty(), "it was not even fetched");
    let files = find_or_fetch(&wanted(&sha256(&data)), &home.options).expect("the pinned file");
    assert_eq!(files.id, "t");
    // What another tool fetched, at whatever commit, is recognised by its checksum.
    fs::remove_dir_all(home.options.hub.cache.join("models--o--r/refs")).expect("forget the branch");
    home.options.offline = true;
    find_or_fetch(&wanted(&sha256(&data)), &home.options).expect("on disk");
}
