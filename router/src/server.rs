//! Connections: accepted at one or two doors, bounded in number and in the time their heads take, drained at the end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::app::{self, AppState, Side};
use crate::drain::Phase;
use crate::tls::Tls;

/// Time that connections get to take their last bytes once every stream has ended.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// A listener, what it answers, and whether it speaks TLS.
pub struct Door {
    /// Where it listens.
    pub listener: TcpListener,
    /// The routes behind it.
    pub side: Side,
    /// Its certificate; `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// Connections open at once.
    pub max_connections: usize,
}

impl Door {
    /// All routes, without TLS.
    pub fn open(listener: TcpListener, state: &AppState) -> Self {
        Self { listener, side: Side::Both, tls: None, max_connections: state.settings().max_connections }
    }
}

/// Serves HTTP/1.1 on `listener` until `shutdown` resolves and the requests then running have
/// ended.
///
/// While it drains, connections are still accepted: `/ready` answers 503, so that a balancer sees
/// it, and new work is refused with 503. After `drain_deadline` what still streams gets an error
/// event and no `[DONE]`. The engines are left running; they are the caller's to stop.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()> + Send) {
    let door = Door::open(listener, &state);
    serve_doors(vec![door], state, shutdown).await;
}

/// The same on several listeners.
pub async fn serve_doors(doors: Vec<Door>, state: AppState, shutdown: impl Future<Output = ()> + Send) {
    let connections = GracefulShutdown::new();
    let accepting = doors.into_iter().map(|door| accept_all(door, &state, &connections));
    tokio::select! {
        _ = futures::future::join_all(accepting) => {}
        () = state.keys().follow() => {}
        () = drain(&state, shutdown) => {}
    }
    if tokio::time::timeout(FLUSH_TIME, connections.shutdown()).await.is_err() {
        tracing::warn!("some connections did not take their last bytes in {FLUSH_TIME:?} and are cut");
    }
}

/// Time that the memory gets to take the last exchanges.
const REMEMBER_TIME: Duration = Duration::from_secs(10);

/// Waits for the word to stop, then for the running requests, at most to the deadline.
async fn drain(state: &AppState, shutdown: impl Future<Output = ()>) {
    shutdown.await;
    let deadline = state.settings().drain_deadline;
    tracing::info!(in_flight = state.drain().in_flight(), ?deadline, "draining");
    state.drain().advance(Phase::Draining);
    if tokio::time::timeout(deadline, state.drain().idle()).await.is_err() {
        tracing::warn!(in_flight = state.drain().in_flight(), "the drain deadline passed: ending what still runs");
    }
    state.drain().advance(Phase::Stopping);
    // An exchange whose answer is complete was promised to be remembered.
    if tokio::time::timeout(REMEMBER_TIME, state.memory().idle()).await.is_err() {
        tracing::error!("what was said last is not remembered: the memory did not take it in {REMEMBER_TIME:?}");
    }
}

async fn accept_all(door: Door, state: &AppState, connections: &GracefulShutdown) {
    let app = app::side(state.clone(), door.side);
    let permits = Arc::new(Semaphore::new(door.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(state.settings().header_timeout);
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match door.listener.accept().await {
            Ok((stream, _)) => {
                let connection = Connection { http: http.clone(), app: app.clone(), watcher: connections.watcher() };
                tokio::spawn(connection.serve(stream, door.tls.clone(), permit));
            }
            Err(error) => {
                // Out of file descriptors, or a client that left before it was accepted: the
                // listener itself is still good. The pause keeps the former from spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What a connection is served with.
struct Connection {
    http: http1::Builder,
    app: Router,
    watcher: Watcher,
}

impl Connection {
    /// Serves it to its end; it counts among the open ones until then, its handshake included.
    async fn serve(self, stream: TcpStream, tls: Option<Tls>, _permit: OwnedSemaphorePermit) {
        // Events are small and each is wanted at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        match tls {
            None => self.speak_http(stream).await,
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => self.speak_http(stream).await,
                Err(error) => tracing::debug!("no TLS: {error:#}"),
            },
        }
    }

    async fn speak_http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { http, app, watcher } = self;
        let service =
            hyper::service::service_fn(move |request: Request<Incoming>| app.clone().oneshot(request.map(Body::new)));
        if let Err(error) = watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await {
            // A client that left, or sent no proper HTTP.
            tracing::debug!(%error, "connection ended");
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
