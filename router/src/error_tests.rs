use super::*;
use std::sync::Arc;

#[test]
fn every_encoder_error_has_its_status_and_code() {
    let name = || "m".to_owned();
    let table: Vec<(EncoderError, u16, &str, Option<&str>)> = vec![
        (
            EncoderError::TooLong { name: name(), index: 1, tokens: 9, limit: 8 },
            400,
            "context_length_exceeded",
            Some("input"),
        ),
        (EncoderError::UnknownToken { name: name(), index: 0, id: 9, vocab: 4 }, 400, "invalid_value", Some("input")),
        (
            EncoderError::Dimensions { name: name(), asked: 3, dim: 4, cure: "no".into() },
            400,
            "invalid_value",
            Some("dimensions"),
        ),
        (EncoderError::Overloaded { waiting: 9, limit: 8 }, 429, "overloaded", None),
        (EncoderError::NotFinite { name: name(), index: 0 }, 500, "model_failure", None),
        (EncoderError::Stopped, 503, "engine_stopped", None),
        (EncoderError::Panicked { message: "index /secret".into() }, 500, "model_failure", None),
        (EncoderError::MissingFile { name: "/secret".into(), file: "config.json" }, 500, "model_failure", None),
    ];
    for (encoder, status, code, param) in table {
        let error = ApiError::from(encoder);
        assert_eq!((error.status().as_u16(), error.code().as_str(), error.param()), (status, code, param), "{error}");
        assert!(!error.to_string().contains("/secret"), "{error}");
    }
}

#[test]
fn every_engine_error_has_its_status_and_code() {
    let table: Vec<(EngineError, u16, &str)> = vec![
        (EngineError::InvalidParameter { name: "top_p", reason: "is 2".into() }, 400, "invalid_value"),
        (EngineError::EmptyPrompt, 400, "invalid_value"),
        (EngineError::UnknownToken { id: 9, vocab_size: 4 }, 400, "invalid_value"),
        (EngineError::ContextExceeded { prompt_len: 9, max_tokens: 1, max_len: 8 }, 400, "context_length_exceeded"),
        (EngineError::KvExhausted { needed: 9, total: 8 }, 400, "kv_cache_exceeded"),
        (
            EngineError::Overloaded { waiting: 64, limit: 64, retry_after: Duration::from_millis(1500) },
            429,
            "overloaded",
        ),
        (EngineError::DeadlineInQueue { waited: Duration::from_secs(1) }, 504, "deadline_exceeded"),
        (EngineError::NotFinite { step: 3 }, 500, "model_failure"),
        (EngineError::Panicked { step: 3, message: "index /secret".into() }, 500, "model_failure"),
        (EngineError::ProbeTimeout { timeout: Duration::from_secs(5) }, 503, "unhealthy"),
        (EngineError::ShuttingDown, 503, "shutting_down"),
        (EngineError::Stopped, 503, "engine_stopped"),
        (EngineError::Start("no memory at /secret".into()), 503, "engine_stopped"),
    ];
    for (engine, status, code) in table {
        let error = ApiError::from(engine);
        assert_eq!(error.status().as_u16(), status, "{error}");
        assert_eq!(error.code().as_str(), code, "{error}");
        assert!(!error.body().to_string().contains("/secret"));
    }
}

#[test]
fn codes_are_distinct_and_their_statuses_are_errors() {
    let mut names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ErrorCode::ALL.len());
    for code in ErrorCode::ALL {
        assert!(code.status().as_u16() >= 400, "{code:?}");
    }
}

#[test]
fn the_body_has_openais_shape_and_headers() {
    let error = ApiError::invalid_value("top_p", "`top_p` is 2");
    assert_eq!(
        error.body(),
        json!({"error": {"message": "`top_p` is 2", "type": "invalid_request_error",
            "param": "top_p", "code": "invalid_value"}})
    );
    let busy =
        ApiError::from(EngineError::Overloaded { waiting: 1, limit: 1, retry_after: Duration::from_millis(1500) });
    let response = busy.into_response();
    assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    let response = ApiError::from(Denied::NoKey).into_response();
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
}

#[test]
fn causes_stay_out_of_the_body() {
    let source = std::io::Error::other("disk /dev/sda is on fire");
    let error = ApiError::internal("something failed", Arc::new(source));
    assert!(!error.body().to_string().contains("fire"));
    assert!(StdError::source(&error).is_some());
}
