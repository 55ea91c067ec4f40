//! A server that gives one fixed answer, as fast as it can: what stands behind the gateways that `benches/overhead`
//! measures. One thread; a chat in one piece, or as twenty events in five writes.
//!
//! ```sh
//! cargo run --release -p engram-benches --example fixed_upstream -- 127.0.0.1:9100
//! ```

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Tokens of an answer.
const TOKENS: usize = 16;
const USAGE: &str = r#""usage":{"prompt_tokens":12,"completion_tokens":16,"total_tokens":28}"#;

/// The bytes of each kind of answer; a stream in the parts that are written at once.
struct Answers {
    models: Vec<u8>,
    whole: Vec<u8>,
    stream: Vec<Vec<u8>>,
}

impl Answers {
    fn new() -> Self {
        let text = "token ".repeat(TOKENS);
        let choice =
            format!(r#"{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}"#);
        let whole = format!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"fixed","choices":[{choice}],{USAGE}}}"#
        );
        Self {
            models: json(
                r#"{"object":"list","data":[{"id":"fixed","object":"model","created":1,"owned_by":"bench"}]}"#,
            ),
            whole: json(&whole),
            stream: stream(),
        }
    }
}

fn json(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
}

fn stream() -> Vec<Vec<u8>> {
    let head = r#""id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"fixed""#;
    let event = |data: &str| format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8);
    let piece = |delta: &str, finish: &str| {
        event(&format!(r#"{{{head},"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#))
    };
    let mut parts = vec![format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{}",
        piece(r#"{"role":"assistant","content":""}"#, "null")
    )];
    for token in 0..TOKENS {
        let piece = piece(r#"{"content":"token "}"#, "null");
        // The first comes with the head, then five at once.
        match token % 5 {
            1 => parts.push(piece),
            _ => parts.last_mut().expect("the head").push_str(&piece),
        }
    }
    let usage = event(&format!(r#"{{{head},"choices":[],{USAGE}}}"#));
    parts.push(format!("{}{usage}{}0\r\n\r\n", piece("{}", "\"stop\""), event("[DONE]")));
    parts.into_iter().map(String::into_bytes).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9100".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    let answers = Arc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await?;
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            // A client that hangs up is none of our business.
            let _ = serve(stream, &answers).await;
        });
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(8 << 10);
    loop {
        let Some(head) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let length = content_length(&buffer[..head]);
        while buffer.len() < head + length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let is_post = buffer.starts_with(b"POST");
        let streamed = asks_for_a_stream(&buffer[head..head + length]);
        buffer.drain(..head + length);
        match (is_post, streamed) {
            (false, _) => stream.write_all(&answers.models).await?,
            (true, false) => stream.write_all(&answers.whole).await?,
            (true, true) => {
                for part in &answers.stream {
                    stream.write_all(part).await?;
                }
            }
        }
    }
}

/// Reads to the end of a request's head, and says where that is.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut searched = 0;
    loop {
        if let Some(at) = buffer[searched..].windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(searched + at + 4));
        }
        searched = buffer.len().saturating_sub(3);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let lines = head.split(|&byte| byte == b'\n');
    let value = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked("content-length:".len())?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    });
    value.filter_map(|value| std::str::from_utf8(value).ok()?.trim().parse().ok()).next().unwrap_or(0)
}

/// Whether the body says `"stream": true`, however it is spaced.
fn asks_for_a_stream(body: &[u8]) -> bool {
    const NAME: &[u8] = b"\"stream\"";
    let found = body.windows(NAME.len()).position(|window| window == NAME);
    found.is_some_and(|at| {
        let rest = body[at + NAME.len()..].iter().filter(|byte| !byte.is_ascii_whitespace());
        rest.take(5).copied().eq(*b":true")
    })
}
