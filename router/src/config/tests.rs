//! Broken configurations with the words they must be answered with; provenance; cycles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::keys::{KEYS, SECTIONS};
use super::*;

pub(super) fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    env.entry("HOME".into()).or_insert_with(|| "/home/ada".into());
    env
}

pub(super) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

pub(super) fn resolve_text(text: &str, pairs: &[(&str, &str)]) -> Result<Resolved, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "engram.toml", text);
    resolve(&Sources { files: vec![path], env: env(pairs), flags: Vec::new() })
}

fn origin<'a>(resolved: &'a Resolved, name: &str) -> &'a Origin {
    &resolved.entries.iter().find(|entry| entry.key.name == name).unwrap().origin
}

#[test]
fn broken_files_are_told_with_key_place_and_cure() {
    let cases: &[(&str, &[&str])] = &[
        (
            "[engine]\nkv_memory = \"12 apples\"",
            &["`engine.kv_memory`: \"12 apples\" is not a size; write for example \"2GiB\"", "engram.toml:2"],
        ),
        ("[engine]\nkv_memory = true", &["true is not a size"]),
        ("[engine]\nkv_memory = \"1KiB\"", &["out of range; 1MiB to"]),
        ("[engine]\nkv_memory = -5", &["-5 is not a size"]),
        ("[server]\nprot = 80", &["`server.prot`: no such key; did you mean `server.port`?", "engram.toml:2"]),
        ("[sever]\nport = 80", &["`sever`: no such key; did you mean `server`?", "engram.toml:1"]),
        ("port = 80", &["`port`: no such key; did you mean `server.port`?"]),
        ("[engine]\nport = 80", &["`engine.port`: no such key; did you mean `server.port`?"]),
        ("[zzzzzzzzz]", &["`zzzzzzzzz`: no such key; `engram config show` lists all"]),
        ("server = 3", &["`server`: is a section; write [server]"]),
        ("[[server]]\nport = 1", &["`server`: is a section"]),
        ("[server]\nport = 65536", &["65536 is not a port; write 0 to 65535"]),
        ("[server]\nport = -1", &["-1 is not a port"]),
        ("[server]\nport = 80.5", &["80.5 is not a port"]),
        ("[server]\nport = 99999999999999999999999", &["`server.port`: is a number too large"]),
        ("[server]\nport = [1]", &["a list of 1 is not a port"]),
        ("[server.port]\nx = 1", &["`server.port`: a table is not a port"]),
        ("[server]\nport = 1979-05-27", &["a date is not a port"]),
        ("[server]\nhost = \"\"", &["`server.host`: is empty"]),
        ("[server]\nhost = \"http://x:80\"", &["is not a host", "without scheme and port"]),
        ("[server]\nhost = \"999.1.1.1\"", &["is not a host"]),
        ("[server]\ninsecure_no_auth = \"maybe\"", &["\"maybe\" is not true or false"]),
        ("[server]\nheader_timeout_s = 0", &["0 is not a time from 0.1 to 3600 seconds"]),
        ("[server]\ndrain_deadline_s = nan", &["NaN is not a time"]),
        ("[server]\nrequest_timeout_s = \"soon\"", &["\"soon\" is not a time"]),
        ("[server]\ncors_origins = [1]", &["`server.cors_origins`: 1 in the list is not a non-empty string"]),
        ("[server]\napi_keys = [7]", &["`server.api_keys`: is not a list of strings"]),
        ("[server]\napi_keys_file = \"nowhere\"", &["`server.api_keys_file`: cannot read", "nowhere"]),
        ("[model]\ndevice = \"gpu\"", &["\"gpu\" is not a device; write auto, cpu or cuda:N"]),
        ("[model]\ndevice = \"cuda:-1\"", &["is not a device"]),
        ("[model]\nname = \"\"", &["`model.name`: is empty"]),
        ("[engine]\nblock_size = 24", &["24 is not a power of two from 8 to 256"]),
        ("[engine]\nmax_num_seqs = 0", &["0 is not a whole number from 1 to 4096"]),
        ("[engine]\nkv_dtype = \"fp8\"", &["\"fp8\" is not one of f16, f32, int8"]),
        ("[engine]\nmax_batch_tokens = 8", &["8 is less than `engine.max_num_seqs` (64)"]),
        ("[engine]\nmax_itl_ms = 60001", &["60001 is not a whole number from 0 to 60000"]),
        ("[engine]\nmax_itl_ms = \"soon\"", &["`engine.max_itl_ms`: \"soon\" is not a whole number"]),
        ("[log]\nlevel = \"verbose\"", &["\"verbose\" is not a log level"]),
        ("[log]\nformat = \"xml\"", &["\"xml\" is not one of text, json"]),
        ("[memory]\nbackend = \"milvus\"", &["\"milvus\" is not one of embedded, postgres, qdrant"]),
        (
            "[memory]\nbackend = \"postgres\"",
            &["`memory.postgres_url`: is unset, and `memory.backend = \"postgres\"` needs it"],
        ),
        ("[memory]\nbackend = \"qdrant\"", &["`memory.qdrant_url`: is unset"]),
        ("[memory]\npostgres_url = 7", &["`memory.postgres_url`: is not a string"]),
        ("[memory]\nttl_code = \"never\"", &["\"never\" is not a time"]),
        ("[memory]\nremember = \"all\"", &["\"all\" is not one of off, session, project"]),
        ("[memory]\nkeys = [\"recall=auto\"]", &["names no key; write \"NAME recall=auto"]),
        ("[memory]\nkeys = [\"ada recall=always\"]", &["recall=always of \"ada\" is not one of auto, off"]),
        ("[memory]\nkeys = [\"ada mood=good\"]", &["\"mood\" of \"ada\" is not one of recall, remember, domain"]),
        ("[models]\nhome = \"a\\u0000b\"", &["`models.home`", "NUL"]),
        ("[server]\nport = 1\nport = 2", &["engram.toml:3:1", "duplicate"]),
        ("[server\nport = 1", &["engram.toml:1:"]),
        (
            "[server]\nport = \"${NOPE}\"",
            &["`server.port`: variable `NOPE` is not set; set it, or write `${NOPE:-a default}`"],
        ),
        ("[server]\nhost = \"${X\"", &["`${` without its `}`"]),
        (
            "[vars]\na = \"${b}\"\nb = \"${a}\"\n[model]\nname = \"${a}\"",
            &["`model.name`: variables form a cycle: ${a} -> ${b} -> ${a}", "engram.toml:5"],
        ),
        ("[vars]\na = 1", &["`vars.a`: is not a string"]),
        ("vars = 1", &["`vars`: is not a table"]),
        ("include = 3", &["`include`: is not a list of files"]),
        ("include = [\"engram.toml\"]", &["includes form a cycle: ", "engram.toml -> "]),
        ("include = [\"missing.toml\"]", &["cannot read", "missing.toml"]),
        ("include = [\".\"]", &["not a regular file"]),
        ("[server]\nport = 1\u{1}", &["engram.toml:2:"]),
    ];
    for (text, parts) in cases {
        let message = resolve_text(text, &[]).expect_err(text).to_string();
        for part in *parts {
            assert!(message.contains(part), "{text}\n  said: {message}\n  missing: {part}");
        }
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let errors = resolve_text("[server]\nport = -1\nprot = 1\n[engine]\nkv_dtype = \"x\"", &[]).unwrap_err();
    assert_eq!(errors.0.len(), 3, "{errors}");
}

#[test]
fn default_then_file_then_environment_then_flag() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), "a.toml", "[server]\nhost = \"::1\"\nport = 1\nmax_connections = 7\n");
    let second = write(dir.path(), "b.toml", "[server]\nport = 2\ndrain_deadline_s = \"1m\"\n");
    let sources = Sources {
        files: vec![first.clone(), second.clone()],
        env: env(&[("ENGRAM_SERVER_DRAIN_DEADLINE_S", "2.5"), ("ENGRAM_ENGINE_KV_MEMORY", "2GiB")]),
        flags: vec![FlagValue { key: "engine.kv_memory", flag: "--kv-memory", text: "3GiB".into() }],
    };
    let resolved = resolve(&sources).unwrap();
    let config = &resolved.config;
    assert_eq!(config.server.host, "::1");
    assert_eq!(config.server.port, 2);
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.server.drain_deadline, Duration::from_millis(2500));
    assert_eq!(config.engine.kv_memory, 3 << 30);
    assert_eq!(*origin(&resolved, "server.host"), Origin::File { path: first, line: 2 });
    assert_eq!(*origin(&resolved, "server.port"), Origin::File { path: second, line: 2 });
    assert_eq!(*origin(&resolved, "server.drain_deadline_s"), Origin::Env("ENGRAM_SERVER_DRAIN_DEADLINE_S".into()));
    assert_eq!(*origin(&resolved, "engine.kv_memory"), Origin::Flag("--kv-memory"));
    assert_eq!(*origin(&resolved, "log.level"), Origin::Default);
    assert_eq!(config.models.home, Path::new("/home/ada/.local/share/engram"));
    assert_eq!(config.server.data_dir, config.models.home);
}

