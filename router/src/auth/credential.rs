//! The key that a request carries.
//!
//! OpenAI's clients send `Authorization: Bearer KEY`, others `x-api-key` or `api-key`. A request may carry its key in
//! several of them if it is the same one; where two differ, or one comes twice, a proxy and this server could each
//! take another for the true one, so neither is taken.

use axum::http::{HeaderMap, HeaderName, header};

/// Headers that carry a bare key.
pub const KEY_HEADERS: [HeaderName; 2] = [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];
/// A longer one is none of ours, and is not hashed.
const MAX_KEY_LEN: usize = 512;

/// Why no key could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A header is there twice.
    #[error("a header with an API key is there more than once: send the key once")]
    Doubled,
    /// Two headers, two keys.
    #[error("the headers carry different API keys: send one")]
    Conflict,
    /// Not `Bearer KEY`.
    #[error("the Authorization header is not of the form `Bearer KEY`")]
    NotBearer,
    /// Nothing in it, or too much.
    #[error("the API key in the headers is empty or longer than {MAX_KEY_LEN} bytes")]
    Length,
}

/// The key in these headers; `None` where there is none.
pub fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Unreadable> {
    let mut found = match only(headers, &header::AUTHORIZATION)? {
        Some(value) => Some(checked(bearer(value).ok_or(Unreadable::NotBearer)?)?),
        None => None,
    };
    for name in &KEY_HEADERS {
        let Some(value) = only(headers, name)? else { continue };
        let key = checked(value.trim_ascii())?;
        if found.is_some_and(|other| other != key) {
            return Err(Unreadable::Conflict);
        }
        found = Some(key);
    }
    Ok(found)
}

/// The value of a header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Unreadable> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.as_bytes())),
        (Some(_), Some(_)) => Err(Unreadable::Doubled),
    }
}

fn checked(key: &[u8]) -> Result<&[u8], Unreadable> {
    if (1..=MAX_KEY_LEN).contains(&key.len()) { Ok(key) } else { Err(Unreadable::Length) }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn one_key_is_read_and_two_are_not() {
        use Unreadable::{Conflict, Doubled, Length, NotBearer};
        let long = "a".repeat(MAX_KEY_LEN + 1);
        type Case<'a> = (&'a [(&'static str, &'a str)], Result<Option<&'a str>, Unreadable>);
        let table: &[Case<'_>] = &[
            (&[], Ok(None)),
            (&[("authorization", "Bearer k1")], Ok(Some("k1"))),
            (&[("authorization", "bEARER   k1 ")], Ok(Some("k1"))),
            (&[("x-api-key", "k1")], Ok(Some("k1"))),
            (&[("api-key", " k1 ")], Ok(Some("k1"))),
            (&[("authorization", "Bearer k1"), ("x-api-key", "k1"), ("api-key", "k1")], Ok(Some("k1"))),
            (&[("authorization", "Bearer k1"), ("x-api-key", "k2")], Err(Conflict)),
            (&[("x-api-key", "k1"), ("api-key", "k2")], Err(Conflict)),
            (&[("x-api-key", "k1"), ("api-key", "K1")], Err(Conflict)),
            (&[("authorization", "Bearer k1"), ("authorization", "Bearer k1")], Err(Doubled)),
            (&[("x-api-key", "k1"), ("x-api-key", "k2")], Err(Doubled)),
            (&[("authorization", "Basic azE6"), ("x-api-key", "k1")], Err(NotBearer)),
            (&[("authorization", "k1")], Err(NotBearer)),
            (&[("authorization", "Bearer")], Err(NotBearer)),
            (&[("authorization", "Bearer  ")], Err(NotBearer)),
            (&[("authorization", "")], Err(NotBearer)),
            (&[("authorization", "Bearer\tk1")], Err(NotBearer)),
            (&[("x-api-key", "")], Err(Length)),
            (&[("x-api-key", &long)], Err(Length)),
            // Looked up as they are, and found nowhere.
            (&[("authorization", "Bearer k1, Bearer k2")], Ok(Some("k1, Bearer k2"))),
            (&[("authorization", "Bearer Bearer k1")], Ok(Some("Bearer k1"))),
            (&[("x-api-key", "Bearer k1")], Ok(Some("Bearer k1"))),
            (&[("proxy-authorization", "Bearer k1"), ("cookie", "api-key=k1")], Ok(None)),
        ];
        for (sent, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in *sent {
                headers.append(*name, HeaderValue::from_str(value).expect("a header value"));
            }
            assert_eq!(presented(&headers), expected.map(|key| key.map(str::as_bytes)), "{sent:?}");
        }
    }
}
