//! The id that ties a response to its log lines.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{Builder, Uuid};

/// Header that carries the id, in requests and responses.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a client.
const MAX_LEN: usize = 128;

/// Id of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The client's own id if it is sane, a fresh one otherwise. Sane is what can go into a log line
    /// and a header as it is: up to 128 letters, digits and `-_.:`.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        headers
            .get(X_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|id| (1..=MAX_LEN).contains(&id.len()) && id.bytes().all(sane))
            .map_or_else(|| Self(random_uuid().to_string()), |id| Self(id.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a header's value.
    pub fn header(&self) -> HeaderValue {
        // Sane ids and UUIDs are visible ASCII, which every header takes.
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("invalid"))
    }
}

/// A fresh id. `Uuid::new_v4` asks the system for its bits each time, three times a request; the thread's own generator is as
/// hard to foresee.
pub(crate) fn random_uuid() -> Uuid {
    Builder::from_random_bytes(rand::random()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let long = "a".repeat(129);
        let table = [
            ("req-1_a.b:c", true),
            ("with space", false),
            ("", false),
            ("tab\there", false),
            ("{\"json\"}", false),
            (long.as_str(), false),
        ];
        for (id, kept) in table {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(id).expect("a header value"));
            let found = RequestId::from_headers(&headers);
            assert_eq!(found.as_str() == id, kept, "{id:?}");
            assert_eq!(found.header().to_str().expect("ascii"), found.as_str());
        }
        let fresh = RequestId::from_headers(&HeaderMap::new());
        assert_ne!(fresh, RequestId::from_headers(&HeaderMap::new()));
        assert_eq!(fresh.as_str().len(), 36);
    }
}
