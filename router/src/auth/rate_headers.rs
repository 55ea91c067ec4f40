//! `x-ratelimit-*`, in the form that OpenAI's clients read.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::gate::{Allowance, Gate};

/// Limit, remaining, reset.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// All of them.
pub fn names() -> impl Iterator<Item = HeaderName> {
    REQUESTS.into_iter().chain(TOKENS)
}

/// Says what is left of the limits that the key has.
pub fn add(headers: &mut HeaderMap, gate: &Gate, now: Instant) {
    let (requests, tokens) = gate.allowances(now);
    for (names, allowance) in [(REQUESTS, requests), (TOKENS, tokens)] {
        let Some(Allowance { limit, remaining, full_in }) = allowance else { continue };
        let [limit_name, remaining_name, reset_name] = names;
        headers.insert(limit_name, HeaderValue::from(limit));
        headers.insert(remaining_name, HeaderValue::from(remaining));
        if let Ok(value) = HeaderValue::from_str(&short(full_in)) {
            headers.insert(reset_name, value);
        }
    }
}

/// `0s`, `20ms`, `1.5s`, `6m0s`: Go's way to write a duration, which OpenAI's headers have.
fn short(time: Duration) -> String {
    // Rounded up: who comes at the time told must not be early.
    let millis = time.as_nanos().div_ceil(1_000_000);
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = match rest % 1000 {
        0 => format!("{}s", rest / 1000),
        fraction => {
            let text = format!("{}.{fraction:03}", rest / 1000);
            format!("{}s", text.trim_end_matches('0'))
        }
    };
    match (minutes, rest) {
        (0, 1..1000) => format!("{rest}ms"),
        (0, _) => seconds,
        (minutes, _) => format!("{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tenant::KeyLimits;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000_000, "20ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (59_999_000_001, "1m0s"),
            (61_020_000_000, "1m1.02s"),
            (360_000_000_000, "6m0s"),
            (10_000_000_000, "10s"),
        ] {
            assert_eq!(short(Duration::from_nanos(nanos)), text, "{nanos}");
        }
    }

    #[test]
    fn only_limits_that_the_key_has_are_told() {
        let now = Instant::now();
        let told = |limits: &KeyLimits| {
            let mut headers = HeaderMap::new();
            add(&mut headers, &Gate::new(limits, now), now);
            headers
        };
        assert!(told(&KeyLimits { concurrency: Some(1), ..KeyLimits::default() }).is_empty());
        let headers = told(&KeyLimits { rpm: Some(60), ..KeyLimits::default() });
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-ratelimit-limit-requests"], "60");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "60");
        assert_eq!(headers["x-ratelimit-reset-requests"], "0s");
        assert_eq!(told(&KeyLimits { rpm: Some(60), tpm: Some(9), ..KeyLimits::default() }).len(), 6);
    }
}
