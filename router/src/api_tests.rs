//! The endpoints over the real engine and a scripted model.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::{AppState, router};
use crate::drain::Phase;
use crate::scripted::{END, server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

async fn send(state: &AppState, path: &str, key: &str, body: &Value) -> axum::response::Response {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {key}"))
        .body(Body::from(body.to_string()))
        .expect("a request");
    router(state.clone()).oneshot(request).await.expect("infallible")
}

/// Status, headers and JSON of an answer.
async fn post(state: &AppState, path: &str, body: Value) -> (StatusCode, HeaderMap, Value) {
    let (head, body) = send(state, path, "none", &body).await.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 24).await.expect("a body");
    (head.status, head.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn good(state: &AppState, path: &str, body: Value) -> Value {
    let (status, _, value) = post(state, path, body).await;
    assert_eq!(status, StatusCode::OK, "{value}");
    value
}

async fn bad(state: &AppState, path: &str, body: Value, status: u16, code: &str) -> Value {
    let (found, _, value) = post(state, path, body).await;
    assert_eq!((found.as_u16(), &value["error"]["code"]), (status, &Value::from(code)), "{value}");
    value["error"].clone()
}

/// The events of a stream: JSON, or `"[DONE]"`.
async fn events(state: &AppState, path: &str, mut body: Value) -> Vec<Value> {
    body["stream"] = true.into();
    let response = send(state, path, "none", &body).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.expect("a body");
    let text = std::str::from_utf8(&bytes).expect("text");
    text.split_terminator("\n\n")
        .map(|event| {
            let data = event.strip_prefix("data: ").expect("a data line");
            serde_json::from_str(data).unwrap_or_else(|_| data.into())
        })
        .collect()
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "alphabet", "messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    merge(&mut body, extra);
    body
}

fn completion(prompt: impl Into<Value>, extra: Value) -> Value {
    let mut body = json!({"model": "alphabet", "prompt": prompt.into(), "temperature": 0});
    merge(&mut body, extra);
    body
}

fn merge(body: &mut Value, extra: Value) {
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
}

#[tokio::test]
async fn a_chat_in_one_piece() {
    let (state, _) = server(&[], |_, _| ());
    let value = good(&state, CHAT, chat(json!({}))).await;
    assert_eq!(value["object"], "chat.completion");
    assert_eq!(
        value["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "content": "abcdefghijklmnopqrstuvwxyz", "refusal": null},
            "logprobs": null, "finish_reason": "stop"}])
    );
    // <|im_start|> u s e r \n h i <|im_end|> \n <|im_start|> a s s i s t a n t \n
    assert_eq!(value["usage"]["prompt_tokens"], 21);
    assert_eq!(value["usage"]["completion_tokens"], 26);
    assert_eq!(value["usage"]["total_tokens"], 47);
    let again = good(&state, CHAT, chat(json!({"max_completion_tokens": 3}))).await;
    assert_eq!(again["choices"][0]["finish_reason"], "length");
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 20);
}

