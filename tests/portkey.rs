//! The real Portkey gateway between us and what it calls a provider: another Engram for what must be answered, a
//! scripted server for what must fail on cue.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engram_benches::upstream::{Received, Step, Upstream, event, json as answer, stream_end, stream_head};
use engram_router::config::Secret;
use engram_router::remote::{
    Call, Endpoint, Failure, FailureKind, PortkeyCache, PortkeySettings, Remote, RemoteKind, RemoteSettings,
    RemoteStream,
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::QWEN;
use crate::support::gateway::Gateway;
use crate::support::server::{Server, free_port};

/// A remote for a provider behind the gateway.
fn remote_at(gateway: &Gateway, host: Option<&str>, change: impl FnOnce(&mut RemoteSettings)) -> Remote {
    let mut settings = RemoteSettings::new("hosted", RemoteKind::Portkey, gateway.url());
    settings.api_key = Some(Secret::new("a-providers-key"));
    settings.timeout = Duration::from_secs(60);
    settings.portkey = PortkeySettings {
        provider: Some("openai".into()),
        custom_host: host.map(str::to_owned),
        metadata: Some(r#"{"_user": "Zoë"}"#.into()),
        ..PortkeySettings::default()
    };
    change(&mut settings);
    Remote::new(settings).expect("good settings")
}

fn call(endpoint: Endpoint, body: &Value) -> Call {
    let mut call = Call {
        endpoint,
        body: serde_json::to_vec(body).expect("JSON").into(),
        headers: Default::default(),
        first_by: None,
        deadline: None,
    };
    call.headers.insert("x-request-id", "our-request".parse().expect("a header"));
    call
}

fn chat(changes: Value) -> Call {
    let mut body = json!({"model": QWEN, "temperature": 0, "max_tokens": 12,
        "messages": [{"role": "user", "content": "Write a Python function that adds two numbers."}]});
    merge(&mut body, changes);
    call(Endpoint::Chat, &body)
}

fn merge(body: &mut Value, changes: Value) {
    let (Some(body), Value::Object(changes)) = (body.as_object_mut(), changes) else { panic!("two objects") };
    body.extend(changes);
}

/// All of a stream: its events, and the failure if it did not end well.
async fn read(mut stream: RemoteStream) -> (Vec<Value>, Option<Failure>) {
    let mut events = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(chunk) => events.push(chunk.value),
            Err(failure) => return (events, Some(failure)),
        }
    }
    (events, None)
}

