//! Remote backends against a server that does what it is told.

mod answers;
mod faults;
mod tls;

use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use engram_benches::upstream::{Step, Upstream, event, stream_end, stream_head};
use futures::StreamExt;

use super::{Call, Endpoint, Failure, Remote, RemoteKind, RemoteSettings, RemoteStream};

/// A remote for a server at this URL, with waits that no busy machine reaches.
fn remote_at(url: &str, change: impl FnOnce(&mut RemoteSettings)) -> Remote {
    let mut settings = RemoteSettings::new("other", RemoteKind::OpenAiCompatible, url);
    settings.connect_timeout = Duration::from_secs(30);
    change(&mut settings);
    Remote::new(settings).expect("good settings")
}

/// Waits that a test can sit out.
fn hurry(settings: &mut RemoteSettings) {
    settings.connect_timeout = Duration::from_millis(1500);
    settings.first_token_timeout = Duration::from_millis(1500);
    settings.idle_timeout = Duration::from_millis(1000);
    settings.timeout = Duration::from_millis(3000);
}

/// A server that answers every request with these steps, and a remote for it.
async fn scripted(steps: Vec<Step>) -> (Upstream, Remote) {
    let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
    let remote = remote_at(&upstream.url(), |_| {});
    (upstream, remote)
}

fn call(body: &'static str) -> Call {
    Call {
        endpoint: Endpoint::Chat,
        body: Bytes::from_static(body.as_bytes()),
        headers: HeaderMap::new(),
        first_by: None,
        deadline: None,
    }
}

/// A streamed answer in full: these events, `[DONE]`, the end of the body.
fn stream_of(events: &[&str]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(events.iter().copied().map(event));
    steps.extend([event("[DONE]"), stream_end()]);
    steps
}

/// The events up to the end, and the failure if it ended in one. After either there is nothing more.
async fn read(mut stream: RemoteStream) -> (Vec<String>, Option<Failure>) {
    let mut events = Vec::new();
    let mut failure = None;
    while let Some(item) = stream.next().await {
        match item {
            Ok(chunk) => {
                assert_eq!(serde_json::from_slice::<serde_json::Value>(&chunk.raw).expect("JSON"), chunk.value);
                assert!(failure.is_none(), "an event after the failure");
                events.push(String::from_utf8(chunk.raw.to_vec()).expect("text"));
            }
            Err(found) => assert!(failure.replace(found).is_none(), "a second failure"),
        }
    }
    assert!(stream.next().await.is_none(), "something after the end");
    (events, failure)
}