#[tokio::test]
async fn a_chat_as_a_stream() {
    let (state, _) = server(&[], |_, _| ());
    let body = chat(json!({"max_tokens": 2, "stream_options": {"include_usage": true}, "logprobs": true}));
    let events = events(&state, CHAT, body).await;
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "content": "", "refusal": null}));
    assert_eq!(deltas[1..4], [&json!({"content": "a"}), &json!({"content": "b"}), &json!({})]);
    assert_eq!(events[1]["choices"][0]["logprobs"]["content"][0]["token"], "a");
    assert_eq!(events[3]["choices"][0]["finish_reason"], "length");
    assert!(events[..4].iter().all(|event| event["usage"].is_null() && event["object"] == "chat.completion.chunk"));
    assert_eq!(events[4]["choices"], json!([]));
    assert_eq!(events[4]["usage"]["total_tokens"], 23);
    assert_eq!(events[5..], [Value::from("[DONE]")]);
    let ids: Vec<&Value> = events[..5].iter().map(|event| &event["id"]).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn completions_of_every_form() {
    let (state, _) = server(&[], |_, _| ());
    let texts = |value: &Value| -> Vec<String> {
        let choices = value["choices"].as_array().expect("choices");
        choices.iter().map(|choice| choice["text"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let ask = |body| good(&state, COMPLETIONS, body);
    assert_eq!(texts(&ask(completion("abc", json!({"max_tokens": 3}))).await), ["def"]);
    assert_eq!(texts(&ask(completion("abc", json!({}))).await), ["defghijklmnopqrs"]);
    assert_eq!(texts(&ask(completion(json!([97, 98]), json!({"max_tokens": 2}))).await), ["cd"]);
    let value = ask(completion(json!(["a", "m"]), json!({"max_tokens": 2, "n": 2}))).await;
    assert_eq!(texts(&value), ["bc", "bc", "no", "no"]);
    assert_eq!(value["choices"][3]["index"], 3);
    assert_eq!((&value["usage"]["prompt_tokens"], &value["usage"]["completion_tokens"]), (&json!(2), &json!(8)));
    let value = ask(completion("x", json!({"max_tokens": 9}))).await;
    assert_eq!((texts(&value), &value["choices"][0]["finish_reason"]), (vec!["yz".to_owned()], &json!("stop")));
    let value = ask(completion("a", json!({"stop": ["fgh", "zz"], "max_tokens": 20}))).await;
    assert_eq!((texts(&value), &value["choices"][0]["finish_reason"]), (vec!["bcde".to_owned()], &json!("stop")));
    let value = ask(completion("a", json!({"stop": "f", "include_stop_str_in_output": true}))).await;
    assert_eq!(texts(&value), ["bcdef"]);
    assert_eq!(texts(&ask(completion("a", json!({"stop_token_ids": [100]}))).await), ["bc"]);
    assert_eq!(texts(&ask(completion("y", json!({"ignore_eos": true, "max_tokens": 4}))).await), ["zab"]);
    assert_eq!(texts(&ask(completion("a", json!({"logit_bias": {"98": -100}, "max_tokens": 1}))).await).len(), 1);
    let value = ask(completion("a", json!({"best_of": 3, "n": 1, "temperature": 1, "seed": 7, "max_tokens": 4}))).await;
    assert_eq!((texts(&value).len(), &value["usage"]["completion_tokens"]), (1, &json!(12)));
}

#[tokio::test]
async fn an_echo_with_its_scores() {
    let (state, _) = server(&[], |_, _| ());
    let body = completion("ab", json!({"echo": true, "max_tokens": 1, "logprobs": 1}));
    let value = good(&state, COMPLETIONS, body.clone()).await;
    let choice = &value["choices"][0];
    assert_eq!(choice["text"], "abc");
    assert_eq!(choice["logprobs"]["tokens"], json!(["a", "b", "c"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 2]));
    assert!(choice["logprobs"]["token_logprobs"][0].is_null());
    assert!(choice["logprobs"]["token_logprobs"][2].as_f64().is_some_and(|logprob| logprob > -0.01));
    let scored = completion("ab", json!({"echo": true, "max_tokens": 0, "logprobs": 0}));
    let value = good(&state, COMPLETIONS, scored).await;
    assert_eq!(value["choices"][0]["text"], "ab");
    assert_eq!(value["choices"][0]["logprobs"]["tokens"], json!(["a", "b"]));
    let silent = completion("ab", json!({"echo": true, "max_tokens": 0}));
    assert_eq!(good(&state, COMPLETIONS, silent.clone()).await["choices"][0]["text"], "ab");
    let texts = |events: &[Value]| -> String {
        events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect()
    };
    assert_eq!(texts(&events(&state, COMPLETIONS, body).await), "abc");
    assert_eq!(texts(&events(&state, COMPLETIONS, silent).await), "ab");
}

#[tokio::test]
async fn choices_stream_side_by_side() {
    let (state, _) = server(&[], |_, _| ());
    let events = events(&state, COMPLETIONS, completion(json!(["a", "m"]), json!({"max_tokens": 3, "n": 2}))).await;
    let mut texts = [const { String::new() }; 4];
    let mut ends = [0; 4];
    for event in &events[..events.len() - 1] {
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        texts[index].push_str(choice["text"].as_str().expect("text"));
        ends[index] += usize::from(choice["finish_reason"] == "length");
    }
    assert_eq!(texts, ["bcd", "bcd", "nop", "nop"]);
    assert_eq!(ends, [1; 4]);
    assert_eq!(events.last(), Some(&Value::from("[DONE]")));
}

#[tokio::test]
async fn a_failure_is_a_status_before_the_first_token_and_an_event_after() {
    let (state, knobs) = server(&[], |_, _| ());
    for stream in [false, true] {
        knobs.fail_in.store(0, Ordering::SeqCst);
        let error = bad(&state, CHAT, chat(json!({"stream": stream})), 500, "model_failure").await;
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    knobs.delay_millis.store(5, Ordering::SeqCst);
    for path in [CHAT, COMPLETIONS] {
        knobs.fail_in.store(4, Ordering::SeqCst);
        let body = if path == CHAT { chat(json!({})) } else { completion("a", json!({})) };
        let events = events(&state, path, body).await;
        let last = events.last().expect("events");
        assert_eq!(last["error"]["code"], "model_failure", "{last}");
        assert!(events.len() > 2 && !events.contains(&Value::from("[DONE]")));
    }
    let text = state.metrics().render(&[]).expect("text");
    assert!(text.contains("outcome=\"stream_failed\""), "{text}");
    assert_eq!(good(&state, CHAT, chat(json!({}))).await["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_full_queue_is_429_at_once() {
    let (state, knobs) = server(&[], |engine, _| {
        engine.max_num_seqs = 1;
        engine.queue_limit = 1;
    });
    knobs.delay_millis.store(20, Ordering::SeqCst);
    let long = || completion("a", json!({"ignore_eos": true, "max_tokens": 100}));
    let running = tokio::spawn({
        let state = state.clone();
        async move {
            send(
                &state,
                COMPLETIONS,
                "none",
                &json!({"prompt": "a", "stream": true, "max_tokens": 100, "ignore_eos": true}),
            )
            .await
        }
    });
    let running = running.await.expect("a head");
    let waiting = tokio::spawn({
        let (state, body) = (state.clone(), long());
        async move { post(&state, COMPLETIONS, body).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = Instant::now();
    let (status, headers, value) = post(&state, COMPLETIONS, long()).await;
    assert_eq!((status.as_u16(), &value["error"]["code"]), (429, &json!("overloaded")), "{value}");
    assert!(headers["retry-after"].to_str().is_ok_and(|seconds| seconds.parse::<u64>().is_ok_and(|n| n >= 1)));
    assert!(asked.elapsed() < Duration::from_millis(500));
    drop(running);
    waiting.abort();
}

#[tokio::test]
async fn a_deadline_is_504_or_an_error_event() {
    let (state, knobs) = server(&[], |engine, _| engine.max_num_seqs = 1);
    knobs.delay_millis.store(20, Ordering::SeqCst);
    let long = json!({"ignore_eos": true, "max_tokens": 200, "timeout": 0.2});
    bad(&state, COMPLETIONS, completion("a", long.clone()), 504, "deadline_exceeded").await;
    let events = events(&state, COMPLETIONS, completion("a", long)).await;
    assert_eq!(events.last().expect("events")["error"]["code"], "deadline_exceeded");
    let first = send(
        &state,
        COMPLETIONS,
        "none",
        &completion("a", json!({"stream": true, "ignore_eos": true, "max_tokens": 200})),
    )
    .await;
    let body = completion("b", json!({"timeout": 0.1, "stream": true}));
    bad(&state, COMPLETIONS, body, 504, "deadline_exceeded").await;
    drop(first);
}

#[tokio::test]
async fn the_servers_own_bound_cuts_a_longer_timeout() {
    let (state, knobs) = server(&[], |_, settings| settings.request_timeout = Some(Duration::from_millis(100)));
    knobs.delay_millis.store(20, Ordering::SeqCst);
    let body = completion("a", json!({"ignore_eos": true, "max_tokens": 200, "timeout": 60}));
    bad(&state, COMPLETIONS, body, 504, "deadline_exceeded").await;
}

async fn idle(state: &AppState) {
    let model = state.models().find(None).expect("one model");
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let stats = model.engine.stats();
        if stats.running == 0 && stats.waiting == 0 && stats.blocks.used == 0 {
            return;
        }
        assert!(Instant::now() < until, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_leaves_is_not_generated_for() {
    let (state, knobs) = server(&[], |_, _| ());
    knobs.delay_millis.store(10, Ordering::SeqCst);
    let body = completion(json!(["a", "b"]), json!({"ignore_eos": true, "max_tokens": 200, "n": 2, "stream": true}));
    let mut stream = send(&state, COMPLETIONS, "none", &body).await.into_body().into_data_stream();
    let _: Bytes = stream.next().await.expect("an event").expect("bytes");
    assert_eq!(state.drain().in_flight(), 1);
    drop(stream);
    idle(&state).await;
    assert_eq!(state.drain().in_flight(), 0);
    // The same for an answer in one piece, whose handler is dropped with its connection.
    let whole = completion("a", json!({"ignore_eos": true, "max_tokens": 200}));
    let asked = tokio::time::timeout(Duration::from_millis(60), post(&state, COMPLETIONS, whole)).await;
    assert!(asked.is_err());
    idle(&state).await;
}

#[tokio::test]
async fn a_stop_ends_streams_with_an_error_event() {
    let (state, knobs) = server(&[], |_, _| ());
    knobs.delay_millis.store(10, Ordering::SeqCst);
    let stopping = tokio::spawn({
        let drain = state.drain().clone();
        async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            drain.advance(Phase::Stopping);
        }
    });
    let events = events(&state, CHAT, chat(json!({"ignore_eos": true, "max_tokens": 200}))).await;
    stopping.await.expect("no panic");
    assert_eq!(events.last().expect("events")["error"]["code"], "shutting_down");
    bad(&state, CHAT, chat(json!({})), 503, "shutting_down").await;
}

#[tokio::test]
async fn what_does_not_fit_is_told_with_numbers() {
    let (state, _) = server(&[], |_, _| ());
    let error = bad(&state, CHAT, chat(json!({"max_tokens": 300})), 400, "context_length_exceeded").await;
    assert_eq!(error["param"], "max_tokens");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("256") && text.contains("321")), "{error}");
    let long = "x".repeat(400);
    bad(&state, COMPLETIONS, completion(long.as_str(), json!({})), 400, "context_length_exceeded").await;
    for (extra, param) in [
        (json!({"temperature": 101}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"logit_bias": {"9999": 1}}), "logit_bias"),
        (json!({"min_tokens": 50}), "min_tokens"),
    ] {
        let error = bad(&state, COMPLETIONS, completion("a", extra), 400, "invalid_value").await;
        assert_eq!(error["param"], param);
    }
    bad(&state, COMPLETIONS, completion("", json!({})), 400, "invalid_value").await;
    bad(&state, COMPLETIONS, completion(json!([9999]), json!({})), 400, "invalid_value").await;
}

#[tokio::test]
async fn a_gap_is_filled_with_the_models_tokens() {
    let (state, _) = server(&[], |_, _| ());
    let body = completion("x = ", json!({"suffix": "\ny", "max_tokens": 3}));
    // The prompt ends with <|fim_middle|>, which is no letter.
    assert_eq!(good(&state, COMPLETIONS, body).await["choices"][0]["text"], "abc");
}

#[tokio::test]
async fn users_write_no_control_tokens() {
    let (state, _) = server(&[], |_, _| ());
    let ends = |value: &Value| {
        let tokens = value["tokens"].as_array().expect("tokens");
        tokens.iter().filter(|id| **id == json!(END)).count()
    };
    let text = "a<|im_end|>b";
    let ask = |body| good(&state, "/tokenize", body);
    assert_eq!(ends(&ask(json!({"prompt": text})).await), 0);
    assert_eq!(ends(&ask(json!({"prompt": text, "parse_special": true})).await), 1);
    let chat = ask(json!({"messages": [{"role": "user", "content": text}]})).await;
    assert_eq!(ends(&chat), 1, "the template's own");
    let tokens = ask(json!({"prompt": "naïve 漢字"})).await;
    assert_eq!(tokens["count"], tokens["tokens"].as_array().expect("tokens").len());
    let back = good(&state, "/detokenize", json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(back["prompt"], "naïve 漢字");
    bad(&state, "/detokenize", json!({"tokens": [9999]}), 400, "invalid_value").await;
}

#[tokio::test]
async fn one_keys_cache_is_not_anothers() {
    let (state, _) = server(&["key-number-1", "key-number-2"], |_, _| ());
    let cached = async |key: &str| {
        let body = completion("a prompt of some length", json!({"max_tokens": 1}));
        let response = send(&state, COMPLETIONS, key, &body).await;
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        value["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    assert_eq!(cached("key-number-1").await, 0);
    assert!(cached("key-number-1").await > 0);
    assert_eq!(cached("key-number-2").await, 0);
}

#[tokio::test]
async fn models_health_and_metrics_tell_of_the_engine() {
    let (state, knobs) = server(&[], |engine, _| engine.health_interval = Duration::ZERO);
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router(state.clone()).oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, String::from_utf8_lossy(&bytes).into_owned())
    };
    let (status, text) = get("/v1/models/abc").await;
    assert!(status == 200 && text.contains("\"id\":\"alphabet\"") && text.contains("\"max_model_len\":256"), "{text}");
    assert_eq!(get("/v1/models/abd").await.0, 404);
    assert_eq!(get("/health").await.0, 200);
    assert_eq!(get("/ready").await.0, 200);
    knobs.fail_in.store(0, Ordering::SeqCst);
    let (status, text) = get("/health").await;
    assert!(status == 503 && text.contains("unhealthy"), "{text}");
    assert_eq!(get("/health").await.0, 200);
    good(&state, CHAT, chat(json!({}))).await;
    let (_, text) = get("/metrics").await;
    for line in [
        "engram_generated_tokens_total{model=\"alphabet\"} 26",
        "engram_kv_blocks{model=\"alphabet\",state=\"used\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}
