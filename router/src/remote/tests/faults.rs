//! The storm: each way a backend can fail, what it is called, what is to be done about it, and that it ends in time.

use std::time::{Duration, Instant, SystemTime};

use engram_benches::upstream::{Step, Upstream, answer, chunk, event, json, stream_end, stream_head, write};

use super::super::{Failure, FailureKind as Kind};
use super::{call, hurry, read, remote_at};

/// How a call asks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    Whole,
    Stream,
}
use Ask::{Stream, Whole};

/// A fault, and what must come of it.
struct Fault {
    name: &'static str,
    ask: Ask,
    steps: Vec<Step>,
    kind: Kind,
    /// Heals, moves on, counts.
    verdict: [bool; 3],
    status: Option<u16>,
    message: &'static str,
    /// Events that were handed over before it.
    events: usize,
}

impl Fault {
    /// Whether it is a wait that ends.
    fn is_a_wait(&self) -> bool {
        matches!(self.kind, Kind::HeaderTimeout | Kind::FirstTokenTimeout | Kind::IdleTimeout | Kind::TotalTimeout)
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
const ROLE: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}"#;
const TOKEN: &str = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
const OTHER: &str = r#"{"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}]}"#;
const STOP: &str =
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;

const TRY_AGAIN: [bool; 3] = [true, true, true];
const ELSEWHERE: [bool; 3] = [false, true, true];
const BUSY: [bool; 3] = [true, true, false];
const NOT_HERE: [bool; 3] = [false, true, false];
const NOWHERE: [bool; 3] = [false, false, false];

fn streamed(rest: impl IntoIterator<Item = Step>) -> Vec<Step> {
    [stream_head()].into_iter().chain(rest).collect()
}

/// The faults of connections and bodies.
fn transport_faults() -> Vec<Fault> {
    let fault = |name, ask, steps, kind, verdict, message, events| Fault {
        name,
        ask,
        steps,
        kind,
        verdict,
        status: None,
        message,
        events,
    };
    let huge = format!("data: \"{}\"\n\n", "x".repeat(5 << 20));
    let wide = format!("x-wide: {}", "x".repeat(600 << 10));
    let slow = Duration::from_millis(100);
    vec![
        fault("closed before an answer", Whole, vec![Step::Close], Kind::Reset, TRY_AGAIN, "closed before", 0),
        fault("reset before an answer", Whole, vec![Step::Reset], Kind::Reset, TRY_AGAIN, "connection", 0),
        fault("closed before a stream", Stream, vec![Step::Close], Kind::Reset, TRY_AGAIN, "closed before", 0),
        fault("no answer", Whole, vec![Step::Hang], Kind::HeaderTimeout, ELSEWHERE, "no answer began within 3.0 s", 0),
        fault("no stream", Stream, vec![Step::Hang], Kind::HeaderTimeout, ELSEWHERE, "no answer began within 1.5 s", 0),
        fault(
            "headers letter by letter",
            Whole,
            vec![Step::Trickle(HEAD.as_bytes().into(), slow)],
            Kind::HeaderTimeout,
            ELSEWHERE,
            "no answer began within 3.0 s",
            0,
        ),
        fault(
            "reset in the body",
            Whole,
            vec![write(HEAD), write("{"), Step::Pause(slow), Step::Reset],
            Kind::Reset,
            TRY_AGAIN,
            "broke",
            0,
        ),
        fault(
            "closed in the body",
            Whole,
            vec![write(HEAD), write("{"), Step::Close],
            Kind::Cut,
            TRY_AGAIN,
            "before it was complete",
            0,
        ),
        fault(
            "silence in the body",
            Whole,
            vec![write(HEAD), Step::Hang],
            Kind::IdleTimeout,
            ELSEWHERE,
            "nothing came for 1.0 s",
            0,
        ),
        fault(
            "slow loris",
            Whole,
            vec![write(HEAD), Step::Trickle([b' '; 100][..].into(), slow)],
            Kind::TotalTimeout,
            ELSEWHERE,
            "not complete after 3.0 s",
            0,
        ),
        fault(
            "not HTTP",
            Whole,
            vec![write("SSH-2.0-OpenSSH_9.2\r\n"), Step::Close],
            Kind::Garbage,
            ELSEWHERE,
            "not valid HTTP",
            0,
        ),
        fault(
            "headers too large",
            Whole,
            vec![answer("200 OK", &[&wide], "{}")],
            Kind::TooLarge,
            ELSEWHERE,
            "headers",
            0,
        ),
        fault(
            "a body too large",
            Whole,
            vec![write("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"), Step::Hang],
            Kind::TooLarge,
            ELSEWHERE,
            "99999999999 bytes or more, the limit is 67108864",
            0,
        ),
        fault(
            "a web page",
            Whole,
            vec![answer("200 OK", &["content-type: text/html"], "<html>")],
            Kind::Garbage,
            ELSEWHERE,
            "`text/html` are not JSON",
            0,
        ),
        fault("no choices", Whole, vec![json("200 OK", "{}")], Kind::Garbage, ELSEWHERE, "no `choices`", 0),
        fault(
            "a choice without an end",
            Whole,
            vec![json("200 OK", r#"{"choices": [{"message": {"content": "a"}, "finish_reason": null}]}"#)],
            Kind::Cut,
            TRY_AGAIN,
            "choice 0 has no finish_reason",
            0,
        ),
        fault(
            "JSON for a stream",
            Stream,
            vec![json("200 OK", "{}")],
            Kind::Garbage,
            ELSEWHERE,
            "answered `application/json`",
            0,
        ),
        fault(
            "a role, then silence",
            Stream,
            streamed([event(ROLE), Step::Hang]),
            Kind::FirstTokenTimeout,
            ELSEWHERE,
            "no token came within 1.5 s",
            0,
        ),
        fault(
            "comments alone",
            Stream,
            streamed((0..40).flat_map(|_| [chunk(": wait\n\n"), Step::Pause(slow)])),
            Kind::FirstTokenTimeout,
            ELSEWHERE,
            "no token came within 1.5 s",
            0,
        ),
        fault(
            "a role, then the end",
            Stream,
            streamed([event(ROLE), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "after 1 events without [DONE]",
            0,
        ),
        fault(
            "nothing but [DONE]",
            Stream,
            streamed([event("[DONE]"), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "without a finish_reason",
            0,
        ),
        fault(
            "garbage at once",
            Stream,
            streamed([event("{\"a"), Step::Hang]),
            Kind::Garbage,
            ELSEWHERE,
            "event 1 is not JSON",
            0,
        ),
        fault(
            "a list at once",
            Stream,
            streamed([event("[]"), Step::Hang]),
            Kind::Garbage,
            ELSEWHERE,
            "event 1 is not a JSON object",
            0,
        ),
        fault(
            "a huge event",
            Stream,
            streamed([chunk(&huge), Step::Hang]),
            Kind::TooLarge,
            ELSEWHERE,
            "more than 4194304 bytes",
            0,
        ),
        fault(
            "cut, clean to look at",
            Stream,
            streamed([event(ROLE), event(TOKEN), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "after 2 events without [DONE], choice 0 was open",
            2,
        ),
        fault(
            "cut after the last choice",
            Stream,
            streamed([event(TOKEN), event(STOP), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "without [DONE]",
            2,
        ),
        fault(
            "[DONE] too early",
            Stream,
            streamed([event(TOKEN), event("[DONE]"), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "without a finish_reason, choice 0",
            1,
        ),
        fault(
            "one choice of two ended",
            Stream,
            streamed([event(TOKEN), event(OTHER), event(STOP), event("[DONE]"), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "choice 1 was open",
            3,
        ),
        fault(
            "closed in the stream",
            Stream,
            streamed([event(TOKEN), Step::Close]),
            Kind::Cut,
            TRY_AGAIN,
            "before it was complete",
            1,
        ),
        fault(
            "reset in the stream",
            Stream,
            streamed([event(TOKEN), Step::Pause(slow), Step::Reset]),
            Kind::Reset,
            TRY_AGAIN,
            "broke",
            1,
        ),
        fault(
            "half an event",
            Stream,
            streamed([event(TOKEN), chunk("data: {\"cho"), stream_end()]),
            Kind::Cut,
            TRY_AGAIN,
            "without [DONE]",
            1,
        ),
        fault(
            "silence in the stream",
            Stream,
            streamed([event(TOKEN), Step::Hang]),
            Kind::IdleTimeout,
            ELSEWHERE,
            "nothing came for 1.0 s",
            1,
        ),
        fault(
            "garbage in the stream",
            Stream,
            streamed([event(TOKEN), event("x"), Step::Hang]),
            Kind::Garbage,
            ELSEWHERE,
            "event 2 is not JSON",
            1,
        ),
        fault(
            "a broken chunk",
            Stream,
            streamed([event(TOKEN), write("zzz\r\n"), Step::Hang]),
            Kind::Garbage,
            ELSEWHERE,
            "not valid HTTP",
            1,
        ),
        fault(
            "a stream without end",
            Stream,
            streamed((0..40).flat_map(|_| [event(TOKEN), Step::Pause(slow)])),
            Kind::TotalTimeout,
            ELSEWHERE,
            "not complete after 3.0 s",
            1,
        ),
        fault(
            "an error event",
            Stream,
            streamed([
                event(TOKEN),
                event(r#"{"error": {"message": "out of paper", "type": "server_error"}}"#),
                Step::Hang,
            ]),
            Kind::ServerError,
            TRY_AGAIN,
            "out of paper",
            1,
        ),
        fault(
            "an error by its name",
            Stream,
            streamed([chunk("event: error\ndata: {}\n\n"), Step::Hang]),
            Kind::ServerError,
            TRY_AGAIN,
            "an error event without an error object",
            0,
        ),
    ]
}

/// The faults that a status or an error object tells.
fn told_faults() -> Vec<Fault> {
    let told = |name, status: &str, body: &str, kind, verdict, message| Fault {
        name,
        ask: Whole,
        steps: vec![json(status, body)],
        kind,
        verdict,
        status: status[..3].parse().ok(),
        message,
        events: 0,
    };
    let said = r#"{"error": {"message": "said so", "type": "t", "code": null}}"#;
    let mut faults = vec![
        told("400", "400 Bad Request", said, Kind::Rejected, NOWHERE, "400 Bad Request: said so"),
        told("401", "401 Unauthorized", said, Kind::BadKey, NOT_HERE, "said so"),
        told("402", "402 Payment Required", said, Kind::Unpaid, NOT_HERE, "said so"),
        told("403", "403 Forbidden", said, Kind::BadKey, NOT_HERE, "said so"),
        told("404", "404 Not Found", said, Kind::NoModel, NOT_HERE, "said so"),
        told("405", "405 Method Not Allowed", said, Kind::NoModel, NOT_HERE, "said so"),
        told("408", "408 Request Timeout", said, Kind::Timeout, TRY_AGAIN, "said so"),
        told("409", "409 Conflict", said, Kind::Conflict, BUSY, "said so"),
        told("413", "413 Payload Too Large", said, Kind::ContextExceeded, NOT_HERE, "said so"),
        told("422", "422 Unprocessable Entity", r#"{"detail": "said so"}"#, Kind::Rejected, NOWHERE, "said so"),
        told("429", "429 Too Many Requests", said, Kind::RateLimited, BUSY, "said so"),
        told("446", "446 Guarded", said, Kind::Rejected, NOWHERE, "said so"),
        told("500", "500 Internal Server Error", said, Kind::ServerError, TRY_AGAIN, "said so"),
        told("500 in plain text", "500 Internal Server Error", "boom", Kind::ServerError, TRY_AGAIN, "500 Internal"),
        told("501", "501 Not Implemented", said, Kind::NoModel, NOT_HERE, "said so"),
        told("502", "502 Bad Gateway", "<html>", Kind::ServerError, TRY_AGAIN, "502 Bad Gateway"),
        told("503", "503 Service Unavailable", r#"{"error": "said so"}"#, Kind::ServerError, TRY_AGAIN, "said so"),
        told("529", "529 Overloaded", r#"{"message": "said so"}"#, Kind::ServerError, TRY_AGAIN, "said so"),
        told("a redirect", "307 Temporary Redirect", "", Kind::Garbage, ELSEWHERE, "`url` must be the final one"),
        told("204", "204 No Content", "", Kind::Garbage, ELSEWHERE, "204"),
        told(
            "a peer's deadline",
            "504 Gateway Timeout",
            r#"{"error": {"message": "said so", "code": "deadline_exceeded"}}"#,
            Kind::Deadline,
            NOWHERE,
            "said so",
        ),
        told(
            "an empty account",
            "429 Too Many Requests",
            r#"{"error": {"message": "said so", "code": "insufficient_quota"}}"#,
            Kind::Unpaid,
            NOT_HERE,
            "said so",
        ),
        told(
            "too long for OpenAI",
            "400 Bad Request",
            r#"{"error": {"message": "said so", "code": "context_length_exceeded"}}"#,
            Kind::ContextExceeded,
            NOT_HERE,
            "said so",
        ),
        told(
            "too long for vLLM",
            "400 Bad Request",
            r#"{"error": {"message": "This model's maximum context length is 8 tokens", "code": 400}}"#,
            Kind::ContextExceeded,
            NOT_HERE,
            "8 tokens",
        ),
        told(
            "too long for llama-server",
            "400 Bad Request",
            r#"{"error": {"message": "said so", "type": "exceed_context_size_error", "code": 400}}"#,
            Kind::ContextExceeded,
            NOT_HERE,
            "said so",
        ),
        told(
            "a key in the message",
            "401 Unauthorized",
            r#"{"error": {"message": "Incorrect key: sk-proj-abcdefghijkl and the-secret-key\n\u001b[31m."}}"#,
            Kind::BadKey,
            NOT_HERE,
            "Incorrect key: *** and *** [31m.",
        ),
    ];
    // With status 200: the error's own words decide.
    for (name, body, kind, verdict, status) in [
        ("200: a number", r#"{"error": {"message": "said so", "code": 502}}"#, Kind::ServerError, TRY_AGAIN, Some(502)),
        (
            "200: busy",
            r#"{"error": {"message": "said so", "type": "rate_limit_error"}}"#,
            Kind::RateLimited,
            BUSY,
            None,
        ),
        ("200: a key", r#"{"error": {"message": "said so", "code": "invalid_api_key"}}"#, Kind::BadKey, NOT_HERE, None),
        ("200: unknown", r#"{"error": {"message": "said so"}}"#, Kind::ServerError, TRY_AGAIN, None),
        ("200: a mere text", r#"{"error": "said so"}"#, Kind::ServerError, TRY_AGAIN, None),
    ] {
        let fault = told(name, "200 OK", body, kind, verdict, "said so");
        faults.push(Fault { status, ..fault });
        let fault = told(name, "200 OK", body, kind, verdict, "said so");
        faults.push(Fault { status, ask: Stream, ..fault });
        let fault = told(name, "200 OK", body, kind, verdict, "said so");
        faults.push(Fault { status, ask: Stream, steps: streamed([event(body), Step::Hang]), ..fault });
    }
    faults
}

async fn suffer(fault: &Fault) -> (usize, Failure, Duration) {
    let steps = fault.steps.clone();
    let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
    let remote = remote_at(&upstream.url(), |settings| {
        settings.api_key = Some(crate::config::Secret::new("the-secret-key"));
        if fault.is_a_wait() {
            hurry(settings);
        }
    });
    let begun = Instant::now();
    let (events, failure) = match fault.ask {
        Whole => (0, remote.whole(call("{}")).await.expect_err(fault.name)),
        Stream => match remote.stream(call("{}")).await {
            Err(failure) => (0, failure),
            Ok(stream) => {
                let (events, failure) = read(stream).await;
                (events.len(), failure.unwrap_or_else(|| panic!("{}: a clean end", fault.name)))
            }
        },
    };
    (events, failure, begun.elapsed())
}

#[tokio::test]
async fn every_fault_has_its_name_and_its_cure_in_time() {
    let faults: Vec<Fault> = transport_faults().into_iter().chain(told_faults()).collect();
    // The waits by themselves: beside the others they would be late.
    let (waits, others): (Vec<Fault>, Vec<Fault>) = faults.into_iter().partition(Fault::is_a_wait);
    let mut results = futures::future::join_all(others.iter().map(suffer)).await;
    results.extend(futures::future::join_all(waits.iter().map(suffer)).await);
    for (fault, (events, failure, took)) in others.iter().chain(&waits).zip(results) {
        let name = fault.name;
        let kind = failure.kind;
        assert_eq!(kind, fault.kind, "{name}: {failure}");
        assert_eq!([kind.heals(), kind.moves_on(), kind.counts()], fault.verdict, "{name}: {failure}");
        assert_eq!(failure.status, fault.status, "{name}: {failure}");
        assert!(failure.message.contains(fault.message), "{name}: {failure}");
        assert!(failure.message.len() < 400 && !failure.message.contains("127.0.0.1"), "{name}: {failure}");
        assert!(!failure.message.contains("secret"), "{name}: {failure}");
        // A stream that goes on and on has brought what it brought.
        assert!(events == fault.events || (kind == Kind::TotalTimeout && events > fault.events), "{name}: {events}");
        // The longest wait is 3 s, and what is no wait has 30 s; the rest is room for a busy machine.
        assert!(took < Duration::from_secs(12), "{name}: {took:?}");
    }
}

#[tokio::test]
async fn no_connection_has_three_names() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    // A server that never answers the TLS handshake: the connection does not come to stand.
    let silent = Upstream::start(|_| vec![]).await.expect("a port");
    let table = [
        (format!("http://{closed}/v1"), Kind::Refused, TRY_AGAIN, "refused"),
        ("http://no-such-host.invalid/v1".to_owned(), Kind::Dns, TRY_AGAIN, "no address"),
        (format!("https://{}/v1", silent.address), Kind::ConnectTimeout, TRY_AGAIN, "no connection within"),
    ];
    for (url, kind, verdict, message) in table {
        let begun = Instant::now();
        let failure = remote_at(&url, hurry).whole(call("{}")).await.expect_err("no server");
        assert_eq!(failure.kind, kind, "{url}: {failure}");
        assert_eq!([kind.heals(), kind.moves_on(), kind.counts()], verdict, "{url}");
        assert!(failure.message.contains(message), "{url}: {failure}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{url}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn retry_after_is_read_in_each_form() {
    let in_a_minute = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    let table = [
        (String::new(), None),
        ("retry-after: 7".to_owned(), Some(7.0)),
        ("retry-after: 0.5".to_owned(), Some(0.5)),
        (format!("retry-after: {in_a_minute}"), Some(60.0)),
        ("retry-after: Thu, 01 Jan 1970 00:00:00 GMT".to_owned(), Some(0.0)),
        ("retry-after: 999999999".to_owned(), Some(3600.0)),
        ("retry-after: soon".to_owned(), None),
        ("retry-after: -1".to_owned(), None),
        ("retry-after-ms: 250\r\nretry-after: 7".to_owned(), Some(0.25)),
    ];
    for (header, seconds) in table {
        let headers: Vec<&str> = header.split("\r\n").filter(|line| !line.is_empty()).collect();
        let steps = vec![answer("429 Too Many Requests", &headers, "{}")];
        let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
        let failure = remote_at(&upstream.url(), |_| {}).whole(call("{}")).await.expect_err("429");
        assert_eq!(failure.kind, Kind::RateLimited);
        match (failure.retry_after.map(|wait| wait.as_secs_f64()), seconds) {
            (Some(found), Some(seconds)) => {
                assert!((found - seconds).abs() <= if seconds == 60.0 { 4.0 } else { 0.0 }, "{header}: {found}")
            }
            (found, seconds) => assert_eq!(found, seconds, "{header}"),
        }
    }
}

#[tokio::test]
async fn what_was_counted_before_a_failure_is_told() {
    let counted =
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
    let steps = streamed([event(counted), stream_end()]);
    let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
    let stream = remote_at(&upstream.url(), |_| {}).stream(call("{}")).await.expect("a token");
    let (_, failure) = read(stream).await;
    let usage = failure.expect("a cut").usage.expect("usage");
    assert_eq!((usage.prompt, usage.completion), (9, 1));
}

#[tokio::test]
async fn a_server_that_flaps_is_told_apart_call_by_call() {
    let upstream = Upstream::start(|request| match request.before % 2 {
        0 => vec![json("503 Service Unavailable", "{}")],
        _ => vec![json("200 OK", r#"{"choices": [{"finish_reason": "stop"}]}"#)],
    })
    .await
    .expect("a port");
    let remote = remote_at(&upstream.url(), |_| {});
    for turn in 0..6 {
        let result = remote.whole(call("{}")).await;
        assert_eq!(result.is_ok(), turn % 2 == 1, "turn {turn}");
    }
}
