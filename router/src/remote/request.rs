//! What a request carries: where it goes, and its headers.

use std::time::Duration;

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;

use super::settings::{RemoteError, RemoteKind, RemoteSettings};
use super::{Endpoint, portkey};

/// What belongs to the client's own connection, or is its secret: never sent on.
const KEPT_BACK: [HeaderName; 13] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
];

/// The gateway gives up a little later than we do: it then frees what it holds, and the client hears of its own deadline.
const GATEWAY_GRACE: Duration = Duration::from_millis(100);

/// The addresses of a backend.
#[derive(Debug)]
pub(super) struct Addresses {
    chat: Url,
    completions: Url,
    embeddings: Url,
    pub models: Url,
    /// The base without the version: `/ready`, `/health` and the gateway's greeting lie there.
    pub root: Url,
}

impl Addresses {
    /// The addresses under a base URL such as `http://host:port/v1`.
    pub fn under(base: &Url) -> Self {
        let at = |tail: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}/{tail}", base.path().trim_end_matches('/')));
            url
        };
        let mut root = base.clone();
        let path = base.path().trim_end_matches('/');
        root.set_path(path.rsplit_once('/').map_or("", |(parent, _)| parent));
        Self {
            chat: at("chat/completions"),
            completions: at("completions"),
            embeddings: at("embeddings"),
            models: at("models"),
            root,
        }
    }

    /// Where a call goes.
    pub fn of(&self, endpoint: Endpoint) -> Url {
        match endpoint {
            Endpoint::Chat => self.chat.clone(),
            Endpoint::Completions => self.completions.clone(),
            Endpoint::Embeddings => self.embeddings.clone(),
        }
    }

    /// An address under the root.
    pub fn at_root(&self, tail: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("{}{tail}", self.root.path().trim_end_matches('/')));
        url
    }
}

