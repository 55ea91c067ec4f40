//! A load generator for one address: chats over kept connections, either each connection as fast as it is answered, or at
//! a fixed rate, whatever the answers do. One line of JSON says what came of it.
//!
//! ```sh
//! cargo run --release -p engram-benches --example http_load -- --url http://127.0.0.1:9100 --connections 64 --seconds 5
//! ```
//!
//! At a fixed rate a request's time runs from when it was due, so that one that waits for a free connection is counted
//! as the slow one that it is. An answer that is not complete is an error: a stream has to end with `[DONE]`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

/// What to ask, how often, for how long.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Where to: http://host:port; the path is /v1/chat/completions
    #[arg(long)]
    url: Uri,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests a second in all; unset: as many as are answered
    #[arg(long)]
    rate: Option<f64>,
    /// How long it is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long it runs before that
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Ask for streams
    #[arg(long)]
    stream: bool,
    /// The model's name
    #[arg(long, default_value = "fixed")]
    model: String,
    /// More headers: "name: value"
    #[arg(long = "header")]
    headers: Vec<String>,
}

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one connection saw while it was measured: microseconds to the first byte of the body and to its last.
#[derive(Debug, Default)]
struct Seen {
    first: Vec<u32>,
    last: Vec<u32>,
    errors: u64,
    error: Option<String>,
}

