//! Who answers when somebody does not: the real engine over a scripted model, and scripted servers beside it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use engram_benches::upstream::{self, Received, Step, Upstream};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::{AppState, router};
use crate::scripted::{Knobs, routed, slow};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A whole answer of another server, in OpenAI's form.
fn whole(text: &str) -> Vec<Step> {
    let body = json!({
        "id": "up-1", "object": "chat.completion", "created": 1, "model": "vendor/big",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
    });
    vec![upstream::json("200 OK", &body.to_string())]
}

/// The same as a stream, a letter a chunk.
fn stream(text: &str) -> Vec<Step> {
    let chunk = |delta: Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "text": delta["content"], "finish_reason": finish});
        upstream::event(&json!({"id": "up-1", "model": "vendor/big", "choices": [choice]}).to_string())
    };
    let mut steps = vec![upstream::stream_head(), chunk(json!({"role": "assistant", "content": ""}), None)];
    steps.extend(text.chars().map(|letter| chunk(json!({"content": letter.to_string()}), None)));
    steps.push(chunk(json!({}), Some("stop")));
    let usage = json!({"id": "up-1", "model": "vendor/big", "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}});
    steps.extend([upstream::event(&usage.to_string()), upstream::event("[DONE]"), upstream::stream_end()]);
    steps
}

/// Either, as the request wants it.
fn either(request: &Received, text: &str) -> Vec<Step> {
    if asks_for_a_stream(request) { stream(text) } else { whole(text) }
}

fn asks_for_a_stream(request: &Received) -> bool {
    body_of(request)["stream"] == true
}

fn body_of(request: &Received) -> Value {
    serde_json::from_slice(&request.body).unwrap_or(Value::Null)
}

/// A server with the model `alphabet` and a hosted model `big` at `url`.
/// With `# cached` in `more` answers are kept.
fn with_hosted(url: &str, more: &str) -> (AppState, Arc<Knobs>) {
    routed(&hosted(url, more))
}

fn hosted(url: &str, more: &str) -> String {
    format!(
        r#"
[backends.host]
kind = "openai_compatible"
url = "{url}"
tries = 2
breaker_failures = 3
health_interval_s = 0

[catalog.big]
input = 2.0
output = 10.0
backends = ["host"]
upstream = "vendor/big"
continues = true

[routes.any]
models = ["big"]

[routing]
retry_base_ms = 1
retry_cap_ms = 2000
fallback = "any"
cache = {cache}
{more}
"#,
        // Most of these tests ask the same thing twice and mean two answers.
        cache = more.contains("cached"),
    )
}

async fn send(state: &AppState, path: &str, body: &Value) -> (StatusCode, HeaderMap, String) {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let (head, body) = router(state.clone()).oneshot(request).await.expect("infallible").into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 24).await.expect("a body");
    (head.status, head.headers, String::from_utf8(bytes.to_vec()).expect("text"))
}

