//! The Portkey gateway's headers: what it is told by them, and what it tells.
//!
//! The self-hosted gateway does not read `x-portkey-retry-count` and `x-portkey-cache`, only its config does; so retries
//! and cache go into an inline config, unless a saved config is named: then the headers are for the hosted gateway.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::settings::{RemoteError, RemoteSettings};
use crate::config::PortkeyCache;

const TRACE_ID: HeaderName = HeaderName::from_static("x-portkey-trace-id");
/// How long the gateway waits for the provider, in milliseconds; past it the answer is 408.
pub(super) const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-portkey-request-timeout");

/// Most tries again that the gateway makes.
const MAX_RETRIES: u32 = 5;

/// What the answer's headers say of its way here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// The model that answered, by its own account.
    pub model: Option<String>,
    /// How often the gateway tried again. It says -1 when all were used in vain; that is `None`, beside a failure.
    pub retries: Option<u32>,
    /// Which target of the gateway's config answered.
    pub option_index: Option<u32>,
    /// `HIT`, `MISS`, `DISABLED`, `SEMANTIC HIT` and so on.
    pub cache_status: Option<String>,
    /// The gateway's trace.
    pub trace_id: Option<String>,
    /// The gateway itself failed.
    pub gateway_exception: Option<bool>,
}

impl Upstream {
    /// Reads the headers of an answer.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            (!value.is_empty()).then(|| value.chars().take(128).collect::<String>())
        };
        Self {
            request_id: text("x-request-id"),
            model: None,
            retries: text("x-portkey-retry-attempt-count").and_then(|count| count.parse().ok()),
            option_index: text("x-portkey-last-used-option-index").as_deref().and_then(target),
            cache_status: text("x-portkey-cache-status"),
            trace_id: text("x-portkey-trace-id"),
            gateway_exception: text("x-portkey-gateway-exception").map(|value| value == "true"),
        }
    }
}

/// The last index of `config.targets[1].targets[0]`; a config without targets says `config`.
fn target(path: &str) -> Option<u32> {
    if let Ok(index) = path.parse() {
        return Some(index);
    }
    path.strip_suffix(']')?.rsplit_once('[')?.1.parse().ok()
}

/// The headers that these settings add to every request.
pub(super) fn headers(settings: &RemoteSettings) -> Result<HeaderMap, RemoteError> {
    let portkey = &settings.portkey;
    let mut headers = HeaderMap::new();
    let mut put = |key: &'static str, name: &'static str, value: &str, secret: bool| {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| settings.invalid(key, "holds characters that no header can; is there a line break?"))?;
        value.set_sensitive(secret);
        headers.insert(HeaderName::from_static(name), value);
        Ok(())
    };
    if let Some(key) = &portkey.api_key {
        put("portkey_api_key", "x-portkey-api-key", key.expose(), true)?;
    }
    if let Some(provider) = &portkey.provider {
        put("portkey_provider", "x-portkey-provider", provider, false)?;
    }
    if let Some(key) = &portkey.virtual_key {
        put("portkey_virtual_key", "x-portkey-virtual-key", key.expose(), true)?;
    }
    if let Some(host) = &portkey.custom_host {
        put("portkey_custom_host", "x-portkey-custom-host", host, false)?;
    }
    if let Some(metadata) = &portkey.metadata {
        let object = object(metadata).map_err(|reason| settings.invalid("portkey_metadata", reason))?;
        put("portkey_metadata", "x-portkey-metadata", &ascii(&object), false)?;
    }
    if portkey.retries > MAX_RETRIES {
        let reason = format!("{} is more than the gateway makes; use 0 to {MAX_RETRIES}", portkey.retries);
        return Err(settings.invalid("portkey_retries", reason));
    }
    let cache = match portkey.cache {
        PortkeyCache::Off => None,
        PortkeyCache::Simple => Some("simple"),
        PortkeyCache::Semantic => Some("semantic"),
    };
    match portkey.config.as_deref().map(str::trim) {
        Some(id) if !id.starts_with('{') => {
            put("portkey_config", "x-portkey-config", id, false)?;
            if portkey.retries > 0 {
                put("portkey_retries", "x-portkey-retry-count", &portkey.retries.to_string(), false)?;
            }
            if let Some(mode) = cache {
                put("portkey_cache", "x-portkey-cache", mode, false)?;
            }
        }
        inline => {
            let mut config = match inline {
                Some(text) => object(text).map_err(|reason| settings.invalid("portkey_config", reason))?,
                None => Map::new(),
            };
            if portkey.retries > 0 {
                config.entry("retry").or_insert_with(|| json!({"attempts": portkey.retries}));
            }
            if let Some(mode) = cache {
                config.entry("cache").or_insert_with(|| json!({"mode": mode}));
            }
            if !config.is_empty() {
                // Its targets may hold the providers' keys.
                put("portkey_config", "x-portkey-config", &ascii(&config), true)?;
            }
        }
    }
    // An account may say it in the model's name: `@provider/model`.
    let chosen = portkey.provider.is_some()
        || portkey.virtual_key.is_some()
        || portkey.config.is_some()
        || portkey.api_key.is_some();
    if !chosen {
        return Err(settings.invalid(
            "kind",
            "a Portkey gateway must be told where to go: set `portkey_provider`, `portkey_config`, `portkey_virtual_key` or \
             `portkey_api_key`",
        ));
    }
    Ok(headers)
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    // What serde says could quote the text, and the text may hold keys.
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("is not a JSON object; write `{\"name\": \"value\"}`".into()),
        Err(error) => Err(format!(
            "is not JSON at line {}, column {}; write `{{\"name\": \"value\"}}`",
            error.line(),
            error.column()
        )),
    }
}