fn text(events: &[Value]) -> String {
    let pieces = events.iter().map(|event| &event["choices"][0]);
    pieces.filter_map(|choice| choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engram_answers_through_the_gateway() {
    let engram = Server::start(QWEN, &[]);
    let gateway = Gateway::start();
    let remote = remote_at(&gateway, Some(&engram.url("/v1")), |_| {});
    remote.probe().await.expect("a gateway that lives");
    let models = remote.models().await.expect("the models behind it");
    assert!(models.iter().any(|model| model.id == QWEN), "{models:?}");

    // Chat, whole and streamed: the same text, and whose answer it was.
    let whole = remote.whole(chat(json!({}))).await.expect("a chat");
    let said = whole.body["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert_eq!(whole.usage.map(|usage| usage.completion), Some(12));
    assert_eq!(whole.upstream.trace_id.as_deref(), Some("our-request"));
    assert_eq!((whole.upstream.retries, whole.upstream.option_index), (Some(0), None));
    assert_eq!(whole.upstream.model.as_deref(), Some(QWEN));
    assert!(whole.upstream.cache_status.is_some());
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
    let stream = remote.stream(chat(streamed.clone())).await.expect("a first token");
    assert_eq!(stream.upstream().trace_id.as_deref(), Some("our-request"));
    let (events, failure) = read(stream).await;
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(text(&events), said);
    assert_eq!(events.last().expect("events")["usage"]["completion_tokens"], 12);

    // Completions, whole and streamed.
    let mut body = json!({"model": QWEN, "prompt": "def add(a, b):", "temperature": 0, "max_tokens": 8});
    let whole = remote.whole(call(Endpoint::Completions, &body)).await.expect("a completion");
    let said = whole.body["choices"][0]["text"].as_str().expect("text").to_owned();
    merge(&mut body, streamed.clone());
    let (events, failure) = read(remote.stream(call(Endpoint::Completions, &body)).await.expect("a first token")).await;
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(text(&events), said);

    // A tool call, whole and streamed.
    let mut with_tool = json!({"max_tokens": 80,
        "messages": [{"role": "system", "content": "You call tools. Answer only with a tool call."},
            {"role": "user", "content": "What is the weather in Paris? Use get_weather."}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]});
    let whole = remote.whole(chat(with_tool.clone())).await.expect("a tool call");
    let called = &whole.body["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!((&called["name"], &called["arguments"]), (&json!("get_weather"), &json!(r#"{"city":"Paris"}"#)));
    merge(&mut with_tool, streamed);
    let (events, failure) = read(remote.stream(chat(with_tool)).await.expect("a first token")).await;
    assert!(failure.is_none(), "{failure:?}");
    let pieces = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str());
    assert_eq!(pieces.collect::<String>(), r#"{"city":"Paris"}"#);

    // The gateway's own fallback: nobody listens at its first target.
    let targets = json!({"strategy": {"mode": "fallback"}, "targets": [
        {"provider": "openai", "api_key": "a", "custom_host": format!("http://127.0.0.1:{}/v1", free_port())},
        {"provider": "openai", "api_key": "b", "custom_host": engram.url("/v1")}]});
    let fallback = remote_at(&gateway, None, |settings| {
        settings.portkey.provider = None;
        settings.portkey.config = Some(targets.to_string());
    });
    let whole = fallback.whole(chat(json!({}))).await.expect("the second target");
    assert_eq!(whole.upstream.option_index, Some(1));
    let stream = fallback.stream(chat(json!({"stream": true}))).await.expect("the second target");
    assert_eq!(stream.upstream().option_index, Some(1));
    assert!(read(stream).await.1.is_none());

    // What Engram refuses is refused as such.
    let failure = remote.whole(chat(json!({"model": "no-such-model"}))).await.expect_err("no such model");
    assert_eq!((failure.kind, failure.status), (FailureKind::NoModel, Some(404)), "{failure}");
    let failure = remote.whole(chat(json!({"stop": [7]}))).await.expect_err("no text to stop at");
    assert_eq!((failure.kind, failure.status), (FailureKind::Rejected, Some(400)), "{failure}");

    // Engram dies in the midst of a stream: the gateway ends it as if all were well, we do not.
    let long =
        json!({"stream": true, "max_tokens": 2000, "messages": [{"role": "user", "content": "Count to 10000."}]});
    let stream = remote.stream(chat(long)).await.expect("a first token");
    drop(engram);
    let (_, failure) = read(stream).await;
    let failure = failure.expect("no clean end");
    assert!(matches!(failure.kind, FailureKind::Cut | FailureKind::Reset), "{failure}");
    let failure = remote.whole(chat(json!({}))).await.expect_err("nobody there");
    assert_eq!(failure.kind, FailureKind::ServerError, "{failure}");
}

/// What the provider does, by the model that is asked for.
fn provider(request: &Received) -> Vec<Step> {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let said = r#"{"error": {"message": "said so", "type": "t", "code": "c"}}"#;
    let token = r#"{"id":"a","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
    match body["model"].as_str().unwrap_or_default() {
        "bad-key" => vec![answer("401 Unauthorized", said)],
        "timeout" => vec![answer("408 Request Timeout", said)],
        "busy" => vec![engram_benches::upstream::answer(
            "429 Too Many Requests",
            &["content-type: application/json", "retry-after: 7"],
            said,
        )],
        "500" => vec![answer("500 Internal Server Error", said)],
        "503" => vec![answer("503 Service Unavailable", said)],
        "slow" => vec![Step::Hang],
        "reset" => vec![Step::Reset],
        "cut" => vec![stream_head(), event(token), Step::Pause(Duration::from_millis(100)), Step::Close],
        "cut-at-once" => vec![stream_head(), stream_end()],
        "hang" => vec![stream_head(), event(token), Step::Hang],
        _ => vec![answer(
            "200 OK",
            r#"{"id": "a", "object": "chat.completion", "model": "m", "choices": [{"index": 0,
            "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]}"#,
        )],
    }
}

fn ask(model: &str, stream: bool) -> Call {
    let messages = [json!({"role": "user", "content": "hi"})];
    call(Endpoint::Chat, &json!({"model": model, "messages": messages, "stream": stream}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateways_failures_have_their_names() {
    let upstream = Upstream::start(provider).await.expect("a port");
    let gateway = Gateway::start();
    let host = upstream.url();
    let remote = remote_at(&gateway, Some(&host), |_| {});

    let table = [
        ("bad-key", FailureKind::BadKey, Some(401), "said so"),
        ("timeout", FailureKind::Timeout, Some(408), "said so"),
        ("busy", FailureKind::RateLimited, Some(429), "said so"),
        ("500", FailureKind::ServerError, Some(500), "said so"),
        ("503", FailureKind::ServerError, Some(503), "said so"),
        ("reset", FailureKind::ServerError, Some(500), "fetch failed"),
    ];
    for (model, kind, status, message) in table {
        for stream in [false, true] {
            let failure = match stream {
                false => remote.whole(ask(model, false)).await.expect_err(model),
                true => remote.stream(ask(model, true)).await.expect_err(model),
            };
            assert_eq!((failure.kind, failure.status), (kind, status), "{model}: {failure}");
            assert!(failure.message.contains(message) && !failure.message.contains("a-providers-key"), "{failure}");
            let rest = (model == "busy").then_some(Duration::from_secs(7));
            assert_eq!(failure.retry_after, rest, "{model}: {failure}");
        }
    }

    // Cut streams, which the gateway ends with a clean 200.
    let (events, failure) = read(remote.stream(ask("cut", true)).await.expect("a first token")).await;
    assert_eq!((events.len(), failure.expect("a cut").kind), (1, FailureKind::Cut));
    let failure = remote.stream(ask("cut-at-once", true)).await.expect_err("nothing came");
    assert_eq!(failure.kind, FailureKind::Cut, "{failure}");

    // The gateway gives up by itself, by its config or by the time that we have left.
    let hasty = remote_at(&gateway, Some(&host), |settings| {
        settings.portkey.config = Some(r#"{"request_timeout": 200}"#.into());
    });
    let failure = hasty.whole(ask("slow", false)).await.expect_err("too slow");
    assert_eq!((failure.kind, failure.status), (FailureKind::Timeout, Some(408)), "{failure}");
    let before = upstream.counts.left.load(Ordering::Relaxed);
    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let failure = remote.whole(Call { deadline, ..ask("slow", false) }).await.expect_err("too slow");
    assert_eq!(failure.kind, FailureKind::Deadline, "{failure}");
    let begun = Instant::now();
    while upstream.counts.left.load(Ordering::Relaxed) == before {
        assert!(begun.elapsed() < Duration::from_secs(5), "the gateway still waits for its provider");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Its own retries, and the word on its cache.
    let before = upstream.counts.requests.load(Ordering::Relaxed);
    let stubborn = remote_at(&gateway, Some(&host), |settings| settings.portkey.retries = 1);
    let failure = stubborn.whole(ask("503", false)).await.expect_err("twice refused");
    assert_eq!(failure.kind, FailureKind::ServerError, "{failure}");
    assert_eq!(upstream.counts.requests.load(Ordering::Relaxed) - before, 2, "one try and one more");
    let caching = remote_at(&gateway, Some(&host), |settings| settings.portkey.cache = PortkeyCache::Simple);
    let mut states = Vec::new();
    for _ in 0..2 {
        states.push(caching.whole(ask("good", false)).await.expect("an answer").upstream.cache_status);
    }
    // What is built for node has no cache, whatever it is told; the hosted gateway has one.
    assert_eq!(states, [Some("DISABLED".to_owned()), Some("DISABLED".to_owned())]);

    // Nobody listens at the provider's; the gateway refuses a host; it is told nothing it knows; it is gone.
    let nobody = remote_at(&gateway, Some(&format!("http://127.0.0.1:{}/v1", free_port())), |_| {});
    let failure = nobody.whole(ask("good", false)).await.expect_err("nobody there");
    assert_eq!((failure.kind, failure.status), (FailureKind::ServerError, Some(500)), "{failure}");
    let private = remote_at(&gateway, Some("http://10.1.2.3:9999/v1"), |_| {});
    let failure = private.whole(ask("good", false)).await.expect_err("a private host");
    assert_eq!((failure.kind, failure.status), (FailureKind::Gateway, Some(400)), "{failure}");
    let unknown = remote_at(&gateway, None, |settings| settings.portkey.provider = Some("no-such-provider".into()));
    let failure = unknown.whole(ask("good", false)).await.expect_err("no such provider");
    assert_eq!(failure.kind, FailureKind::Gateway, "{failure}");
    drop(gateway);
    let failure = remote.whole(ask("good", false)).await.expect_err("no gateway");
    assert!(matches!(failure.kind, FailureKind::Refused | FailureKind::Reset), "{failure}");
    assert_eq!(remote.probe().await.expect_err("no gateway").kind, FailureKind::Refused);
}