async fn post(state: &AppState, body: Value) -> (StatusCode, HeaderMap, Value) {
    let (status, headers, text) = send(state, CHAT, &body).await;
    (status, headers, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// The events of a stream: JSON, or `"[DONE]"`.
async fn events(state: &AppState, path: &str, mut body: Value) -> Vec<Value> {
    body["stream"] = true.into();
    let (status, _, text) = send(state, path, &body).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let data = text.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn text_of(events: &[Value]) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    choices.filter_map(|choice| choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str())).collect()
}

#[tokio::test]
async fn a_hosted_model_answers_whole_and_as_a_stream() {
    let up = Upstream::start(|request| either(request, "hosted")).await.expect("a server");
    let (state, _) = with_hosted(&up.url(), "");
    let (status, headers, value) = post(&state, chat(json!({"model": "big", "max_tokens": 100}))).await;
    assert_eq!((status, &value["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("hosted")), "{value}");
    // 1000 tokens at 2 dollars a million and 500 at 10.
    assert_eq!(value["engram"]["cost_usd"], json!(0.007));
    assert_eq!(
        (headers["x-engram-backend"].as_bytes(), headers["x-engram-model"].as_bytes()),
        (&b"host"[..], &b"big"[..])
    );
    assert_eq!(headers["x-engram-cost-usd"], "0.007000000");

    let quiet = events(&state, CHAT, chat(json!({"model": "big"}))).await;
    assert_eq!(text_of(&quiet), "hosted");
    assert!(quiet.iter().all(|event| event["usage"].is_null()), "nobody asked for it: {quiet:?}");
    assert_eq!(quiet[0]["engram"]["backend"], "host");
    assert_eq!(quiet.last(), Some(&json!("[DONE]")));

    let asked = json!({"model": "big", "stream_options": {"include_usage": true}});
    let counted = events(&state, CHAT, chat(asked)).await;
    let usage = &counted[counted.len() - 2];
    assert_eq!((&usage["usage"]["completion_tokens"], &usage["engram"]["cost_usd"]), (&json!(500), &json!(0.007)));
}

#[tokio::test]
async fn the_request_goes_on_as_it_came_but_for_what_is_ours() {
    let up = Upstream::start(|request| {
        let body = body_of(request);
        let good = body["model"] == "vendor/big"
            && body["reasoning_effort"] == "low"
            && body["tools"][0]["function"]["name"] == "f"
            && ["route", "max_cost", "memory", "timeout"].iter().all(|name| body.get(*name).is_none())
            && request.header("authorization").is_none();
        whole(if good { "as it came" } else { "changed" })
    })
    .await
    .expect("a server");
    let (state, _) = with_hosted(&up.url(), "");
    let body = chat(json!({
        "model": "big", "reasoning_effort": "low", "route": "any", "max_cost": 1, "timeout": 5,
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required",
    }));
    let (_, _, value) = post(&state, body).await;
    assert_eq!(value["choices"][0]["message"]["content"], "as it came", "{value}");
}

#[tokio::test]
async fn what_the_engine_cannot_do_the_next_one_does() {
    let up = Upstream::start(|request| either(request, "instead")).await.expect("a server");
    let (state, knobs) = with_hosted(&up.url(), "");
    // The third: steps until the engine fails. A whole answer that breaks in its midst is one that nobody has seen.
    let cases: [(&str, Value, i64); 4] = [
        ("model_failure", json!({"model": "alphabet"}), 0),
        ("model_failure", json!({"model": "alphabet"}), 3),
        ("unsupported_parameter", json!({"model": "alphabet", "response_format": {"type": "json_object"}}), -1),
        ("context_length_exceeded", json!({"model": "alphabet", "max_tokens": 100_000, "max_cost": 5}), -1),
    ];
    for (code, extra, fail_in) in cases {
        knobs.fail_in.store(fail_in, Ordering::SeqCst);
        let (status, headers, value) = post(&state, chat(extra)).await;
        assert_eq!(status, StatusCode::OK, "{value}");
        assert_eq!(value["choices"][0]["message"]["content"], "instead", "{code}: {value}");
        assert_eq!(value["engram"]["failed"][0]["code"], code, "{value}");
        assert_eq!(headers["x-engram-attempts"], "2");
    }
    // What is wrong with the request is wrong everywhere.
    let (status, _, value) = post(&state, chat(json!({"model": "alphabet", "top_p": 7}))).await;
    assert_eq!((status.as_u16(), &value["error"]["code"]), (400, &json!("invalid_value")), "{value}");
}

#[tokio::test]
async fn only_what_may_heal_is_tried_again() {
    let up = Upstream::start(|request| match request.before {
        0 => vec![upstream::json("503 Service Unavailable", r#"{"error": {"message": "warming up"}}"#)],
        1 => whole("healed"),
        2 => vec![upstream::json("400 Bad Request", r#"{"error": {"message": "no such voice"}}"#)],
        _ => vec![upstream::json("401 Unauthorized", r#"{"error": {"message": "bad key"}}"#)],
    })
    .await
    .expect("a server");
    let (state, _) = with_hosted(&up.url(), "");
    let big = || chat(json!({"model": "big"}));
    let (_, _, value) = post(&state, big()).await;
    assert_eq!(value["choices"][0]["message"]["content"], "healed");
    assert_eq!((&value["engram"]["attempts"], &value["engram"]["failed"][0]["status"]), (&json!(2), &json!(503)));

    let (status, _, value) = post(&state, big()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{value}");
    assert!(value["error"]["message"].as_str().is_some_and(|text| text.contains("no such voice")), "{value}");
    assert_eq!(up.counts.requests.load(Ordering::SeqCst), 3);

    let (status, _, value) = post(&state, big()).await;
    assert_eq!((status, &value["error"]["code"]), (StatusCode::BAD_GATEWAY, &json!("backends_failed")), "{value}");
    assert_eq!(up.counts.requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_backend_that_fails_is_left_alone_until_it_is_reset() {
    let up = Upstream::start(|_| vec![Step::Reset]).await.expect("a server");
    let (state, _) = with_hosted(&up.url(), "");
    let big = || chat(json!({"model": "big", "route": "hosted_only"}));
    let mut last = Value::Null;
    for _ in 0..4 {
        (_, _, last) = post(&state, big()).await;
    }
    assert!(last["error"]["message"].as_str().is_some_and(|text| text.contains("circuit breaker open")), "{last}");
    assert_eq!(last["error"]["attempts"][0]["backend"], "host", "{last}");
    let before = up.counts.requests.load(Ordering::SeqCst);
    let (status, _, _) = post(&state, big()).await;
    assert_eq!((status, up.counts.requests.load(Ordering::SeqCst)), (StatusCode::SERVICE_UNAVAILABLE, before));

    let admin = |path: &'static str, method: &'static str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let state = state.clone();
        async move {
            let body = router(state).oneshot(request).await.expect("infallible").into_body();
            let bytes = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
            serde_json::from_slice::<Value>(&bytes).expect("JSON")
        }
    };
    let backends = admin("/v1/admin/backends", "GET").await;
    let host = backends["backends"].as_array().and_then(|all| all.iter().find(|backend| backend["name"] == "host"));
    assert_eq!(host.expect("listed")["breaker"]["state"], "open", "{backends}");
    let reset = admin("/v1/admin/backends/host/reset", "POST").await;
    assert_eq!(reset["breaker"]["state"], "closed", "{reset}");
    post(&state, big()).await;
    assert!(up.counts.requests.load(Ordering::SeqCst) > before);
}

#[tokio::test]
async fn what_would_cost_too_much_is_not_asked() {
    let up = Upstream::start(|request| either(request, "paid")).await.expect("a server");
    let (state, _) = with_hosted(&up.url(), "key_day_usd = 0.01");
    // About 1000 tokens at 10 dollars a million.
    let (status, _, value) = post(&state, chat(json!({"model": "big", "max_cost": 0.001}))).await;
    assert_eq!((status, &value["error"]["code"]), (StatusCode::PAYMENT_REQUIRED, &json!("over_budget")), "{value}");
    assert!(value["error"]["message"].as_str().is_some_and(|text| text.contains("0.0010")), "{value}");
    assert_eq!(up.counts.requests.load(Ordering::SeqCst), 0);

    // Each costs 0.007 dollars, whatever was estimated: the second one would go past the key's day.
    let small = || chat(json!({"model": "big", "max_tokens": 400}));
    let (status, _, value) = post(&state, small()).await;
    assert_eq!(status, StatusCode::OK, "{value}");
    let (status, _, value) = post(&state, small()).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED, "{value}");
    // The engine here costs nothing.
    let (status, _, value) = post(&state, chat(json!({"model": "alphabet", "max_tokens": 2}))).await;
    assert_eq!(status, StatusCode::OK, "{value}");
}

#[tokio::test]
async fn a_broken_stream_goes_on_elsewhere_only_where_that_is_wanted() {
    let up = Upstream::start(|request| {
        let body = body_of(request);
        let last = body["messages"].as_array().and_then(|messages| messages.last()).cloned().unwrap_or_default();
        let good = body["prompt"] == "!abc"
            || (last["role"] == "assistant" && last["content"] == "abc" && body["continue_final_message"] == true);
        stream(if good { "+more" } else { "?" })
    })
    .await
    .expect("a server");
    let (state, knobs) = with_hosted(&up.url(), "");
    let cases = [
        (CHAT, json!({"messages": [{"role": "user", "content": "hi"}]})),
        (COMPLETIONS, json!({"prompt": "!", "max_tokens": 50})),
    ];
    for (path, body) in cases {
        let mut wanted = body.clone();
        for (key, value) in [
            ("model", json!("alphabet")),
            ("temperature", json!(0)),
            ("continue_mid_stream", json!(true)),
            ("stream_options", json!({"include_usage": true})),
        ] {
            wanted[key] = value;
        }
        knobs.fail_in.store(3, Ordering::SeqCst);
        let said = events(&state, path, wanted.clone()).await;
        assert_eq!(text_of(&said), "abc+more", "{path} {said:?}");
        let seam = said.iter().find(|event| event["engram"]["seam"].is_object()).expect("a seam");
        assert_eq!(
            (&seam["engram"]["seam"]["from"]["backend"], &seam["engram"]["seam"]["to"]["backend"]),
            (&json!("local"), &json!("host"))
        );
        assert_eq!((&seam["choices"], &seam["engram"]["seam"]["after_characters"]), (&json!([]), &json!(3)));
        let usage = &said[said.len() - 2];
        assert_eq!(usage["engram"]["parts"].as_array().map(Vec::len), Some(2), "{usage}");
        assert_eq!(usage["usage"]["completion_tokens"], 503, "{usage}");
        assert_eq!(said.last(), Some(&json!("[DONE]")));
        let ids: std::collections::HashSet<&str> = said.iter().filter_map(|event| event["id"].as_str()).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");

        wanted["continue_mid_stream"] = json!(false);
        knobs.fail_in.store(3, Ordering::SeqCst);
        let said = events(&state, path, wanted).await;
        assert_eq!(text_of(&said), "abc");
        let last = said.last().expect("an event");
        assert_eq!(last["error"]["code"], "model_failure", "{last}");
    }
}

#[tokio::test]
async fn streams_that_break_off_open_the_breaker_and_good_ones_keep_it_closed() {
    let up = Upstream::start(|request| match body_of(request)["model"].as_str() {
        Some("vendor/big") => {
            let mut steps = stream("half");
            steps.truncate(4);
            steps.push(Step::Close);
            steps
        }
        _ => stream("whole"),
    })
    .await
    .expect("a server");
    let (state, _) = with_hosted(&up.url(), "[catalog.small]\nbackends = [\"host\"]\n");
    let breakers = || {
        let table = state.routing().table();
        let view = table.backends["host"].describe(Instant::now());
        (view["breaker"]["state"].clone(), view["model_breakers"]["big"]["state"].clone())
    };
    for _ in 0..3 {
        let said = events(&state, CHAT, chat(json!({"model": "small"}))).await;
        assert_eq!((text_of(&said).as_str(), said.last()), ("whole", Some(&json!("[DONE]"))));
        assert_eq!(breakers().0, "closed");
        let said = events(&state, CHAT, chat(json!({"model": "big"}))).await;
        assert_eq!(said.last().expect("an event")["error"]["code"], "backends_failed", "{said:?}");
    }
    // Three in a row of that model, but never of the backend.
    assert_eq!(breakers(), (json!("closed"), json!("open")));
    let (status, _, value) = post(&state, chat(json!({"model": "BIG"}))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "another spelling is no way round it: {value}");
}

#[tokio::test]
async fn calls_go_out_in_the_trace_that_the_request_came_in() {
    let up = Upstream::start(|request| whole(request.header("traceparent").unwrap_or("none"))).await.expect("a server");
    let (state, _) = with_hosted(&up.url(), "");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Request::post(CHAT)
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .body(Body::from(chat(json!({"model": "big"})).to_string()))
        .expect("a request");
    let answer = router(state).oneshot(request).await.expect("infallible");
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
    let value: Value = serde_json::from_slice(&bytes).expect("JSON");
    let said = value["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(said.starts_with(&format!("00-{trace}-")) && said.ends_with("-01"), "{said}");
}

#[tokio::test]
async fn an_engine_that_would_be_late_is_not_asked() {
    let up = Upstream::start(|request| either(request, "in time")).await.expect("a server");
    let (state, _) = slow(&hosted(&up.url(), ""), 15);
    post(&state, chat(json!({"model": "alphabet", "max_tokens": 4}))).await;
    let (_, _, value) = post(&state, chat(json!({"model": "alphabet", "ttft_ms": 5}))).await;
    assert_eq!(value["choices"][0]["message"]["content"], "in time", "{value}");
    assert_eq!(value["engram"]["failed"][0]["code"], "deadline_unreachable");

    let begun = Instant::now();
    let late = chat(json!({"model": "alphabet", "ttft_ms": 5, "route": "local_only"}));
    let (status, headers, value) = post(&state, late).await;
    assert_eq!((status.as_u16(), &value["error"]["code"]), (503, &json!("deadline_unreachable")), "{value}");
    assert!(headers.contains_key("retry-after") && begun.elapsed() < Duration::from_secs(5));
    assert_eq!(value["error"]["param"], "ttft_ms");
}

#[tokio::test]
async fn an_answer_may_go_on_from_its_beginning() {
    let (state, _) = routed("");
    let body = json!({
        "model": "alphabet", "temperature": 0, "continue_final_message": true, "add_generation_prompt": false,
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "xy"}],
    });
    let (status, _, value) = post(&state, body).await;
    assert_eq!((status, &value["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("z")), "{value}");
    let (status, _, value) = post(&state, chat(json!({"continue_final_message": true}))).await;
    assert_eq!((status.as_u16(), &value["error"]["param"]), (400, &json!("continue_final_message")), "{value}");
}

#[tokio::test]
async fn servers_that_are_each_others_peers_do_not_pass_requests_round() {
    let up = Upstream::start(|request| {
        let hops = request.header("x-engram-hops").unwrap_or("none").to_owned();
        whole(&hops)
    })
    .await
    .expect("a server");
    let (state, _) = routed(&format!(
        "[routing]\ncache = false\n[backends.peer]\nkind = \"peer\"\nurl = \"{}\"\nmodels = [\"far\"]\nhealth_interval_s = 0\n",
        up.url()
    ));
    let (_, _, value) = post(&state, chat(json!({"model": "far"}))).await;
    assert_eq!(value["choices"][0]["message"]["content"], "1", "{value}");
    let request = Request::post(CHAT)
        .header("content-type", "application/json")
        .header("x-engram-hops", "3")
        .body(Body::from(chat(json!({"model": "far"})).to_string()))
        .expect("a request");
    let answer = router(state.clone()).oneshot(request).await.expect("infallible");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(up.counts.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn equal_requests_are_answered_once() {
    let up = Upstream::start(|request| match request.before {
        0 => vec![Step::Reset],
        _ => either(request, "kept"),
    })
    .await
    .expect("a server");
    let (state, _) = with_hosted(&up.url(), "# cached");
    let asked = || up.counts.requests.load(Ordering::SeqCst);
    let big = |extra: Value| {
        let mut body = chat(json!({"model": "big"}));
        for (key, value) in extra.as_object().expect("an object") {
            body[key] = value.clone();
        }
        body
    };
    // The first call is reset and tried again: what failed is not kept, what came of it is.
    let (_, headers, first) = post(&state, big(json!({}))).await;
    assert_eq!((headers["x-engram-cache"].as_bytes(), asked()), (&b"miss"[..], 2), "{first}");
    let (_, headers, again) = post(&state, big(json!({"user": "somebody else", "timeout": 9}))).await;
    assert_eq!((headers["x-engram-cache"].as_bytes(), asked()), (&b"hit"[..], 2), "{again}");
    assert_eq!(
        (&headers["x-engram-attempts"], &again["engram"]["attempts"]),
        (&"0".parse().expect("a value"), &json!(0))
    );
    assert_eq!((&again["choices"], &again["engram"]["cost_usd"]), (&first["choices"], &json!(0.0)));
    let streamed = events(&state, CHAT, big(json!({"stream_options": {"include_usage": true}}))).await;
    assert_eq!((text_of(&streamed).as_str(), asked()), ("kept", 2), "{streamed:?}");
    assert_eq!(streamed[streamed.len() - 2]["usage"]["completion_tokens"], 500);
    assert_eq!(streamed.last(), Some(&json!("[DONE]")));
    for different in
        [json!({"cache": false}), json!({"max_tokens": 9}), json!({"temperature": 0.5}), json!({"seed": 1})]
    {
        let before = asked();
        post(&state, big(different.clone())).await;
        assert_eq!(asked(), before + 1, "{different}");
    }
}

#[tokio::test]
async fn equal_requests_in_flight_are_one_call() {
    let up = Upstream::start(|request| {
        let mut steps = vec![Step::Pause(Duration::from_millis(300))];
        steps.extend(either(request, "shared"));
        steps
    })
    .await
    .expect("a server");
    let (state, _) = with_hosted(&up.url(), "# cached");
    let one = || post(&state, chat(json!({"model": "big"})));
    let (a, b, c) = tokio::join!(one(), one(), one());
    for (status, _, value) in [&a, &b, &c] {
        assert_eq!((*status, &value["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("shared")));
    }
    assert_eq!(up.counts.requests.load(Ordering::SeqCst), 1);
    let mut parts: Vec<&str> =
        [&a, &b, &c].iter().map(|(_, headers, _)| headers["x-engram-cache"].to_str().expect("text")).collect();
    parts.sort_unstable();
    assert_eq!(parts, ["miss", "shared", "shared"]);
}

#[tokio::test]
async fn a_conversation_returns_to_the_peer_that_holds_it() {
    let peers: Vec<Upstream> =
        futures::future::join_all((0..3).map(|_| Upstream::start(|request| either(request, "p"))))
            .await
            .into_iter()
            .map(|peer| peer.expect("a server"))
            .collect();
    let mut text = String::from("[routing]\ncache = false\n");
    for (number, peer) in peers.iter().enumerate() {
        text += &format!(
            "[backends.p{number}]\nkind = \"peer\"\nurl = \"{}\"\nmodels = [\"far\"]\nhealth_interval_s = 0\n",
            peer.url()
        );
    }
    let (state, _) = routed(&text);
    let asked = || -> Vec<u64> { peers.iter().map(|peer| peer.counts.requests.load(Ordering::SeqCst)).collect() };
    let system = json!({"role": "system", "content": "rules ".repeat(200)});
    let mut messages = vec![system, json!({"role": "user", "content": "begin"})];
    for turn in 1..=4_u64 {
        let (status, _, value) = post(&state, json!({"model": "far", "temperature": 0, "messages": messages})).await;
        assert_eq!(status, StatusCode::OK, "{value}");
        assert_eq!(asked().iter().max(), Some(&turn), "all turns at one peer: {:?}", asked());
        messages.push(json!({"role": "assistant", "content": "p"}));
        messages.push(json!({"role": "user", "content": format!("turn {turn}")}));
    }
    // Many short requests go to all of them.
    for number in 0..60 {
        post(&state, json!({"model": "far", "messages": [{"role": "user", "content": format!("{number}")}]})).await;
    }
    assert!(asked().iter().all(|count| *count >= 8), "{:?}", asked());
    // The one that held it is gone: the conversation goes on elsewhere, and the answer says what happened.
    let holder = asked().iter().zip(0..).max_by_key(|(count, _)| **count).map(|(_, place)| place).expect("three");
    let mut peers = peers;
    drop(peers.remove(holder));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (status, _, value) = post(&state, json!({"model": "far", "messages": messages})).await;
    assert_eq!(status, StatusCode::OK, "{value}");
}
