//! From a client through Engram and the real Portkey gateway to a hosted model, which is a second Engram here, and a
//! scripted server where the provider must fail on cue: what the client sees, whoever answers.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use engram_benches::upstream::{Received, Step, Upstream, answer, event, json as said, stream_end, stream_head};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::server::{Server, free_port};
use crate::support::{QWEN, SMOLLM2};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// What the scripted provider says before its stream breaks, a chunk each.
const BEGINNING: [&str; 4] = ["Two plus", " two", " is", " four"];

/// Models of the scripted provider.
const FAULTS: [&str; 10] = [
    "bad-key",
    "timeout",
    "busy-a-second",
    "busy-a-minute",
    "flaky",
    "broken",
    "reset",
    "cut",
    "cut-at-once",
    "untold",
];

/// What came back, whole or as a stream.
struct Answer {
    status: u16,
    headers: HeaderMap,
    /// The body, or the events of a stream without `[DONE]`.
    events: Vec<Value>,
    done: bool,
    took: Duration,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `engram` member, which is in the body or in the first event.
    fn engram(&self) -> &Value {
        &self.events[0]["engram"]
    }

    fn text(&self) -> String {
        text(&self.events)
    }

    fn error(&self) -> &Value {
        &self.events.last().expect("an event")["error"]
    }

    /// Codes of the attempts that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self.engram()["failed"].as_array().map_or(&[][..], Vec::as_slice);
        failed.iter().filter_map(|attempt| attempt["code"].as_str()).collect()
    }

    /// It is a whole answer, however it came.
    fn check_whole(&self) -> &Self {
        assert_eq!(self.status, 200, "{:?}", self.events);
        let finished = self.events.iter().any(|event| event["choices"][0]["finish_reason"].is_string());
        assert!(finished && self.error().is_null(), "{:?}", self.events);
        assert_eq!(self.done, self.header("content-type").starts_with("text/event-stream"), "{:?}", self.events);
        self
    }
}

fn text(events: &[Value]) -> String {
    let choices = events.iter().map(|event| &event["choices"][0]);
    let pieces = choices.filter_map(|choice| {
        let message = choice["message"]["content"].as_str().or_else(|| choice["delta"]["content"].as_str());
        message.or_else(|| choice["text"].as_str())
    });
    pieces.collect()
}

fn with(mut body: Value, changes: Value) -> Value {
    let (Some(members), Value::Object(changes)) = (body.as_object_mut(), changes) else { panic!("two objects") };
    members.extend(changes);
    body
}

fn chat(changes: Value) -> Value {
    let messages = json!([{"role": "user", "content": "Write a Python function that adds two numbers."}]);
    with(json!({"messages": messages, "temperature": 0, "max_tokens": 16}), changes)
}

fn completion(changes: Value) -> Value {
    with(json!({"prompt": "def add(a, b):", "temperature": 0, "max_tokens": 16}), changes)
}

async fn post(url: String, body: Value) -> Answer {
    let begun = Instant::now();
    let request = reqwest::Client::new().post(url).header("x-request-id", "the-clients-own").json(&body);
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("an unbroken body");
    let took = begun.elapsed();
    let read = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    if status != 200 || body["stream"] != true {
        return Answer { status, headers, events: vec![read(&text)], done: false, took };
    }
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let done = data.last() == Some(&"[DONE]");
    let events = data.iter().filter(|data| **data != "[DONE]").map(|data| read(data)).collect();
    Answer { status, headers, events, done, took }
}

/// What the provider does, by the model that is asked for and how often it was before.
fn provider(model: &str, before: u32, path: &str) -> Vec<Step> {
    let error = r#"{"error": {"message": "said so", "type": "t", "code": "c"}}"#;
    let busy = |wait: &str| answer("429 Too Many Requests", &["content-type: application/json", wait], error);
    let good = r#"{"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": "good"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}}"#;
    match (model, before) {
        ("bad-key", _) => vec![said("401 Unauthorized", r#"{"error": {"message": "no such key: a-providers-key"}}"#)],
        ("timeout", _) => vec![said("408 Request Timeout", error)],
        ("busy-a-second", 0) => vec![busy("retry-after: 1")],
        ("busy-a-minute", _) => vec![busy("retry-after: 60")],
        ("flaky", 0) => vec![said("503 Service Unavailable", error)],
        ("broken", _) => vec![said("500 Internal Server Error", error)],
        ("reset", _) => vec![Step::Reset],
        ("cut-at-once", _) => vec![stream_head(), stream_end()],
        // All that came must have gone on before the end does.
        ("cut", _) => [beginning(path), vec![Step::Pause(Duration::from_millis(100)), Step::Close]].concat(),
        ("untold", _) => {
            let end = json!({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}]});
            [beginning(path), vec![event(&end.to_string()), event("[DONE]"), stream_end()]].concat()
        }
        _ => vec![said("200 OK", good)],
    }
}