/// JSON in ASCII, as a header must be: other characters as `\u` escapes.
fn ascii(object: &Map<String, Value>) -> String {
    let json = Value::Object(object.clone()).to_string();
    let mut out = String::with_capacity(json.len());
    let mut units = [0u16; 2];
    for character in json.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// The time that an inline config sets itself. The header of a call would win over it, however long.
pub(super) fn own_timeout(settings: &RemoteSettings) -> Option<Duration> {
    let config: Value = serde_json::from_str(settings.portkey.config.as_deref()?).ok()?;
    config.get("request_timeout")?.as_u64().map(Duration::from_millis)
}

/// The gateway's trace of a request gets the id that our log has.
pub(super) fn trace(headers: &mut HeaderMap) {
    if let Some(id) = headers.get(crate::request_id::X_REQUEST_ID).cloned() {
        headers.insert(TRACE_ID, id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::RemoteKind;
    use super::*;
    use crate::config::Secret;

    fn settings(change: impl FnOnce(&mut RemoteSettings)) -> RemoteSettings {
        let mut settings = RemoteSettings::new("hosted", RemoteKind::Portkey, "http://127.0.0.1:8787/v1");
        settings.portkey.provider = Some("openai".into());
        change(&mut settings);
        settings
    }

    #[test]
    fn settings_become_headers() {
        type Change = fn(&mut RemoteSettings);
        let table: [(Change, &[(&str, &str)]); 7] = [
            (|_| {}, &[("x-portkey-provider", "openai")]),
            (|s| s.portkey.retries = 2, &[("x-portkey-config", r#"{"retry":{"attempts":2}}"#)]),
            (
                |s| {
                    s.portkey.config = Some(r#"{"retry": {"attempts": 1}, "targets": []}"#.into());
                    s.portkey.retries = 2;
                    s.portkey.cache = PortkeyCache::Simple;
                },
                &[("x-portkey-config", r#"{"retry":{"attempts":1},"targets":[],"cache":{"mode":"simple"}}"#)],
            ),
            (
                |s| {
                    s.portkey.config = Some("pc-abc".into());
                    s.portkey.retries = 2;
                    s.portkey.cache = PortkeyCache::Semantic;
                },
                &[("x-portkey-config", "pc-abc"), ("x-portkey-retry-count", "2"), ("x-portkey-cache", "semantic")],
            ),
            (
                |s| s.portkey.metadata = Some(r#"{"_user": "Zoë"}"#.into()),
                &[("x-portkey-metadata", r#"{"_user":"Zo\u00eb"}"#)],
            ),
            (|s| s.portkey.virtual_key = Some(Secret::new("vk")), &[("x-portkey-virtual-key", "vk")]),
            (
                |s| {
                    s.portkey.api_key = Some(Secret::new("pk"));
                    s.portkey.custom_host = Some("http://127.0.0.1:1/v1".into());
                },
                &[("x-portkey-api-key", "pk"), ("x-portkey-custom-host", "http://127.0.0.1:1/v1")],
            ),
        ];
        for (change, expected) in table {
            let headers = headers(&settings(change)).expect("good settings");
            for (name, value) in expected {
                assert_eq!(headers.get(*name).and_then(|found| found.to_str().ok()), Some(*value), "{name}");
            }
            let shown = format!("{headers:?}");
            assert!(!shown.contains("vk") && !shown.contains("\"pk\""), "a secret is shown: {shown}");
        }
    }

    #[test]
    fn wrong_settings_name_the_key_and_keep_the_secret() {
        type Change = fn(&mut RemoteSettings);
        let table: [(Change, &str); 6] = [
            (|s| s.portkey.retries = 6, "`backends.hosted.portkey_retries`: 6"),
            (
                |s| s.portkey.config = Some(r#"{"api_key": "hush"#.into()),
                "`backends.hosted.portkey_config`: is not JSON",
            ),
            (|s| s.portkey.metadata = Some("[1]".into()), "`backends.hosted.portkey_metadata`: is not a JSON object"),
            (|s| s.portkey.virtual_key = Some(Secret::new("hush\n")), "`backends.hosted.portkey_virtual_key`"),
            (|s| s.portkey.custom_host = Some("http://h\n".into()), "`backends.hosted.portkey_custom_host`"),
            (|s| s.portkey.provider = None, "set `portkey_provider`"),
        ];
        for (change, expected) in table {
            let message = headers(&settings(change)).expect_err("wrong settings").to_string();
            assert!(message.contains(expected) && !message.contains("hush"), "{message}");
        }
    }

    #[test]
    fn answers_headers_are_read_back() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-request-id", "req-1"),
            ("x-portkey-retry-attempt-count", "2"),
            ("x-portkey-last-used-option-index", "config.targets[1]"),
            ("x-portkey-cache-status", "MISS"),
            ("x-portkey-trace-id", ""),
            ("x-portkey-gateway-exception", "true"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let expected = Upstream {
            request_id: Some("req-1".into()),
            model: None,
            retries: Some(2),
            option_index: Some(1),
            cache_status: Some("MISS".into()),
            trace_id: None,
            gateway_exception: Some(true),
        };
        assert_eq!(Upstream::read(&headers), expected);
        assert_eq!(Upstream::read(&HeaderMap::new()), Upstream::default());
        for (path, index) in [("config", None), ("3", Some(3)), ("config.targets[1].targets[0]", Some(0)), ("]", None)]
        {
            assert_eq!(target(path), index, "{path}");
        }
    }
}
