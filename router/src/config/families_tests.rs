//! Tables with free names: layers, provenance, names, checks across tables, the shipped example.

use std::fs;

use super::tests::{env, resolve_text, write};
use super::*;

const BACKEND: &str = "[backends.b]\nkind = \"openai_compatible\"\nurl = \"http://127.0.0.1:1/v1\"\n";

fn with_backend(text: &str) -> String {
    format!("{BACKEND}{text}")
}

fn entry<'a>(resolved: &'a Resolved, family: &str, name: &str, key: &str) -> &'a Entry {
    let table = resolved.tables.iter().find(|table| table.family.name == family && table.name == name).unwrap();
    table.entries.iter().find(|entry| entry.key.name == key).unwrap()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = resolve_text(&with_backend("[catalog.m]\n[routes.r]\n[flags.f]\n"), &[]).unwrap().config;
    let backend = &config.routing.backends[0];
    assert_eq!(backend.kind, BackendKind::OpenAiCompatible);
    assert_eq!((backend.name.as_str(), backend.url.as_str()), ("b", "http://127.0.0.1:1/v1"));
    assert!(backend.api_key.is_none() && backend.models.is_empty() && backend.headers.is_empty());
    let seconds = [
        backend.connect_timeout,
        backend.first_token_timeout,
        backend.idle_timeout,
        backend.timeout,
        backend.health_interval.unwrap(),
        backend.breaker.window,
        backend.breaker.open,
    ];
    assert_eq!(seconds.map(|time| time.as_secs()), [2, 60, 30, 600, 5, 30, 10]);
    assert_eq!((backend.max_in_flight, backend.tries), (256, 2));
    assert_eq!((backend.breaker.failures, backend.breaker.error_percent, backend.breaker.slow_call), (5, 50, None));
    let model = &config.routing.catalog[0];
    assert_eq!((model.upstream.as_str(), model.price, model.context, model.continues), ("m", None, None, false));
    let route = &config.routing.routes[0];
    assert_eq!((route.local, route.semantic_cache, route.models.len()), (LocalUse::First, None, 0));
    let flag = &config.flags[0];
    assert_eq!((flag.enabled, flag.percent, flag.tenants.len()), (true, 100.0, 0));
    let routing = &config.routing;
    assert_eq!((routing.default.as_str(), routing.tasks.len()), ("auto", 0));
    assert_eq!((routing.max_cost_usd, routing.key_day_usd, routing.key_month_usd), (Some(0.05), None, None));
    assert_eq!((routing.retry_base, routing.retry_cap), (Duration::from_millis(100), Duration::from_secs(5)));
    assert_eq!((routing.retry_budget_percent, routing.cache, routing.semantic_cache), (20, true, false));
    assert_eq!((routing.cache_ttl, routing.cache_bytes), (Duration::from_secs(300), 64 << 20));
    assert!((routing.semantic_threshold - 0.95).abs() < 1e-6 && !routing.continue_mid_stream);
    assert_eq!((&config.tls, &config.admin, &config.trace), (&None, &AdminConfig::default(), &None));
}

#[test]
fn layers_override_single_keys_and_remember_who_said_what() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "base.toml", &with_backend("timeout_s = 7\ntries = 1\n"));
    let main = write(dir.path(), "main.toml", "include = \"base.toml\"\n[backends.b]\ntries = 3\nurl = \"${U}\"\n");
    let env = env(&[("U", "https://x.test/v1/"), ("ENGRAM_BACKENDS_B_IDLE_TIMEOUT_S", "9")]);
    let resolved = resolve(&Sources { files: vec![main.clone()], env, flags: Vec::new() }).unwrap();
    let backend = &resolved.config.routing.backends[0];
    assert_eq!((backend.tries, backend.url.as_str()), (3, "https://x.test/v1"));
    assert_eq!((backend.timeout.as_secs(), backend.idle_timeout.as_secs()), (7, 9));
    let from = |key: &str| entry(&resolved, "backends", "b", key).origin.clone();
    assert_eq!(from("tries"), Origin::File { path: main, line: 3 });
    assert_eq!(from("timeout_s"), Origin::File { path: dir.path().join("base.toml"), line: 4 });
    assert_eq!(from("idle_timeout_s"), Origin::Env("ENGRAM_BACKENDS_B_IDLE_TIMEOUT_S".into()));
    assert_eq!(from("max_in_flight"), Origin::Default);
}