/// The beginning of a stream.
fn beginning(path: &str) -> Vec<Step> {
    let chunk = |piece| {
        let choice = match path.ends_with("chat/completions") {
            true => json!({"index": 0, "delta": {"content": piece}, "finish_reason": null}),
            false => json!({"index": 0, "text": piece, "finish_reason": null}),
        };
        event(&json!({"id": "a", "object": "o", "model": "m", "choices": [choice]}).to_string())
    };
    std::iter::once(stream_head()).chain(BEGINNING.into_iter().map(chunk)).collect()
}

/// A front Engram with a model of its own, the gateway behind it, and who is behind that.
struct Stage {
    front: Server,
    hosted: Server,
    gateway: Gateway,
    provider: Upstream,
}

impl Stage {
    async fn set() -> Self {
        let times = Mutex::new(HashMap::<String, u32>::new());
        let provider = Upstream::start(move |request: &Received| {
            let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let model = body["model"].as_str().unwrap_or_default();
            let mut times = times.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let before = times.entry(model.to_owned()).or_default();
            *before += 1;
            provider(model, *before - 1, &request.path)
        });
        let provider = provider.await.expect("a port");
        let gateway = Gateway::start();
        let hosted = Server::start(QWEN, &[]);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("engram.toml");
        std::fs::write(&file, config(&gateway, &hosted, &provider)).expect("the config file");
        let front = Server::start(SMOLLM2, &["--config", file.to_str().expect("a path")]);
        Self { front, hosted, gateway, provider }
    }

    async fn ask(&self, path: &str, body: Value) -> Answer {
        post(self.front.url(path), body).await
    }

    /// How often the provider has been asked.
    fn asked(&self) -> u64 {
        self.provider.counts.requests.load(std::sync::atomic::Ordering::SeqCst)
    }
}

