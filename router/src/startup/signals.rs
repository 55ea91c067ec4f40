//! SIGTERM and SIGINT: the first one drains, the second one ends the process at once. SIGHUP: the configuration
//! is read again.

use std::future::Future;

/// Takes over both signals and resolves at the first. From then on another one exits with 1.
#[cfg(unix)]
pub fn stop() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: draining, a second one ends at once"),
            _ = interrupt.recv() => tracing::info!("interrupted: draining, a second time ends at once"),
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal: ending without waiting");
            std::process::exit(1);
        });
    })
}

/// The same with what other systems have: Ctrl-C.
#[cfg(not(unix))]
pub fn stop() -> std::io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
        tokio::spawn(async {
            let _ = tokio::signal::ctrl_c().await;
            std::process::exit(1);
        });
    })
}

/// Calls `reload` at every SIGHUP, one after the other, for good.
#[cfg(unix)]
pub fn on_hangup(reload: impl Fn() + Send + Sync + 'static) -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let reload = std::sync::Arc::new(reload);
    Ok(async move {
        while hangup.recv().await.is_some() {
            let reload = std::sync::Arc::clone(&reload);
            // Files may lie on a slow disk.
            if let Err(error) = tokio::task::spawn_blocking(move || reload()).await {
                tracing::error!(%error, "the configuration stays as it was");
            }
        }
    })
}

/// Other systems have no such signal.
#[cfg(not(unix))]
pub fn on_hangup(_: impl Fn() + Send + Sync + 'static) -> std::io::Result<impl Future<Output = ()> + Send> {
    Ok(std::future::pending())
}
