//! What can go wrong at a backend: a kind for the router to act on, a sentence for people to read.
//!
//! | kind | heals | moves on | counts |
//! |---|---|---|---|
//! | `Refused` `Dns` `ConnectTimeout` `Reset` `Cut` `Timeout` `ServerError` | yes | yes | yes |
//! | `Tls` `HeaderTimeout` `FirstTokenTimeout` `IdleTimeout` `TotalTimeout` `Garbage` `TooLarge` `Gateway` | no | yes | yes |
//! | `RateLimited` `Conflict` | yes | yes | no |
//! | `BadKey` `NoModel` `Unpaid` `ContextExceeded` `TooSlow` | no | yes | no |
//! | `Rejected` `Deadline` | no | no | no |
//!
//! What any client can bring about at will never counts: nobody may close a backend to the others.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::prices::TokenCount;

/// How an attempt at a backend failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nobody listens there, or there is no way there.
    Refused,
    /// The host's name has no address.
    Dns,
    /// The TLS handshake failed: a certificate that is not trusted, or no TLS at all.
    Tls,
    /// No connection within `connect_timeout_s`.
    ConnectTimeout,
    /// Connected, but no response headers in time.
    HeaderTimeout,
    /// A stream began, but nothing of the answer came in time.
    FirstTokenTimeout,
    /// The first token did not come by the time that this one request has for it.
    TooSlow,
    /// Nothing came for `idle_timeout_s` in the midst of an answer.
    IdleTimeout,
    /// The answer was not complete within `timeout_s`.
    TotalTimeout,
    /// The connection broke.
    Reset,
    /// The answer ended before it was complete, however clean the end looked.
    Cut,
    /// What came is no answer of this API: not HTTP, not JSON, a redirect, a web page.
    Garbage,
    /// The answer or one event of it is larger than any sane one.
    TooLarge,
    /// 401 and 403: the backend does not take our key.
    BadKey,
    /// 402, or a quota that is used up: the account behind the key must be paid.
    Unpaid,
    /// 404, 405, 410, 501: no such model or endpoint there.
    NoModel,
    /// The request is longer than the model's context there; another may hold more.
    ContextExceeded,
    /// 429.
    RateLimited,
    /// 408: the backend gave up waiting for what is behind it.
    Timeout,
    /// 409.
    Conflict,
    /// Any other 4xx: the request itself is at fault, and would be anywhere.
    Rejected,
    /// 5xx.
    ServerError,
    /// The client's own deadline passed.
    Deadline,
    /// The Portkey gateway itself failed or was asked wrongly, not a model behind it.
    Gateway,
}

impl FailureKind {
    /// All kinds, for tests and metrics.
    pub const ALL: [Self; 24] = [
        Self::Refused,
        Self::Dns,
        Self::Tls,
        Self::ConnectTimeout,
        Self::HeaderTimeout,
        Self::FirstTokenTimeout,
        Self::TooSlow,
        Self::IdleTimeout,
        Self::TotalTimeout,
        Self::Reset,
        Self::Cut,
        Self::Garbage,
        Self::TooLarge,
        Self::BadKey,
        Self::Unpaid,
        Self::NoModel,
        Self::ContextExceeded,
        Self::RateLimited,
        Self::Timeout,
        Self::Conflict,
        Self::Rejected,
        Self::ServerError,
        Self::Deadline,
        Self::Gateway,
    ];

    /// Whether the same backend may well answer when asked again. Our own time limits do not heal: they were long.
    pub fn heals(self) -> bool {
        match self {
            Self::Refused
            | Self::Dns
            | Self::ConnectTimeout
            | Self::Reset
            | Self::Cut
            | Self::RateLimited
            | Self::Timeout
            | Self::Conflict
            | Self::ServerError => true,
            Self::Tls
            | Self::HeaderTimeout
            | Self::FirstTokenTimeout
            | Self::TooSlow
            | Self::IdleTimeout
            | Self::TotalTimeout
            | Self::Garbage
            | Self::TooLarge
            | Self::BadKey
            | Self::Unpaid
            | Self::NoModel
            | Self::ContextExceeded
            | Self::Rejected
            | Self::Deadline
            | Self::Gateway => false,
        }
    }

    /// Whether another backend may answer where this one did not.
    pub fn moves_on(self) -> bool {
        !matches!(self, Self::Rejected | Self::Deadline)
    }

    /// Whether it says something about the backend's health, so that the breaker counts it.
    pub fn counts(self) -> bool {
        match self {
            Self::Refused
            | Self::Dns
            | Self::Tls
            | Self::ConnectTimeout
            | Self::HeaderTimeout
            | Self::FirstTokenTimeout
            | Self::IdleTimeout
            | Self::TotalTimeout
            | Self::Reset
            | Self::Cut
            | Self::Garbage
            | Self::TooLarge
            | Self::Timeout
            | Self::ServerError
            | Self::Gateway => true,
            Self::BadKey
            | Self::Unpaid
            | Self::NoModel
            | Self::ContextExceeded
            | Self::RateLimited
            | Self::Conflict
            | Self::Rejected
            | Self::TooSlow
            | Self::Deadline => false,
        }
    }