/// What is the same for all connections.
struct Plan {
    args: Args,
    host: String,
    path: Uri,
    body: Bytes,
    headers: Vec<(String, String)>,
    begin: Instant,
    end: Instant,
    stop: AtomicBool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let plan = Arc::new(Plan::new(args)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(run(&plan))?;
    println!("{}", report(&plan, seen));
    Ok(())
}

impl Plan {
    fn new(args: Args) -> anyhow::Result<Self> {
        let authority = args.url.authority().context("--url has no host")?.to_string();
        let mut body = json!({
            "model": args.model, "max_tokens": 16,
            "messages": [
                {"role": "system", "content": "You are a careful programmer."},
                {"role": "user", "content": "Write a Rust function that reverses a string, and say how it works."},
            ],
        });
        if args.stream {
            body["stream"] = true.into();
        }
        let headers = args.headers.iter().map(|header| {
            let (name, value) = header.split_once(':').with_context(|| format!("--header {header:?} has no colon"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        });
        let begin = Instant::now() + Duration::from_secs_f64(args.warm_up);
        Ok(Self {
            host: authority,
            path: "/v1/chat/completions".parse()?,
            body: body.to_string().into(),
            headers: headers.collect::<anyhow::Result<_>>()?,
            begin,
            end: begin + Duration::from_secs_f64(args.seconds),
            stop: AtomicBool::new(false),
            args,
        })
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::post(self.path.clone())
            .header("host", &self.host)
            .header("content-type", "application/json")
            .header("accept", if self.args.stream { "text/event-stream" } else { "application/json" });
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(self.body.clone()))?)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; its errors are the requests' too.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

async fn run(plan: &Arc<Plan>) -> anyhow::Result<Vec<Seen>> {
    // As many places as requests that may be overdue: past them, the generator itself waits, and that shows in the count.
    let (due, dues) = flume::bounded::<Instant>(1 << 16);
    let connections: Vec<_> = (0..plan.args.connections)
        .map(|_| {
            let (plan, dues) = (Arc::clone(plan), plan.args.rate.map(|_| dues.clone()));
            tokio::spawn(async move { connection(&plan, dues).await })
        })
        .collect();
    drop(dues);
    let clock = plan.args.rate.map(|rate| {
        let plan = Arc::clone(plan);
        std::thread::spawn(move || tick(&plan, rate, &due))
    });
    let mut seen = Vec::new();
    for connection in connections {
        seen.push(connection.await?);
    }
    plan.stop.store(true, Ordering::Relaxed);
    if let Some(clock) = clock {
        clock.join().map_err(|_| anyhow::anyhow!("the clock's thread panicked"))?;
    }
    Ok(seen)
}

/// Says when each request is due. A thread of its own: the runtime's timers are a millisecond wide.
fn tick(plan: &Plan, rate: f64, due: &flume::Sender<Instant>) {
    let begun = Instant::now();
    for number in 0_u64.. {
        let at = begun + Duration::from_secs_f64(number as f64 / rate);
        if at >= plan.end || plan.stop.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        if at > now {
            std::thread::sleep(at - now);
        }
        if due.send(at).is_err() {
            return;
        }
    }
}

/// One connection's requests, one after the other.
async fn connection(plan: &Plan, dues: Option<flume::Receiver<Instant>>) -> Seen {
    let mut seen = Seen::default();
    let mut sender = None;
    while Instant::now() < plan.end {
        let at = match &dues {
            None => Instant::now(),
            Some(dues) => match dues.recv_async().await {
                Ok(at) => at,
                Err(_) => break,
            },
        };
        let asked = tokio::time::timeout(PATIENCE, ask(plan, &mut sender)).await;
        let now = Instant::now();
        let counted = at >= plan.begin && now <= plan.end + PATIENCE;
        match asked.context("no answer in time").flatten() {
            Ok(first) if counted => {
                seen.first.push(micros(first - at));
                seen.last.push(micros(now - at));
            }
            Ok(_) => {}
            Err(error) => {
                sender = None;
                if counted {
                    seen.errors += 1;
                    seen.error.get_or_insert_with(|| format!("{error:#}"));
                }
                // A server that is not there is asked again, but not in a circle.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    seen
}

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// Sends one request and reads its answer to the end; says when the first bytes of its body came.
async fn ask(plan: &Plan, sender: &mut Option<SendRequest<Full<Bytes>>>) -> anyhow::Result<Instant> {
    let connection = match sender {
        Some(connection) => connection,
        None => sender.insert(plan.connect().await?),
    };
    connection.ready().await?;
    let response = connection.send_request(plan.request()?).await?;
    let status = response.status();
    let mut body = response.into_body();
    let (mut first, mut tail) = (None, Vec::with_capacity(1 << 10));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            first.get_or_insert_with(Instant::now);
            // The end of an answer is all that is looked at.
            if tail.len() > 8 << 10 {
                tail.drain(..4 << 10);
            }
            tail.extend_from_slice(&data);
        }
    }
    let told = || String::from_utf8_lossy(&tail).chars().take(200).collect::<String>();
    ensure!(status == 200, "status {status}: {}", told());
    let wanted: &[u8] = if plan.args.stream { b"[DONE]" } else { b"\"finish_reason\"" };
    if !tail.windows(wanted.len()).any(|window| window == wanted) {
        bail!("an answer that is not complete: {}", told());
    }
    first.context("an answer without a body")
}

fn report(plan: &Plan, seen: Vec<Seen>) -> serde_json::Value {
    let errors: u64 = seen.iter().map(|one| one.errors).sum();
    let error = seen.iter().find_map(|one| one.error.clone());
    let answers = seen.iter().map(|one| one.last.len()).max().zip(seen.iter().map(|one| one.last.len()).min());
    let mut first: Vec<u32> = seen.iter().flat_map(|one| one.first.iter().copied()).collect();
    let mut last: Vec<u32> = seen.iter().flat_map(|one| one.last.iter().copied()).collect();
    first.sort_unstable();
    last.sort_unstable();
    json!({
        "connections": plan.args.connections,
        "rate": plan.args.rate,
        "stream": plan.args.stream,
        "requests": last.len(),
        "rps": last.len() as f64 / plan.args.seconds,
        "errors": errors,
        "error": error,
        "most_and_least_by_connection": answers,
        "ms": percentiles(&last),
        "first_byte_ms": percentiles(&first),
    })
}

/// Of sorted microseconds, in milliseconds.
fn percentiles(sorted: &[u32]) -> serde_json::Value {
    let at = |share: f64| {
        let place = (sorted.len() as f64 * share) as usize;
        sorted.get(place.min(sorted.len().saturating_sub(1))).map(|&micros| f64::from(micros) / 1e3)
    };
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)})
}