/// The headers of every request to this backend.
pub(super) fn fixed_headers(settings: &RemoteSettings) -> Result<HeaderMap, RemoteError> {
    let mut headers = match settings.kind {
        RemoteKind::Portkey => portkey::headers(settings)?,
        RemoteKind::Peer | RemoteKind::OpenAiCompatible => HeaderMap::new(),
    };
    for line in &settings.headers {
        // The value is not shown: it may be a key.
        let wrong = || settings.invalid("headers", "a line is not `name: value` in ASCII".to_owned());
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if let Some(key) = &settings.api_key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| settings.invalid("api_key", "holds characters that no header can; is there a line break?"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

/// The headers of one request: the call's, without what must stay here, under the backend's own. `left`: what the
/// client's deadline leaves.
pub(super) fn headers(
    settings: &RemoteSettings,
    fixed: &HeaderMap,
    mut call: HeaderMap,
    accept: &'static str,
    left: Option<Duration>,
) -> HeaderMap {
    for name in &KEPT_BACK {
        call.remove(name);
    }
    if settings.kind == RemoteKind::Portkey {
        portkey::trace(&mut call);
        if let Some(left) = left {
            let mut limit = left + GATEWAY_GRACE;
            if let Some(own) = portkey::own_timeout(settings) {
                limit = limit.min(own);
            }
            call.insert(portkey::REQUEST_TIMEOUT, HeaderValue::from(limit.as_millis() as u64));
        }
    }
    for (name, value) in fixed {
        call.insert(name.clone(), value.clone());
    }
    call.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    call.insert(header::ACCEPT, HeaderValue::from_static(accept));
    call
}

/// The secrets among the headers, which no message may repeat.
pub(super) fn secrets(settings: &RemoteSettings) -> Vec<String> {
    let keys = [&settings.api_key, &settings.portkey.api_key, &settings.portkey.virtual_key];
    let mut secrets: Vec<String> = keys.into_iter().flatten().map(|key| key.expose().to_owned()).collect();
    secrets.extend(settings.headers.iter().filter_map(|line| Some(line.split_once(':')?.1.trim().to_owned())));
    // A short value is no secret, and hiding it would tear words apart.
    secrets.retain(|secret| secret.len() >= 8);
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn addresses_lie_under_the_base() {
        let table = [
            ("http://h:1/v1", "http://h:1/v1/chat/completions", "http://h:1/ready"),
            ("https://h/api/v1", "https://h/api/v1/chat/completions", "https://h/api/ready"),
            ("http://h:1", "http://h:1/chat/completions", "http://h:1/ready"),
        ];
        for (base, chat, ready) in table {
            let addresses = Addresses::under(&Url::parse(base).expect("a URL"));
            assert_eq!(addresses.of(Endpoint::Chat).as_str(), chat);
            assert_eq!(addresses.at_root("/ready").as_str(), ready);
        }
    }

    #[test]
    fn a_clients_secrets_stay_here_and_ours_win() {
        let mut settings = RemoteSettings::new("peer", RemoteKind::Peer, "http://h/v1");
        settings.api_key = Some(Secret::new("our-key"));
        settings.headers = vec!["x-team: a:b".into()];
        let fixed = fixed_headers(&settings).expect("good settings");
        let mut call = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer theirs"),
            ("cookie", "theirs"),
            ("x-api-key", "theirs"),
            ("content-length", "999"),
            ("x-team", "theirs"),
            ("traceparent", "00-1-2-01"),
        ] {
            call.insert(name, HeaderValue::from_static(value));
        }
        let sent = headers(&settings, &fixed, call, "application/json", Some(Duration::ZERO));
        assert_eq!(sent["authorization"], "Bearer our-key");
        assert_eq!(sent["x-team"], "a:b");
        assert_eq!(sent["traceparent"], "00-1-2-01");
        assert!(sent.values().all(|value| !value.as_bytes().windows(6).any(|part| part == b"theirs")), "{sent:?}");
        assert!(!sent.contains_key("content-length") && !sent.contains_key("x-portkey-request-timeout"));
        assert!(!format!("{sent:?}").contains("our-key"));
    }

    #[test]
    fn the_gateway_hears_of_a_deadline_but_keeps_its_own_limit() {
        let second = Some(Duration::from_secs(1));
        let table = [
            (None, second, Some("1100")),
            (None, None, None),
            (Some(r#"{"request_timeout": 200}"#), second, Some("200")),
            (Some(r#"{"request_timeout": 20000}"#), second, Some("1100")),
            (Some(r#"{"request_timeout": 200}"#), None, None),
            (Some("pc-saved"), second, Some("1100")),
        ];
        for (config, left, expected) in table {
            let mut settings = RemoteSettings::new("hosted", RemoteKind::Portkey, "http://h/v1");
            settings.portkey.config = config.map(str::to_owned);
            let sent = headers(&settings, &HeaderMap::new(), HeaderMap::new(), "application/json", left);
            let limit = sent.get(portkey::REQUEST_TIMEOUT).map(|value| value.to_str().expect("digits"));
            assert_eq!(limit, expected, "{config:?}, {left:?} left");
        }
    }

    #[test]
    fn wrong_headers_name_the_key_and_keep_the_secret() {
        let table: [(&str, &str, &str); 3] = [
            ("", "hush\nhush", "`backends.peer.api_key`"),
            ("hush", "k", "`backends.peer.headers`"),
            ("a b: hush", "k", "`backends.peer.headers`"),
        ];
        for (header, key, expected) in table {
            let mut settings = RemoteSettings::new("peer", RemoteKind::Peer, "http://h/v1");
            settings.headers =
                [header].iter().filter(|header| !header.is_empty()).map(|header| (*header).into()).collect();
            settings.api_key = Some(Secret::new(key));
            let message = fixed_headers(&settings).expect_err("wrong").to_string();
            assert!(message.contains(expected) && !message.contains("hush"), "{message}");
        }
    }
}