    /// The kind's name in metrics, logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::ConnectTimeout => "connect_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::TooSlow => "too_slow",
            Self::IdleTimeout => "idle_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::Reset => "reset",
            Self::Cut => "cut",
            Self::Garbage => "garbage",
            Self::TooLarge => "too_large",
            Self::BadKey => "bad_key",
            Self::Unpaid => "unpaid",
            Self::NoModel => "no_model",
            Self::ContextExceeded => "context_exceeded",
            Self::RateLimited => "rate_limited",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
            Self::ServerError => "server_error",
            Self::Deadline => "deadline",
            Self::Gateway => "gateway",
        }
    }
}

/// An attempt at a backend that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What to do about it.
    pub kind: FailureKind,
    /// The HTTP status, if an answer came.
    pub status: Option<u16>,
    /// A sentence for the client and the log: no key, no address, at most a few hundred characters.
    pub message: String,
    /// When the backend wants to be asked again.
    pub retry_after: Option<Duration>,
    /// What the backend had already counted, and so will bill.
    pub usage: Option<TokenCount>,
}

impl Failure {
    /// A failure without an answer.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, status: None, message: message.into(), retry_after: None, usage: None }
    }

    /// With the status that came.
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// What an error of the HTTP client means. The texts are ours: the client's own would name the backend's address.
    pub(super) fn from_http(error: &reqwest::Error) -> Self {
        let connecting = error.is_connect();
        if connecting && error.is_timeout() {
            return Self::new(FailureKind::ConnectTimeout, "no connection within the time allowed");
        }
        if error.is_dns() {
            return Self::new(FailureKind::Dns, "the host's name has no address");
        }
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = next {
            if let Some(found) = Self::from_cause(cause, connecting) {
                return found;
            }
            next = inner(cause);
        }
        match connecting {
            true => Self::new(FailureKind::Refused, "no connection could be made"),
            false => Self::new(FailureKind::Reset, "the connection broke"),
        }
    }

    /// What one cause in the chain says, if it says enough.
    fn from_cause(cause: &(dyn StdError + 'static), connecting: bool) -> Option<Self> {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(Self::new(FailureKind::Tls, tls_message(tls)));
        }
        if let Some(http) = cause.downcast_ref::<hyper::Error>() {
            return Self::from_hyper(http);
        }
        let kind = cause.downcast_ref::<io::Error>()?.kind();
        let (kind, message) = match kind {
            io::ErrorKind::ConnectionRefused => (FailureKind::Refused, "the connection was refused"),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                (FailureKind::Refused, "the host cannot be reached")
            }
            io::ErrorKind::TimedOut if connecting => {
                (FailureKind::ConnectTimeout, "no connection within the time allowed")
            }
            // Plain TCP reads nothing while it connects: only a handshake can be cut there.
            io::ErrorKind::UnexpectedEof if connecting => {
                (FailureKind::Tls, "TLS: the connection was closed in the handshake")
            }
            io::ErrorKind::UnexpectedEof => (FailureKind::Cut, "the answer ended before it was complete"),
            io::ErrorKind::InvalidInput => (FailureKind::Garbage, "the answer is not valid HTTP"),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut => (FailureKind::Reset, "the connection broke"),
            _ => return None,
        };
        Some(Self::new(kind, message))
    }

    fn from_hyper(error: &hyper::Error) -> Option<Self> {
        if error.is_parse_too_large() {
            Some(Self::new(FailureKind::TooLarge, "the answer's headers are too large"))
        } else if error.is_parse() {
            Some(Self::new(FailureKind::Garbage, "the answer is not valid HTTP"))
        } else if error.is_incomplete_message() {
            Some(Self::new(FailureKind::Reset, "the connection was closed before an answer came"))
        } else {
            None
        }
    }
}

/// What went wrong with TLS, without the host's name.
fn tls_message(error: &rustls::Error) -> String {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    match error {
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "TLS: the certificate is for another host".to_owned()
        }
        _ => format!("TLS: {error}"),
    }
}

/// The next cause. An `io::Error` shows the source of what it wraps, and would hide that itself.
fn inner<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => cause.source(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

impl StdError for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_agree_with_the_table_and_have_names_of_their_own() {
        let table = include_str!("failure.rs");
        let mut rows = 0;
        for line in table.lines().filter_map(|line| line.strip_prefix("//! | `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let says = |cell: usize| cells[cell] == "yes";
            for kind in FailureKind::ALL.iter().filter(|kind| cells[0].contains(&format!("{kind:?}`"))) {
                // `Timeout` is also the end of other names.
                if !cells[0].split(['`', ' ']).any(|word| word == format!("{kind:?}")) {
                    continue;
                }
                rows += 1;
                assert_eq!((kind.heals(), kind.moves_on(), kind.counts()), (says(1), says(2), says(3)), "{kind:?}");
            }
        }
        assert_eq!(rows, FailureKind::ALL.len());
        let mut names: Vec<&str> = FailureKind::ALL.iter().map(|kind| kind.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FailureKind::ALL.len());
    }
}