#[test]
fn the_environment_reaches_tables_and_its_slips_are_told() {
    let text = with_backend("[catalog.\"gpt-4.1\"]\n[flags.a-b]\n[flags.a_b]\n");
    let context =
        |pairs: &[(&str, &str)]| Ok::<_, ConfigErrors>(resolve_text(&text, pairs)?.config.routing.catalog[0].context);
    assert_eq!(context(&[("ENGRAM_CATALOG_GPT_4_1_CONTEXT", "4096")]).unwrap(), Some(4096));
    assert_eq!(context(&[("ENGRAM_CATALOG_GPT_4_1_CONTEXT", "")]).unwrap(), None);
    for (name, part) in [
        ("ENGRAM_BACKENDS_B_TRISE", "did you mean `ENGRAM_BACKENDS_B_TRIES`?"),
        ("ENGRAM_BACKENDS_NOBODY_URL", "$ENGRAM_BACKENDS_NOBODY_URL: no such setting"),
        ("ENGRAM_CATALOG_GPT_4_1_CONTEXT", "`catalog.\"gpt-4.1\".context`: \"7\" is not a whole number"),
        ("ENGRAM_FLAGS_A_B_PERCENT", "and `flags.a-b.percent` are both set by this variable; rename one"),
    ] {
        let message = context(&[(name, "7")]).unwrap_err().to_string();
        assert!(message.contains(part), "{name}: {message}");
    }
}

#[test]
fn what_show_prints_resolves_to_the_same_values() {
    let text = with_backend(
        "headers = [\"x-team: a,b\", \"x-b: c\"]\nmodels = [\"gpt-4o\"]\napi_key = \"sk-hidden\"\n\
         [catalog.\"openai/gpt-4.1\"]\ninput = 2.5\noutput = 10\nbackends = [\"b\", \"local\"]\n\
         [routes.speed]\nmodels = [\"openai/gpt-4.1\", \"gpt-4o\"]\nlocal = \"never\"\n[flags.x]\npercent = 12.5\n",
    );
    let resolved = resolve_text(&text, &[]).unwrap();
    let shown = show_text(&resolved);
    assert!(shown.contains("[catalog.\"openai/gpt-4.1\"]") && shown.contains("x-team: ***"), "{shown}");
    let again = resolve_text(&shown, &[]).unwrap();
    assert_eq!(resolved.tables.len(), again.tables.len());
    for (before, after) in resolved.tables.iter().zip(&again.tables) {
        assert_eq!(before.path(), after.path());
        let secret = |entry: &&Entry| !matches!(entry.value, Value::Secret(_) | Value::Headers(_));
        for (before, after) in before.entries.iter().zip(&after.entries).filter(|(before, _)| secret(before)) {
            assert_eq!(before.value, after.value, "{}", before.key.name);
        }
    }
    let json = show_json(&resolved);
    assert_eq!(json["catalog.\"openai/gpt-4.1\".input"]["value"], 2.5);
    assert_eq!(json["backends.b.url"]["line"], 3);
    assert_eq!(json["flags.x.enabled"]["from"], "default");
    assert_eq!(json["backends.b.api_key"]["value"], "***");
}