fn config(gateway: &Gateway, hosted: &Server, provider: &Upstream) -> String {
    let backend = |name: &str, url: &str, more: &str| {
        format!(
            "[backends.{name}]\nkind = \"portkey\"\nurl = \"{url}\"\napi_key = \"a-providers-key\"\n\
             health_interval_s = 0\nbreaker_failures = 1000\nbreaker_error_percent = 100\n{more}\n"
        )
    };
    let behind = |host: &str| format!("portkey_provider = \"openai\"\nportkey_custom_host = \"{host}\"");
    let target = |port: String| json!({"provider": "openai", "api_key": "k", "custom_host": port});
    let refuses = format!("http://127.0.0.1:{}/v1", free_port());
    let pair =
        json!({"strategy": {"mode": "fallback"}, "targets": [target(refuses.clone()), target(hosted.url("/v1"))]});
    let mut text = String::from(
        "[routing]\ncache = false\nretry_base_ms = 10\nretry_budget_percent = 100\n\
         [routes.hosted_first]\nmodels = [\"gone\", \"adder\"]\nlocal = \"last\"\n",
    );
    text += &backend("gate", &gateway.url(), &behind(&hosted.url("/v1")));
    text += &backend("pair", &gateway.url(), &format!("portkey_config = '{pair}'"));
    text += &backend("faulty", &gateway.url(), &behind(&provider.url()));
    text += &backend("gone", &refuses, &behind(&hosted.url("/v1")));
    text += &format!("[catalog.adder]\nbackends = [\"gate\"]\nupstream = \"{QWEN}\"\ninput = 2.0\noutput = 10.0\n");
    text += &format!("[catalog.paired]\nbackends = [\"pair\"]\nupstream = \"{QWEN}\"\n");
    text += "[catalog.gone]\nbackends = [\"gone\"]\n";
    for model in FAULTS {
        text += &format!("[catalog.{model}]\nbackends = [\"faulty\"]\ninput = 2.0\noutput = 10.0\n");
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosted_model_answers_through_the_gateway() {
    let stage = Stage::set().await;
    for (path, body) in [(CHAT, chat(json!({}))), (COMPLETIONS, completion(json!({})))] {
        let direct = post(stage.hosted.url(path), with(body.clone(), json!({"model": QWEN}))).await;
        let counted = &direct.check_whole().events[0]["usage"];
        let whole = stage.ask(path, with(body.clone(), json!({"model": "adder"}))).await;
        let streamed = json!({"model": "adder", "stream": true, "stream_options": {"include_usage": true}});
        let streamed = stage.ask(path, with(body, streamed)).await;
        for answer in [&whole, &streamed] {
            assert_eq!(answer.check_whole().text(), direct.text(), "{path}");
            let names = ["x-engram-backend", "x-engram-model", "x-engram-attempts", "x-request-id"];
            assert_eq!(names.map(|name| answer.header(name)), ["gate", "adder", "1", "the-clients-own"]);
            let member = answer.engram();
            assert_eq!((&member["backend"], &member["rule"]), (&json!("gate"), &json!("model")), "{member}");
            let upstream = &member["upstream"];
            assert_eq!(upstream["trace_id"], "the-clients-own", "{member}");
            assert_eq!((&upstream["retries"], &upstream["cache_status"]), (&json!(0), &json!("DISABLED")), "{member}");
            assert_eq!((&upstream["model"], &upstream["option_index"]), (&json!(QWEN), &Value::Null), "{member}");
            let last = answer.events.last().expect("an event");
            let usage = &last["usage"];
            for name in ["prompt_tokens", "completion_tokens"] {
                assert_eq!(usage[name], counted[name], "{last}");
            }
            assert_eq!(last["engram"]["estimated"], Value::Null, "{last}");
            let tokens = |name: &str| usage[name].as_f64().expect("a count");
            let dollars = (tokens("prompt_tokens") * 2.0 + tokens("completion_tokens") * 10.0) / 1e6;
            let cost = last["engram"]["cost_usd"].as_f64().expect("a cost");
            assert!((cost - dollars).abs() < 2e-9, "{cost} is not {dollars}");
        }
    }

    // Who does not name the local model goes on to who has it, by the catalog or by the gateway's own list.
    let own = stage.ask(CHAT, chat(json!({"model": SMOLLM2}))).await;
    assert_eq!(own.check_whole().header("x-engram-backend"), "local");
    let listed = stage.ask(CHAT, chat(json!({"model": QWEN}))).await;
    assert_eq!((listed.check_whole().header("x-engram-backend"), listed.header("x-engram-model")), ("gate", QWEN));
    let unknown = stage.ask(CHAT, chat(json!({"model": "adderr"}))).await;
    assert_eq!((unknown.status, &unknown.error()["code"]), (404, &json!("model_not_found")));
    assert!(unknown.error()["message"].as_str().is_some_and(|text| text.contains("did you mean `adder`?")));

    // A tool call, whole and streamed.
    let tool = json!({"type": "function", "function": {"name": "get_weather", "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}});
    let messages = json!([{"role": "system", "content": "You call tools. Answer only with a tool call."},
        {"role": "user", "content": "What is the weather in Paris? Use get_weather."}]);
    let body = chat(json!({"model": "adder", "messages": messages, "tools": [tool], "max_tokens": 80}));
    let whole = stage.ask(CHAT, body.clone()).await;
    let choice = &whole.check_whole().events[0]["choices"][0];
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!((&call["name"], &call["arguments"]), (&json!("get_weather"), &json!(r#"{"city":"Paris"}"#)));
    assert_eq!(choice["finish_reason"], "tool_calls");
    let streamed = stage.ask(CHAT, with(body, json!({"stream": true}))).await;
    let deltas = streamed.check_whole().events.iter().map(|event| &event["choices"][0]["delta"]["tool_calls"][0]);
    let pieces = deltas.filter_map(|call| call["function"]["arguments"].as_str());
    assert_eq!(pieces.collect::<String>(), r#"{"city":"Paris"}"#);

    // The gateway's own fallback: nobody listens at its first target.
    for stream in [false, true] {
        let answer = stage.ask(CHAT, chat(json!({"model": "paired", "stream": stream}))).await;
        assert_eq!(answer.check_whole().header("x-engram-attempts"), "1");
        assert_eq!(answer.engram()["upstream"]["option_index"], 1, "{}", answer.engram());
    }

    // What the hosted Engram refuses is the client's to put right, and nobody else is asked.
    let refused = stage.ask(CHAT, chat(json!({"route": ["adder", SMOLLM2], "stop": [7]}))).await;
    assert_eq!((refused.status, &refused.error()["code"]), (400, &json!("invalid_value")), "{}", refused.error());
    assert!(refused.error()["message"].as_str().is_some_and(|text| text.contains("`gate` refused")));

    // The gateway goes: the next route's model is asked, here at last.
    let Stage { front, hosted, gateway, provider } = stage;
    drop(gateway);
    for stream in [false, true] {
        let answer = post(front.url(CHAT), chat(json!({"route": "hosted_first", "stream": stream}))).await;
        assert_eq!(answer.check_whole().header("x-engram-backend"), "local");
        assert_eq!(answer.header("x-engram-attempts"), "5", "two tries each at two backends, and one here");
        assert!(answer.failed().iter().all(|code| ["refused", "reset"].contains(code)), "{:?}", answer.failed());
    }
    let alone = post(front.url(CHAT), chat(json!({"model": "adder"}))).await;
    assert_eq!((alone.status, &alone.error()["code"]), (502, &json!("backends_failed")), "{}", alone.error());
    drop((hosted, provider));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_behind_the_gateway_are_told_healed_or_passed_by() {
    let stage = Stage::set().await;
    // The provider's failure; what is told of each attempt; how often it is asked; whether it healed by itself.
    let table: [(&str, &[&str], u64, bool); 7] = [
        ("bad-key", &["bad_key"], 1, false),
        ("timeout", &["timeout", "timeout"], 2, false),
        ("busy-a-second", &["rate_limited"], 2, true),
        ("busy-a-minute", &["rate_limited"], 1, false),
        ("flaky", &["server_error"], 2, true),
        ("broken", &["server_error", "server_error"], 2, false),
        ("reset", &["server_error", "server_error"], 2, false),
    ];
    for (model, codes, asked, heals) in table {
        let before = stage.asked();
        let answer = stage.ask(CHAT, chat(json!({"route": [model, SMOLLM2]}))).await;
        assert_eq!(answer.check_whole().failed(), codes, "{model}: {}", answer.engram());
        assert_eq!(stage.asked() - before, asked, "{model}");
        let by = if heals { "faulty" } else { "local" };
        assert_eq!((answer.header("x-engram-backend"), answer.text() == "good"), (by, heals), "{model}");
        let attempts = codes.len() + 1;
        assert_eq!(answer.header("x-engram-attempts"), attempts.to_string(), "{model}");
        // 1000 tokens at 2 dollars a million and 500 at 10; what failed costs nothing.
        let cost = if heals { 0.007 } else { 0.0 };
        assert_eq!(answer.engram()["cost_usd"], json!(cost), "{model}");
        let waited = answer.took >= Duration::from_secs(1);
        assert!(waited || model != "busy-a-second", "came back after {:?}", answer.took);
        if heals {
            continue;
        }
        // As a stream, and with nobody behind it.
        let streamed = stage.ask(CHAT, chat(json!({"route": [model, SMOLLM2], "stream": true}))).await;
        assert_eq!(streamed.check_whole().failed(), codes, "{model}: {}", streamed.engram());
        let alone = stage.ask(CHAT, chat(json!({"model": model, "stream": true}))).await;
        let (status, code) = if model == "busy-a-minute" { (429, "overloaded") } else { (502, "backends_failed") };
        let error = alone.error();
        assert_eq!((alone.status, &error["code"]), (status, &json!(code)), "{model}: {error}");
        let told: Vec<&str> =
            error["attempts"].as_array().into_iter().flatten().filter_map(|one| one["code"].as_str()).collect();
        assert_eq!(told, codes, "{model}: {error}");
        assert!(!error.to_string().contains("a-providers-key"), "{error}");
        assert_eq!(alone.header("retry-after"), if model == "busy-a-minute" { "60" } else { "" }, "{model}");
    }
    // A stream that ends before its first token is no answer yet.
    let answer = stage.ask(CHAT, chat(json!({"route": ["cut-at-once", SMOLLM2], "stream": true}))).await;
    assert_eq!((answer.check_whole().header("x-engram-backend"), answer.failed()), ("local", vec!["cut", "cut"]));

    // Who does not tell its usage has it reckoned, by its chunks.
    let asked = json!({"model": "untold", "stream": true, "stream_options": {"include_usage": true}});
    let answer = stage.ask(CHAT, chat(asked)).await;
    let last = answer.check_whole().events.last().expect("an event");
    assert_eq!(
        (&last["usage"]["completion_tokens"], &last["engram"]["estimated"]),
        (&json!(4), &json!(true)),
        "{last}"
    );

    // One that breaks later is the client's already: it ends as an error, though the gateway ends it well.
    for (path, body) in [(CHAT, chat(json!({}))), (COMPLETIONS, completion(json!({})))] {
        let answer = stage.ask(path, with(body, json!({"route": ["cut", SMOLLM2], "stream": true}))).await;
        assert_eq!((answer.status, answer.text()), (200, BEGINNING.concat()), "{path}");
        assert_eq!((answer.done, &answer.error()["code"]), (false, &json!("backends_failed")), "{}", answer.error());
    }

    // A chat that may go on elsewhere does: here, not at a hosted model that nobody says can go on from a beginning.
    let bound = 16 - BEGINNING.len();
    let wanted = json!({"continue_mid_stream": true, "stream": true, "stream_options": {"include_usage": true}});
    let body = with(chat(json!({"route": ["cut", "adder", SMOLLM2]})), wanted.clone());
    let answer = stage.ask(CHAT, body).await;
    let beginning = json!({"role": "assistant", "content": BEGINNING.concat()});
    let mut rest = chat(json!({"model": SMOLLM2, "continue_final_message": true, "add_generation_prompt": false,
        "max_tokens": bound}));
    rest["messages"].as_array_mut().expect("messages").push(beginning);
    check_seam(&answer, "local", &stage.ask(CHAT, rest).await);

    // A completion goes on anywhere.
    let answer = stage.ask(COMPLETIONS, with(completion(json!({"route": ["cut", "adder"]})), wanted)).await;
    let prompt = format!("def add(a, b):{}", BEGINNING.concat());
    let rest = completion(json!({"model": "adder", "prompt": prompt, "max_tokens": bound}));
    check_seam(&answer, "gate", &stage.ask(COMPLETIONS, rest).await);
}

/// `answer` began at the scripted provider, and went on at `to` as `rest` does.
fn check_seam(answer: &Answer, to: &str, rest: &Answer) {
    assert_eq!(answer.check_whole().text(), BEGINNING.concat() + &rest.check_whole().text());
    assert_eq!(rest.header("x-engram-backend"), to);
    let at = answer.events.iter().position(|event| event["engram"]["seam"].is_object()).expect("a seam");
    assert_eq!(text(&answer.events[..at]), BEGINNING.concat());
    let seam = &answer.events[at]["engram"]["seam"];
    assert_eq!((&seam["from"]["backend"], &seam["to"]["backend"]), (&json!("faulty"), &json!(to)), "{seam}");
    assert_eq!(seam["after_characters"], json!(BEGINNING.concat().chars().count()), "{seam}");
    // Both parts are counted: the first by its chunks, for nobody told its usage.
    let last = answer.events.last().expect("an event");
    let parts = &last["engram"]["parts"];
    assert_eq!((&parts[0]["estimated"], &parts[0]["completion_tokens"]), (&json!(true), &json!(BEGINNING.len())));
    let told = rest.events[0]["usage"]["completion_tokens"].as_u64().expect("a count");
    assert_eq!((&parts[1]["estimated"], &parts[1]["completion_tokens"]), (&json!(false), &json!(told)), "{parts}");
    assert_eq!(last["usage"]["completion_tokens"], json!(told + BEGINNING.len() as u64), "{last}");
}