#[test]
fn includes_are_weaker_than_the_file_and_may_be_shared() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("conf")).unwrap();
    write(dir.path(), "conf/common.toml", "[server]\nport = 1\nmax_connections = 9\napi_keys_file = \"keys\"\n");
    write(dir.path(), "conf/keys", "# ours\n\nfirst-key-0001\nsecond-key-0002\n");
    write(dir.path(), "conf/a.toml", "include = \"common.toml\"\n[server]\nport = 2\n");
    write(dir.path(), "conf/b.toml", "include = [\"common.toml\"]\n[log]\nlevel = \"debug\"\n");
    let main = write(
        dir.path(),
        "main.toml",
        "include = [\"conf/b.toml\", \"${DIR:-conf}/a.toml\"]\n[server]\nhost = \"localhost\"\n",
    );
    let resolved = resolve(&Sources { files: vec![main], env: env(&[]), flags: Vec::new() }).unwrap();
    assert_eq!(resolved.config.server.port, 2);
    assert_eq!(resolved.config.server.max_connections, 9);
    assert_eq!(resolved.config.server.host, "localhost");
    assert_eq!(resolved.config.log.level, "debug");
    // A path is meant relative to the file that states it.
    let keys: Vec<&str> = resolved.config.server.api_keys.iter().map(Secret::expose).collect();
    assert_eq!(keys, ["first-key-0001", "second-key-0002"]);
}