#[test]
fn routes_are_flat_and_name_each_model_once() {
    let text = "[catalog.a]\n[catalog.b]\n[catalog.c]\n\
                [routes.one]\nmodels = [\"a\", \"route:two\", \"c\"]\n\
                [routes.two]\nmodels = [\"b\", \"a\", \"route:three\", \"route:three\"]\nlocal = \"last\"\n\
                [routes.three]\nmodels = [\"c\"]\nsemantic_cache = true\n";
    let routes = resolve_text(text, &[]).unwrap().config.routing.routes;
    let models = |name: &str| routes.iter().find(|route| route.name == name).unwrap().models.join(" ");
    assert_eq!((models("one"), models("two"), models("three")), ("a b c".into(), "b a c".into(), "c".into()));
    assert_eq!((routes[1].local, routes[2].semantic_cache), (LocalUse::Last, Some(true)));
    // Each route names the next twice: 2^40 visits without a bound.
    let mut doubling = "[catalog.m]\n[routes.r40]\nmodels = [\"m\"]\n".to_owned();
    for level in 0..40 {
        let next = level + 1;
        doubling.push_str(&format!("[routes.r{level}]\nmodels = [\"route:r{next}\", \"route:r{next}\"]\n"));
    }
    let routes = resolve_text(&doubling, &[]).unwrap().config.routing.routes;
    assert!(routes.iter().all(|route| route.models == ["m"]));
}

#[test]
fn portkeys_values_are_what_a_header_can_carry() {
    let text = "[backends.p]\nkind = \"portkey\"\nurl = \"https://api.portkey.ai/v1\"\nportkey_retries = 0\n\
                portkey_cache = \"semantic\"\nportkey_config = '''{\n \"retry\": {\"attempts\": 2}, \"n\": \"é😀\"\n}'''\n\
                portkey_metadata = '{ \"team\" : \"a\" }'\nportkey_provider = \"@openai\"\n";
    let config = resolve_text(text, &[]).unwrap().config;
    let BackendKind::Portkey(portkey) = &config.routing.backends[0].kind else { panic!("not Portkey") };
    let sent = portkey.config.as_ref().unwrap().expose();
    assert_eq!(sent, r#"{"retry":{"attempts":2},"n":"\u00e9\ud83d\ude00"}"#);
    let value: serde_json::Value = serde_json::from_str(sent).unwrap();
    assert_eq!(value["n"], "é😀");
    assert_eq!(portkey.metadata.as_deref(), Some(r#"{"team":"a"}"#));
    assert_eq!((portkey.retries, portkey.cache), (Some(0), PortkeyCache::Semantic));
    assert_eq!(portkey.provider.as_deref(), Some("@openai"));
}

#[test]
fn secrets_may_lie_in_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "key", "sk-from-file\n");
    write(dir.path(), "headers", "# ours\nx-a: hidden-1\nx-b: hidden-2\n");
    write(dir.path(), "empty", " \n");
    let resolve = |text: &str, pairs: &[(&str, &str)]| {
        let path = write(dir.path(), "engram.toml", &with_backend(text));
        super::resolve(&Sources { files: vec![path], env: env(pairs), flags: Vec::new() })
    };
    let resolved = resolve("api_key_file = \"key\"\nheaders_file = \"headers\"\n", &[]).unwrap();
    let backend = &resolved.config.routing.backends[0];
    assert_eq!(backend.api_key.as_ref().unwrap().expose(), "sk-from-file");
    assert_eq!(backend.headers[1].1.expose(), "hidden-2");
    for shown in [show_text(&resolved), show_json(&resolved).to_string(), format!("{resolved:?}")] {
        assert!(!shown.contains("sk-from") && !shown.contains("hidden"), "{shown}");
    }
    // A variable that names a file, over a key in the file; and the other way round.
    let key = dir.path().join("key").display().to_string();
    let config = resolve("api_key = \"sk-in-toml\"\n", &[("ENGRAM_BACKENDS_B_API_KEY_FILE", &key)]).unwrap().config;
    assert_eq!(config.routing.backends[0].api_key.as_ref().unwrap().expose(), "sk-from-file");
    let config = resolve("api_key_file = \"key\"\n", &[("ENGRAM_BACKENDS_B_API_KEY", "sk-variable")]).unwrap().config;
    assert_eq!(config.routing.backends[0].api_key.as_ref().unwrap().expose(), "sk-variable");
    let config = resolve("", &[("ENGRAM_MEMORY_REDIS_URL_FILE", &key)]).unwrap().config;
    assert_eq!(config.memory.redis_url.as_ref().unwrap().expose(), "sk-from-file");
    let config = resolve("", &[("ENGRAM_API_KEYS_FILE", &key)]).unwrap().config;
    assert_eq!(config.server.api_keys[0].expose(), "sk-from-file");
    for (text, part) in [
        ("api_key = \"sk-x\"\napi_key_file = \"key\"\n", "`backends.b.api_key_file`: and `api_key` ("),
        ("api_key_file = \"nowhere\"\n", "`backends.b.api_key_file`: cannot read"),
        ("api_key_file = \"empty\"\n", "holds nothing; write the value into it"),
        ("api_key_file = \".\"\n", "not a regular file"),
    ] {
        let message = resolve(text, &[]).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains("sk-"), "{message}");
    }
}

