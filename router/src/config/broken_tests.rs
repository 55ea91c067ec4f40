//! Broken configurations of tables with free names and of what lies around files: each message names the key and
//! the cure, tells no secret, and stays short.

use std::fs;
use std::path::{Path, PathBuf};

use super::tests::{env, resolve_text, write};
use super::*;

/// Bytes of a message about one problem, paths apart.
const SHORT: usize = 400;

fn message_of(path: PathBuf) -> String {
    let sources = Sources { files: vec![path.clone()], env: env(&[]), flags: Vec::new() };
    let message = resolve(&sources).expect_err(&path.display().to_string()).to_string();
    message.replace(&path.parent().unwrap_or(Path::new("")).display().to_string(), "DIR")
}

#[test]
fn broken_tables_are_told_with_key_place_and_cure() {
    let b = "[backends.b]\nkind = \"openai_compatible\"\nurl = \"http://h/v1\"\n";
    let p = "[backends.p]\nkind = \"portkey\"\nurl = \"http://h/v1\"\n";
    let with = |head: &str, rest: &str| format!("{head}{rest}\n");
    let cases: Vec<(String, &[&str])> = vec![
        // Their shape.
        ("[backend.x]".into(), &["`backend`: no such key; did you mean `backends`?", ":1)"]),
        ("backends = 1".into(), &["`backends`: is a family of tables; write [backends.NAME]"]),
        ("[backends]\nurl = \"http://h\"".into(), &["`backends.url`: is not a table", "write [backends.NAME]", ":2)"]),
        ("[[backends.x]]\nkind = \"peer\"".into(), &["`backends.x`: is not a table"]),
        (with(b, "[backends.b]\n"), &["4:", "duplicate key"]),
        (with(b, "[backends.B]"), &["`backends.B`: duplicates `backends.b` (", "rename one"]),
        // Their names.
        (with("", "[backends.local]"), &["`backends.local`: is the engine in this process", "choose another name"]),
        (with("", "[backends.LOCAL]"), &["`backends.LOCAL`: is the engine"]),
        (with("", "[routes.auto]"), &["`routes.auto`: is the route by the class of the task"]),
        (with("", "[backends.\"a b\"]"), &["`backends.\"a b\"`: is no name of a backend; take 1 to 64 letters"]),
        (with("", "[flags.\"\"]"), &["`flags.\"\"`: is no name of a flag"]),
        (with("", "[flags.\"-x\"]"), &["is no name of a flag", "the first of them no `.`"]),
        (with("", "[catalog.\"ü\"]"), &["is no name of a model; take 1 to 128"]),
        (format!("[catalog.\"{}\"]", "x".repeat(100_000)), &["is no name of a model", "xxx..."]),
        // Their keys.
        (with(b, "tires = 3"), &["`backends.b.tires`: no such key; did you mean `backends.b.tries`?", ":4)"]),
        (with(b, "[backends.b.portkey]\nx = 1"), &["`backends.b.portkey`: no such key"]),
        (with(b, "zzzzzzzzz = 1"), &["`backends.b.zzzzzzzzz`: no such key; `engram config show` lists all"]),
        (with(b, "tries = 0"), &["`backends.b.tries`: 0 is not a whole number from 1 to 10"]),
        (with(b, "tries = \"two\""), &["\"two\" is not a whole number from 1 to 10"]),
        (with(b, "timeout_s = \"1 year\""), &["`backends.b.timeout_s`: \"1 year\" is not a time"]),
        (with(b, "models = [1]"), &["`backends.b.models`: 1 in the list is not a non-empty string"]),
        (with(b, "api_key = 5"), &["`backends.b.api_key`: is not a string with something in it"]),
        (with(b, "api_key = \"two words\""), &["`backends.b.api_key`: holds a character that no header can carry"]),
        (with(b, "api_key = \"${GONE}\""), &["`backends.b.api_key`: variable `GONE` is not set; set it"]),
        (with(b, "api_key_file = \"gone\""), &["`backends.b.api_key_file`: cannot read", "No such file"]),
        (with(b, "headers = [\"x-team\"]"), &["`backends.b.headers`: header number 1 has no colon; write for"]),
        (with(b, "headers = [\"host: x\"]"), &["header `host` is the connection's own; leave it out"]),
        (with(b, "headers = [\"a: 1\", \"A: 2\"]"), &["header `a` is stated twice; leave one out"]),
        (with(b, "headers = [\"a b: sk-secret\"]"), &["header number 1 has a name that cannot be one"]),
        (with(b, "headers = [\"a: sk-secret\\n\\u0007\"]"), &["header `a` has a value that no header can carry"]),
        (
            with(b, "api_key = \"sk-secret\"\nheaders = [\"authorization: x\"]"),
            &["`backends.b.headers`: hold `authorization`, which `api_key` makes; leave one out"],
        ),
        // Addresses and kinds.
        ("[backends.x]\nkind = \"peer\"".into(), &["`backends.x.url`: is unset; write url = \"http://host/v1\""]),
        ("[backends.x]\nurl = \"http://h\"".into(), &["`backends.x.kind`: is unset; write peer, portkey or"]),
        (with("", "[backends.x]\nkind = \"peers\""), &["\"peers\" is not one of peer, portkey, openai_compatible"]),
        (with(b, "[backends.c]\nkind = \"peer\"\nurl = \"ftp://h\""), &["begins with http:// or https://"]),
        (with(b, "[backends.c]\nkind = \"peer\"\nurl = \"h:80\""), &["`backends.c.url`: \"h:80\" is not an address"]),
        (
            with("", "[backends.c]\nkind = \"peer\"\nurl = \"http://u:sk-secret@h/v1\""),
            &["`backends.c.url`: holds an `@`", "write them as `api_key`"],
        ),
        (with("", "[backends.c]\nkind = \"peer\"\nurl = \"http://h/v1?k=sk-secret\""), &["holds a `?` or `#`"]),
        (with("", "[backends.c]\nkind = \"peer\"\nurl = \"http://\""), &["`backends.c.url`: \"http://\" is not an"]),
        (with(b, "portkey_retries = 1"), &["`backends.b.portkey_retries`: is for `kind = \"portkey\"` only; leave it"]),
        (with(p, "portkey_retries = 6"), &["6 is not a whole number from 0 to 5"]),
        (with(p, "portkey_cache = \"yes\""), &["\"yes\" is not one of off, simple, semantic"]),
        (with(p, "portkey_config = '{\"api_key\": \"sk-secret\"'"), &["`backends.p.portkey_config`: is not JSON at"]),
        (with(p, "portkey_metadata = '[1]'"), &["`backends.p.portkey_metadata`: \"[1]\" is not a JSON object of"]),
        (with(p, "portkey_metadata = '{\"a\": 1}'"), &["\"a\" in it is not a string of at most 128 characters"]),
        // Models and routes.
        ("[catalog.m]\ninput = -1".into(), &["`catalog.m.input`: -1 is not a number from 0 to 1000000"]),
        ("[catalog.m]\ninput = nan".into(), &["NaN is not a number"]),
        ("[catalog.m]\ninput = \"cheap\"".into(), &["\"cheap\" is not a number"]),
        ("[catalog.m]\ninput = 1".into(), &["`catalog.m.output`: is unset: a budget needs the whole price"]),
        ("[catalog.m]\ncached = 1".into(), &["`catalog.m.input`: is unset"]),
        (
            with(b, "[catalog.m]\nbackends = [\"bb\"]"),
            &["`catalog.m.backends`: name \"bb\", which is no backend; did you mean \"b\"?", ":5)"],
        ),
        ("[catalog.m]\nbackends = [\"gone\"]".into(), &["which is no backend; add [backends.gone], or leave it out"]),
        (with(b, "[catalog.m]\nbackends = [\"b\", \"b\"]"), &["name \"b\" twice; leave one out"]),
        (
            "[catalog.\"gpt-4o\"]\n[routes.r]\nmodels = [\"gpt4o\"]".into(),
            &["`routes.r.models`: name \"gpt4o\", which is no model of the catalog; did you mean \"gpt-4o\"?", ":3)"],
        ),
        ("[routes.r]\nmodels = [\"nothing-like-it\"]".into(), &["add [catalog.\"nothing-like-it\"]"]),
        ("[routes.r]\nmodels = [\"route:s\"]".into(), &["name \"s\", which is no route; did you mean \"r\"?"]),
        (
            "[routes.r]\nmodels = [\"route:s\"]\n[routes.s]\nmodels = [\"route:r\"]".into(),
            &["`routes.r.models`: routes form a cycle: r -> s -> r; take one of them out", "s -> r -> s"],
        ),
        ("[routes.r]\nlocal = \"never\"".into(), &["`routes.r.models`: are none", "nobody is left to ask"]),
        (
            "[catalog.m]\n[routes.r]\nmodels = [\"m\"]\nlocal = \"only\"".into(),
            &["`routes.r.models`: are never asked under `local = \"only\"`"],
        ),
        ("[routes.r]\nlocal = \"always\"".into(), &["\"always\" is not one of first, last, never, only"]),
        (
            "[routing]\ndefault = \"fast\"".into(),
            &["`routing.default`: names \"fast\", which is no route; add [routes"],
        ),
        ("[routing]\ntasks = [\"chat\"]".into(), &["\"chat\" is not CLASS=ROUTE with a class of chat, completion"]),
        ("[routing]\ntasks = [\"chat=auto\", \"chat=auto\"]".into(), &["\"chat\" has two routes; leave one out"]),
        ("[routing]\nretry_cap_ms = 5".into(), &["`routing.retry_cap_ms`: 5 is less than `routing.retry_base_ms`"]),
        ("[routing]\nsemantic_threshold = 95".into(), &["95 is not a number from 0.5 to 1"]),
        ("[routing]\nmax_cost_usd = \"5 EUR\"".into(), &["\"5 EUR\" is not a number from 0 to 1000000"]),
        // The rest.
        ("[flags.f]\npercent = 101".into(), &["`flags.f.percent`: 101 is not a number from 0 to 100"]),
        ("[flags.f]\nenabled = \"maybe\"".into(), &["`flags.f.enabled`: \"maybe\" is not true or false"]),
        ("[tls]\ncert_file = \"c.pem\"".into(), &["`tls.key_file`: is unset: a certificate and its key come together"]),
        ("[tls]\nkey_file = \"k.pem\"".into(), &["`tls.cert_file`: is unset"]),
        ("[admin]\nport = 8080".into(), &["`admin.port`: 8080 is `server.port` too; choose another"]),
        ("[admin]\nhost = \"http://x\"".into(), &["`admin.host`: \"http://x\" is not a host"]),
        (
            "[trace]\notlp_endpoint = \"localhost:4318\"".into(),
            &["`trace.otlp_endpoint`: \"localhost:4318\" is not an"],
        ),
        ("[trace]\nsample_percent = -1".into(), &["`trace.sample_percent`: -1 is not a number from 0 to 100"]),
    ];
    for (text, parts) in &cases {
        let shown: String = text.chars().take(200).collect();
        let message = resolve_text(text, &[]).expect_err(&shown).to_string();
        for part in *parts {
            assert!(message.contains(part), "{shown}\n  said: {message}\n  missing: {part}");
        }
        assert!(!message.contains("sk-secret"), "{shown}\n  told: {message}");
        assert!(message.lines().count() <= 2, "{shown}\n  said: {message}");
        assert!(message.lines().all(|line| line.len() < SHORT), "{shown}\n  said: {message}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_readable_file_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
    write(dir.path(), "plain", "");
    fs::write(at("latin1"), b"[log]\nlevel = \"\xe9\"").unwrap();
    fs::write(at("nul"), b"[log]\nlevel = \"\0\"").unwrap();
    fs::write(at("bom16"), b"\xff\xfe[\0l\0").unwrap();
    fs::write(at("line"), format!("[model]\nname = \"{}\"", "x".repeat(10 << 20))).unwrap();
    fs::write(at("flood"), "a.b = 1\n".repeat(1 << 16)).unwrap();
    fs::write(at("slips"), (0..5000).map(|n| format!("[flags.f{n}]\nx = 1\n")).collect::<String>()).unwrap();
    fs::write(at("deep"), format!("[server]\nport = {}{}", "[".repeat(100_000), "]".repeat(100_000))).unwrap();
    fs::write(at("tables"), format!("[backends.x]\nurl = {}", "{a = ".repeat(50_000))).unwrap();
    fs::write(at("dotted"), format!("[server]\n{}x = 1", "a.".repeat(100_000))).unwrap();
    fs::write(at("many"), (0..5000).map(|n| format!("[flags.f{n}]\n")).collect::<String>()).unwrap();
    fs::write(at("itself"), "include = \"./itself\"").unwrap();
    fs::write(at("includes-pipe"), "include = [\"pipe\"]").unwrap();
    fs::write(at("key-from-pipe"), "[backends.x]\nkind = \"peer\"\nurl = \"http://h\"\napi_key_file = \"pipe\"")
        .unwrap();
    fs::write(at("keys-folder"), "[server]\napi_keys_file = \"folder\"").unwrap();
    let cases: &[(&str, &str)] = &[
        ("gone", "cannot read DIR/gone: No such file or directory"),
        ("folder", "cannot read DIR/folder: not a regular file"),
        ("pipe", "cannot read DIR/pipe: not a regular file"),
        ("socket", "cannot read DIR/socket: not a regular file"),
        ("loop", "cannot read DIR/loop: Too many levels of symbolic links"),
        ("plain/below", "cannot read DIR/below: Not a directory"),
        ("latin1", "cannot read DIR/latin1: not UTF-8 at byte 15"),
        ("nul", "DIR/nul:2:"),
        ("bom16", "cannot read DIR/bom16: not UTF-8 at byte 0"),
        ("line", "cannot read DIR/line: larger than 1048576 bytes"),
        ("flood", "DIR/flood:2:3: duplicate key"),
        ("slips", "and 5884 more"),
        ("deep", "DIR/deep:2:"),
        ("tables", "DIR/tables:2:"),
        ("dotted", "DIR/dotted:1:1: recursion limit"),
        ("many", "`flags.f4096`: is one table too many: at most 4096 have free names; leave"),
        ("itself", "includes form a cycle: DIR/itself -> DIR/itself"),
        ("includes-pipe", "cannot read DIR/pipe: not a regular file"),
        ("key-from-pipe", "`backends.x.api_key_file`: cannot read DIR/pipe: not a regular file"),
        ("keys-folder", "`server.api_keys_file`: cannot read DIR/folder: not a regular file"),
    ];
    for (name, part) in cases {
        let message = message_of(at(name)).replace("DIR/plain/below", "DIR/below");
        assert!(message.contains(part), "{name} said: {}", &message[..message.len().min(2000)]);
        assert!(message.len() < 30 * SHORT, "{name}: {} bytes", message.len());
    }
}