#[test]
fn include_cycles_and_floods_end() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: PathBuf| resolve(&Sources { files: vec![path], env: env(&[]), flags: Vec::new() });
    let a = write(dir.path(), "a.toml", "include = [\"b.toml\"]");
    write(dir.path(), "b.toml", "include = [\"./c.toml\"]");
    fs::create_dir(dir.path().join("x")).unwrap();
    write(dir.path(), "c.toml", "include = [\"x/../a.toml\"]");
    let message = load(a).unwrap_err().to_string();
    let chain: Vec<&str> = message.split(" -> ").map(|link| link.rsplit('/').next().unwrap()).collect();
    assert_eq!(chain, ["a.toml", "b.toml", "c.toml", "a.toml"], "{message}");

    // Each level includes the next twice: 2^20 files without a bound.
    for level in 0..20 {
        let next = format!("f{}.toml", level + 1);
        write(dir.path(), &format!("f{level}.toml"), &format!("include = [\"{next}\", \"{next}\"]"));
    }
    write(dir.path(), "f20.toml", "");
    assert!(load(dir.path().join("f0.toml")).unwrap_err().to_string().contains("more than 16 files deep"));
    let message = load(dir.path().join("f8.toml")).unwrap_err().to_string();
    assert!(message.contains("more than 64 files"), "{message}");
}