#[test]
fn every_secret_may_lie_in_a_file() {
    let all = keys::KEYS.iter().map(|key| (key, keys::KEYS));
    let families = families::FAMILIES.iter().flat_map(|family| family.keys.iter().map(|key| (key, family.keys)));
    for (key, table) in all.chain(families) {
        if matches!(key.kind, value::Kind::Secret | value::Kind::Secrets | value::Kind::Headers) {
            let file = table.iter().find(|other| other.name == format!("{}_file", key.name));
            assert!(file.is_some_and(|file| file.kind == value::Kind::Path), "{} has no file beside it", key.name);
        }
        if !key.default.is_empty() {
            assert_ne!(key.default_value(), Value::Unset, "default of {}", key.name);
        }
    }
}

#[test]
fn the_shipped_example_loads_and_holds_the_designs_table() {
    let text = include_str!("../../../deploy/engram.example.toml");
    let resolved = resolve_text(text, &[("PORTKEY_API_KEY", "pk-test")]).unwrap();
    assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
    let routing = &resolved.config.routing;
    let models = |name: &str| routing.route(name).unwrap().models.join(", ");
    assert_eq!(models("speed"), "deepseek-v3, gpt-4o");
    assert_eq!(models("quality"), "claude-3-5-sonnet, gpt-4o");
    assert_eq!(models("cost"), "deepseek-v3, mixtral");
    for model in &routing.catalog {
        let price = model.price.unwrap();
        assert!(price.cached <= price.input && price.input <= price.output && model.context.is_some(), "{model:?}");
        assert!(routing.backend("portkey").unwrap().models.contains(&model.name), "{model:?}");
    }
    assert_eq!(routing.model("gpt-4o").unwrap().price, Some(ModelPrice { input: 2.5, cached: 1.25, output: 10.0 }));
    assert_eq!(routing.tasks, [("chat".into(), "quality".into()), ("completion".into(), "speed".into())]);
    assert_eq!(routing.max_cost_usd, Some(0.05));
    // The commented parts are right too.
    let dir = tempfile::tempdir().unwrap();
    let uncommented: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) =>
            {
                rest.to_owned()
            }
            _ => line.to_owned(),
        })
        .collect();
    let text = uncommented.join("\n").replace("/run/secrets/node-2", "node-2");
    fs::write(dir.path().join("node-2"), "sk-node\n").unwrap();
    let path = write(dir.path(), "engram.toml", &text);
    let config = resolve(&Sources { files: vec![path], env: env(&[]), flags: Vec::new() }).unwrap().config;
    assert_eq!((config.routing.backends.len(), config.flags.len()), (2, 1));
}
