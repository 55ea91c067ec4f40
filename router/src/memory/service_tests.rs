//! Errors of the memory as statuses, and operations as counts.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use engram_memory::{RecordId, Scope};

use super::*;
use crate::memory::scripted::Scripted;

#[test]
fn every_memory_error_has_its_status_and_keeps_paths_to_itself() {
    let path = || PathBuf::from("/srv/secret");
    let io = || std::io::Error::other("/srv/secret is gone");
    let table: Vec<(MemoryError, u16, &str)> = vec![
        (MemoryError::Invalid { field: "filter".into(), message: "too deep".into() }, 400, "invalid_value"),
        (MemoryError::NotFound(RecordId(7)), 404, "record_not_found"),
        (MemoryError::TooLarge { what: "content in bytes", size: 9, limit: 8 }, 413, "payload_too_large"),
        (
            MemoryError::EncoderMismatch {
                stored: "a".into(),
                stored_dim: 1,
                configured: "b".into(),
                configured_dim: 2,
            },
            503,
            "memory_unavailable",
        ),
        (MemoryError::Locked { path: path() }, 503, "memory_unavailable"),
        (MemoryError::Corrupt { path: path(), detail: "crc".into() }, 503, "memory_unavailable"),
        (MemoryError::Format { path: path(), found: 9, known: 1 }, 503, "memory_unavailable"),
        (MemoryError::DiskFull { path: path(), bytes: 10 }, 507, "storage_full"),
        (MemoryError::ReadOnly { path: path() }, 507, "storage_full"),
        (MemoryError::Io { action: "write", path: path(), source: io() }, 500, "internal_error"),
        (MemoryError::Embed { texts: 3, source: Box::new(io()) }, 500, "internal_error"),
        (
            MemoryError::Backend { backend: "postgres", message: "/srv/secret".into(), retryable: true },
            503,
            "memory_unavailable",
        ),
        (
            MemoryError::Backend { backend: "postgres", message: "/srv/secret".into(), retryable: false },
            500,
            "internal_error",
        ),
        (MemoryError::BreakerOpen { backend: "redis", failures: 5, retry_in_ms: 900 }, 503, "memory_unavailable"),
        (MemoryError::Closed, 503, "shutting_down"),
    ];
    for (error, status, code) in table {
        let error = ApiError::from(error);
        assert_eq!((error.status().as_u16(), error.code().as_str()), (status, code), "{error}");
        assert!(!error.body().to_string().contains("secret"), "{}", error.body());
    }
}

fn service() -> (MemoryService, Arc<Scripted>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().expect("names are distinct"));
    let service = MemoryService::new(crate::scripted::memory_settings(), Arc::clone(&metrics));
    let store = Arc::new(Scripted::default());
    service.open(Arc::clone(&store) as Arc<dyn MemoryStore>);
    (service, store, metrics)
}

#[tokio::test]
async fn operations_are_counted_by_kind_and_outcome() {
    let (service, store, metrics) = service();
    let partition = Scope::of("ada", "coding").expect("names").partition;
    let missing = move |store: &dyn MemoryStore| store.get(&partition, RecordId(1), None);
    service.run(Operation::any("get"), missing).await.expect_err("not there");
    service
        .run(Operation::on("search", [Kind::Code, Kind::Code].into_iter()), |store| store.expire())
        .await
        .expect("ok");
    service
        .run(Operation::on("search", [Kind::Code, Kind::Workflow].into_iter()), |store| store.expire())
        .await
        .expect("ok");
    store.fail.store(true, Ordering::SeqCst);
    service.run(Operation::any("stats"), |store| store.stats(None)).await.expect_err("told to");
    metrics.memory().cache("recall", true);
    metrics.memory().cache("recall", false);
    service.measure().await;
    let text = metrics.render(&[]).expect("text");
    for line in [
        "memory_operations_total{kind=\"any\",operation=\"get\",status=\"refused\"} 1",
        "memory_operations_total{kind=\"code\",operation=\"search\",status=\"ok\"} 1",
        "memory_operations_total{kind=\"any\",operation=\"search\",status=\"ok\"} 1",
        "memory_operations_total{kind=\"any\",operation=\"stats\",status=\"unavailable\"} 1",
        "memory_operation_latency_seconds_count{operation=\"search\"} 2",
        "cache_hits_total{cache=\"recall\"} 1",
        "cache_hit_rate{cache=\"recall\"} 0.5",
        "memory_records{kind=\"code\"} 0",
        "memory_queue{state=\"waiting\"} 0",
        "memory_recall_self_check NaN",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}

#[tokio::test]
async fn what_outlives_its_request_is_waited_for() {
    let (service, store, _) = service();
    service.idle().await;
    store.delay_millis.store(30, Ordering::SeqCst);
    let scope = Scope::of("ada", "coding").expect("names");
    service.remember_later(vec![engram_memory::NewRecord {
        scope,
        kind: Kind::Conversation,
        content: "User: hi".into(),
        metadata: Default::default(),
        provenance: Default::default(),
        lifetime: Default::default(),
        pinned: false,
    }]);
    assert!(store.records().is_empty());
    service.idle().await;
    assert_eq!(store.records().len(), 1);
    service.close();
    let error = service.run(Operation::any("get"), |store| store.expire()).await.expect_err("closed");
    assert_eq!(error.code(), ErrorCode::MemoryUnavailable);
}
