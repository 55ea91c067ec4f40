use super::*;
use crate::answer::Endpoint;
use crate::scripted;
use serde_json::{Value, json};

const CONFIG: &str = r#"
[backends.east]
kind = "peer"
url = "http://127.0.0.1:1/v1"
models = ["alphabet", "big"]

[backends.gate]
kind = "portkey"
portkey_provider = "openai"
url = "http://127.0.0.1:2/v1"

[backends.other]
kind = "openai_compatible"
url = "http://127.0.0.1:3/v1"
models = ["big", "small"]

[catalog.big]
context = 1000
backends = ["gate", "other"]
upstream = "vendor/big"

[catalog.dear]
input = 100.0
output = 1000.0
backends = ["gate"]

[routes.speed]
models = ["small", "big"]

[routes.best]
models = ["dear", "big"]
local = "last"

[routes.away]
models = ["big"]
local = "never"

[routes.here]
local = "only"

[routing]
fallback = "away"
tasks = ["completion=speed"]
"#;

fn table(text: &str) -> Table {
    Table::new(scripted::configured(text).routing, None).expect("good backends")
}

fn plan(text: &str, endpoint: Endpoint, body: Value) -> Result<String, String> {
    let (state, _) = scripted::server(&[], |_, _| {});
    let asked = Asked::read(endpoint, body.to_string().as_bytes()).expect("a good body");
    let table = table(text);
    match Plan::new(&asked, &table, state.models(), &Tenant::anonymous()) {
        Ok(plan) => {
            let places = plan.candidates.iter().map(|candidate| format!("{}:{}", candidate.backend(), candidate.model));
            Ok(format!("{} = {}", plan.rule, places.collect::<Vec<_>>().join(" ")))
        }
        Err(error) => Err(format!("{error}")),
    }
}

#[test]
fn a_request_becomes_an_ordered_list() {
    let table = [
        (json!({}), "default = local:alphabet east:alphabet"),
        (json!({"model": "abc"}), "model = local:alphabet east:alphabet east:big gate:big other:big"),
        (json!({"model": "auto"}), "default = local:alphabet east:alphabet"),
        (json!({"model": "BIG"}), "model = east:big gate:big other:big"),
        (json!({"model": "speed"}), "speed = local:alphabet east:alphabet other:small east:big gate:big other:big"),
        (json!({"route": "speed"}), "speed = local:alphabet east:alphabet other:small east:big gate:big other:big"),
        (json!({"route": "best"}), "best = east:alphabet gate:dear east:big gate:big other:big local:alphabet"),
        (json!({"route": "away"}), "away = east:big gate:big other:big"),
        (json!({"route": "here"}), "here = local:alphabet east:alphabet"),
        (json!({"route": "speed", "model": "dear"}), "speed = gate:dear other:small east:big gate:big other:big"),
        (json!({"route": ["small", "alphabet"]}), "list = other:small local:alphabet east:alphabet"),
        (json!({"route": "local_only"}), "local_only = local:alphabet east:alphabet"),
        (json!({"route": "local_only", "model": "big"}), "local_only = east:big"),
        (json!({"route": "hosted_only", "model": "big"}), "hosted_only = gate:big other:big"),
    ];
    for (mut body, expected) in table {
        body["messages"] = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(plan(CONFIG, Endpoint::Chat, body.clone()).as_deref(), Ok(expected), "{body}");
    }
    let completion = plan(CONFIG, Endpoint::Completions, json!({"prompt": "x"}));
    assert_eq!(
        completion.as_deref(),
        Ok("speed = local:alphabet east:alphabet other:small east:big gate:big other:big")
    );
}

#[test]
fn what_nobody_has_is_said_with_its_neighbour() {
    let table = [
        (json!({"model": "bigg", "route": "hosted_only"}), "model_not_found", "did you mean `big`?"),
        (json!({"model": "alphabet", "route": "hosted_only"}), "model_not_found", "under the rule `hosted_only`"),
        (json!({"route": "spede"}), "invalid_value", "did you mean `speed`?"),
        (json!({"route": "hosted_only"}), "model_not_found", "no backend has the model"),
    ];
    for (mut body, code, text) in table {
        body["messages"] = json!([]);
        let error = plan(CONFIG, Endpoint::Chat, body.clone()).expect_err("nobody");
        assert!(error.starts_with(code) && error.contains(text), "{body}: {error}");
    }
    // Alone, the engine's own words are the best.
    let error = plan("", Endpoint::Chat, json!({"model": "alphabeth", "messages": []})).expect_err("unknown");
    assert!(error.contains("did you mean `alphabet`?"), "{error}");
}

#[test]
fn a_context_that_is_too_small_is_not_asked() {
    let long = "x".repeat(8000);
    let body = json!({"model": "big", "route": "hosted_only", "messages": [{"role": "user", "content": long}]});
    let error = plan(CONFIG, Endpoint::Chat, body).expect_err("too long");
    assert!(error.starts_with("context_length_exceeded") && error.contains("1000 tokens"), "{error}");
}
