//! Values that go out to other servers: addresses, headers, JSON. What may be a secret is in no message.

use axum::http::{HeaderName, HeaderValue, Uri};

use super::Secret;
use super::suggest::shorten;
use super::value::{Raw, Value, is_not, list, text_of};

/// `http://` or `https://` and what follows up to the path.
pub(super) fn url(raw: &Raw) -> Result<Value, String> {
    let expected = "an address; write for example \"https://api.example.org/v1\"";
    let text = text_of(raw, expected)?;
    // Not quoted: what stands before an @ is a user, and often a password.
    if text.contains('@') {
        return Err("holds an `@`: a user and password do not belong in an address; write them as `api_key`".into());
    }
    if text.contains(['?', '#']) {
        return Err("holds a `?` or `#`: an address ends with its path, the rest is added to it".into());
    }
    let uri = text.parse::<Uri>().map_err(|_| is_not(raw, expected))?;
    let scheme = uri.scheme_str().unwrap_or("");
    if !matches!(scheme, "http" | "https") {
        return Err(is_not(raw, "an address that begins with http:// or https://"));
    }
    if uri.host().is_none_or(str::is_empty) || uri.authority().is_some_and(|at| at.as_str().ends_with(':')) {
        return Err(is_not(raw, expected));
    }
    Ok(Value::Text(text.trim_end_matches('/').to_owned()))
}

/// Headers that belong to the connection or to the message: stating them would break it.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Messages name a header by its place or name, never by its value.
pub(super) fn headers(raw: &Raw) -> Result<Value, String> {
    let form = "write for example [\"x-team: search\"]";
    let lines = list(raw).map_err(|_| format!("is not a list of headers; {form}"))?;
    let mut headers: Vec<(HeaderName, Secret)> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let number = index + 1;
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("header number {number} has no colon; {form}"))?;
        let name: HeaderName =
            name.trim().parse().map_err(|_| format!("header number {number} has a name that cannot be one; {form}"))?;
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(format!("header `{name}` is the connection's own; leave it out"));
        }
        let value = value.trim();
        if value.is_empty() || HeaderValue::from_str(value).is_err() {
            return Err(format!("header `{name}` has a value that no header can carry; use visible ASCII"));
        }
        if headers.iter().any(|(other, _)| *other == name) {
            return Err(format!("header `{name}` is stated twice; leave one out"));
        }
        headers.push((name, Secret::new(value)));
    }
    Ok(Value::Headers(headers))
}

/// Longest string of a [`super::value::Kind::JsonObject`]: what Portkey takes of a metadata value.
const MAX_JSON_STRING: usize = 128;

/// Portkey's metadata.
pub(super) fn json_object(raw: &Raw) -> Result<Value, String> {
    let expected = "a JSON object of strings; write for example '{\"team\": \"search\"}'";
    let text = text_of(raw, expected)?;
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|_| is_not(raw, expected))?;
    for (name, value) in &object {
        let good = value.as_str().is_some_and(|value| value.chars().count() <= MAX_JSON_STRING);
        if !good {
            return Err(format!("{:?} in it is not a string of at most {MAX_JSON_STRING} characters", shorten(name)));
        }
    }
    Ok(Value::Text(text.to_owned()))
}