#[test]
fn huge_and_deep_files_are_refused() {
    let message = |text: &str| resolve_text(text, &[]).unwrap_err().to_string();
    let long_line = format!("[model]\nname = \"{}\"", "x".repeat(10 << 20));
    assert!(message(&long_line).contains("larger than 1048576 bytes"));
    let deep = format!("[server]\nport = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(message(&deep).contains("engram.toml:2:"));
    let dotted = format!("[server]\n{}x = 1", "a.".repeat(100_000));
    assert!(message(&dotted).len() < 1000);
    let long_key = format!("[server]\n{} = 1", "k".repeat(100_000));
    assert!(message(&long_key).len() < 1000);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin1.toml");
    fs::write(&path, b"[log]\nlevel = \"\xe9\"").unwrap();
    let error = resolve(&Sources { files: vec![path], env: env(&[]), flags: Vec::new() }).unwrap_err();
    assert!(error.to_string().contains("not UTF-8 at byte 15"), "{error}");
}

#[test]
fn environment_variables() {
    let resolve_env = |pairs: &[(&str, &str)]| resolve(&Sources { env: env(pairs), ..Sources::default() });
    let config = |pairs: &[(&str, &str)]| resolve_env(pairs).unwrap().config;
    assert_eq!(config(&[("ENGRAM_SERVER_PORT", "81")]).server.port, 81);
    assert_eq!(config(&[("ENGRAM_PORT", "82")]).server.port, 82);
    assert_eq!(config(&[("ENGRAM_PORT", "82"), ("ENGRAM_SERVER_PORT", "81")]).server.port, 81);
    assert_eq!(config(&[("ENGRAM_HOME", "/srv/e")]).models.home, Path::new("/srv/e"));
    assert_eq!(config(&[("XDG_DATA_HOME", "/xdg")]).models.home, Path::new("/xdg/engram"));
    assert_eq!(config(&[("XDG_DATA_HOME", "relative")]).models.home, Path::new("/home/ada/.local/share/engram"));
    assert_eq!(config(&[("ENGRAM_API_KEYS", "one-key-0001, two-key-0002")]).server.api_keys.len(), 2);
    assert_eq!(config(&[("ENGRAM_THREADS", "auto")]).engine.threads, None);
    assert_eq!(config(&[("ENGRAM_ENGINE_MAX_ITL_MS", "50")]).engine.max_itl, Some(Duration::from_millis(50)));
    assert_eq!(config(&[("ENGRAM_ENGINE_MAX_ITL_MS", "0")]).engine.max_itl, None);
    assert!(config(&[("ENGRAM_OFFLINE", "1")]).models.offline);
    assert_eq!(config(&[("ENGRAM_SERVER_PORT", "")]).server.port, 8080);
    // What Kubernetes puts into every pod of a service called engram or engram-server.
    let kubernetes = [
        ("ENGRAM_PORT", "tcp://10.96.0.7:80"),
        ("ENGRAM_SERVER_PORT", "tcp://10.96.0.8:80"),
        ("ENGRAM_SERVER_SERVICE_HOST", "10.96.0.8"),
        ("ENGRAM_SERVER_SERVICE_PORT_HTTP", "80"),
        ("ENGRAM_SERVER_PORT_80_TCP_ADDR", "10.96.0.8"),
    ];
    assert_eq!(config(&kubernetes).server.port, 8080);
    assert_eq!(config(&[("ENGRAM_ISA", "scalar"), ("ENGRAM_UNRELATED_THING", "x")]).server.port, 8080);

    for (name, part) in [
        ("ENGRAM_SERVER_PROT", "$ENGRAM_SERVER_PROT: no such setting; did you mean `ENGRAM_SERVER_PORT`?"),
        ("ENGRAM_HOEM", "did you mean `ENGRAM_HOME`?"),
        ("ENGRAM_ENGINE_WARP_FACTOR", "no such setting"),
    ] {
        let message = resolve_env(&[(name, "1")]).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let message = resolve_env(&[("ENGRAM_SERVER_PORT", "http")]).unwrap_err().to_string();
    assert_eq!(message, "`server.port`: \"http\" is not a port; write 0 to 65535 (from $ENGRAM_SERVER_PORT)");
}

#[test]
fn secrets_are_never_shown() {
    let resolved =
        resolve_text("[server]\napi_keys = [\"${KEY}\", \"sk-other-key\"]", &[("KEY", "sk-hidden-key")]).unwrap();
    assert_eq!(resolved.config.server.api_keys[0].expose(), "sk-hidden-key");
    let shown = show_text(&resolved);
    let json = show_json(&resolved).to_string();
    for text in [&shown, &json, &format!("{resolved:?}")] {
        assert!(!text.contains("hidden") && !text.contains("other"), "{text}");
        assert!(text.contains("***"));
    }
    // A file without a key would quietly open the server to everyone.
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "keys", "# none yet\n");
    let path = write(dir.path(), "engram.toml", "[server]\napi_keys_file = \"keys\"\n");
    let error = resolve(&Sources { files: vec![path], env: env(&[]), flags: Vec::new() }).unwrap_err();
    assert!(error.to_string().contains("holds no key; write one a line"), "{error}");
}

#[test]
fn a_key_has_its_own_memory_defaults() {
    let text = "[memory]\nrecall = \"auto\"\nttl_conversation = \"7d\"\npostgres_url = \"postgres://a:hidden@h/d\"\n\
                keys = [\"ada remember=session project=web\", \"bot recall=off domain=business\"]";
    let resolved = resolve_text(text, &[]).unwrap();
    let memory = &resolved.config.memory;
    assert_eq!(memory.dir, Path::new("/home/ada/.local/share/engram/memory"));
    assert_eq!(memory.backend, MemoryBackend::Embedded);
    assert!(memory.ttl.contains(&(engram_memory::Kind::Conversation, Some(Duration::from_secs(7 * 86400)))));
    assert!(memory.ttl.contains(&(engram_memory::Kind::Code, None)));
    let summary = |tenant: &str| {
        let defaults = memory.defaults_of(tenant);
        let project = defaults.project.as_ref().map(|name| name.as_str().to_owned());
        (defaults.recall, defaults.remember, defaults.domain.as_str().to_owned(), project)
    };
    let (auto, off) = (RecallDefault::Auto, RecallDefault::Off);
    assert_eq!(summary("ada"), (auto, Remember::Session, "coding".into(), Some("web".into())));
    assert_eq!(summary("bot"), (off, Remember::Off, "business".into(), None));
    assert_eq!(summary("key-00000000"), (auto, Remember::Off, "coding".into(), None));
    for shown in [show_text(&resolved), format!("{resolved:?}")] {
        assert!(!shown.contains("hidden") && shown.contains("***"), "{shown}");
    }
}

#[test]
fn an_engine_that_is_set_up_and_not_chosen_is_warned_about() {
    let check = |text: &str, expected: &[&str]| {
        let warnings = resolve_text(text, &[]).unwrap().warnings;
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        assert!(warnings.iter().zip(expected).all(|(warning, start)| warning.starts_with(start)), "{warnings:?}");
    };
    let url = "postgres_url = \"postgres://a:b@h/d\"";
    check(
        &format!("[memory]\n{url}"),
        &[
            "`memory.postgres_url` has no effect: `memory.backend` is \"embedded\"; set that to \"postgres\" to use it, or",
        ],
    );
    check(&format!("[memory]\nbackend = \"postgres\"\n{url}\npostgres_pool = 3"), &[]);
    check(
        &format!("[memory]\nbackend = \"qdrant\"\nqdrant_url = \"http://h:6333\"\n{url}\npostgres_pool = 3"),
        &[
            "`memory.postgres_url` has no effect: `memory.backend` is \"qdrant\"",
            "`memory.postgres_pool` has no effect",
        ],
    );
    check("[memory]\nredis_url = \"redis://h:6379\"", &[]);
}

#[test]
fn what_show_prints_is_a_config_file_with_the_same_values() {
    let resolved = resolve_text(
        "[engine]\nkv_memory = \"1.5GiB\"\n[model]\ndevice = \"cuda:3\"\nname = \"a \\\"b\\\" \\\\ c\"",
        &[],
    )
    .unwrap();
    let again = resolve_text(&show_text(&resolved), &[]).unwrap();
    for (before, after) in resolved.entries.iter().zip(&again.entries) {
        assert_eq!(before.value, after.value, "{}", before.key.name);
    }
    let json = show_json(&resolved);
    assert_eq!(json["engine.kv_memory"]["value"], "1536MiB");
    assert_eq!(json["engine.kv_memory"]["from"], "file");
    assert_eq!(json["engine.kv_memory"]["line"], 2);
    assert_eq!(json["server.port"]["from"], "default");
}

#[test]
fn the_table_is_sound() {
    for key in KEYS {
        assert!(SECTIONS.contains(&key.section()), "{}", key.name);
        if !key.default.is_empty() {
            assert_ne!(key.default_value(), Value::Unset, "default of {}", key.name);
        }
        assert_eq!(KEYS.iter().filter(|other| other.name == key.name).count(), 1);
    }
    let defaults = resolve(&Sources { env: env(&[]), ..Sources::default() }).unwrap().config;
    // Each getter asks for the variant that its key's kind makes: nothing is left at a fallback.
    assert!(!defaults.server.host.is_empty() && defaults.server.port == 8080);
    assert_eq!(defaults.server.body_limit_bytes, 32 << 20);
    assert_eq!(defaults.server.header_timeout, Duration::from_secs(10));
    assert_eq!(defaults.server.drain_deadline, Duration::from_secs(30));
    assert_eq!(defaults.server.request_timeout, Some(Duration::from_secs(600)));
    assert_eq!(defaults.server.max_connections, 4096);
    assert_eq!(defaults.model.name, "qwen2.5-coder-0.5b-instruct");
    assert_eq!(defaults.model.device, Device::Auto);
    assert_eq!(defaults.engine.max_num_seqs, 64);
    assert_eq!(defaults.engine.max_batch_tokens, 512);
    assert_eq!(defaults.engine.max_itl, Some(Duration::from_millis(200)));
    assert_eq!(defaults.engine.block_size, 16);
    assert_eq!(defaults.engine.kv_memory, 1 << 30);
    assert!(defaults.engine.kv_dtype == KvType::F16 && defaults.engine.prefix_cache);
    assert_eq!(defaults.engine.queue_limit, 256);
    assert_eq!(defaults.log.level, "info");
}

#[test]
fn the_kv_cache_holds_what_is_asked_for() {
    for (name, kind) in [("f16", KvType::F16), ("f32", KvType::F32), ("int8", KvType::Int8)] {
        let resolved = resolve_text(&format!("[engine]\nkv_dtype = \"{name}\""), &[]).unwrap();
        assert_eq!(resolved.config.engine.kv_dtype, kind);
        assert_eq!(show_json(&resolved)["engine.kv_dtype"]["value"], name);
        let flagged = resolve_text("", &[("ENGRAM_ENGINE_KV_DTYPE", name)]).unwrap();
        assert_eq!(flagged.config.engine.kv_dtype, kind);
    }
}
