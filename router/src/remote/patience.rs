//! How long a call waits for what, and the name of the failure when it waited in vain.

use std::time::Duration;

use tokio::time::Instant;

use super::Call;
use super::failure::{Failure, FailureKind};
use super::settings::RemoteSettings;

/// The end of one wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// When it ends.
    pub by: Instant,
    kind: FailureKind,
    /// The wait's length, for the message.
    span: Duration,
}

impl Limit {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.by
    }

    /// The failure of having waited till then.
    pub fn failure(&self) -> Failure {
        let seconds = self.span.as_secs_f64();
        let message = match self.kind {
            FailureKind::HeaderTimeout => format!("no answer began within {seconds:.1} s"),
            FailureKind::FirstTokenTimeout => format!("no token came within {seconds:.1} s"),
            FailureKind::TooSlow => format!("no token came within the {seconds:.1} s that this request has for it"),
            FailureKind::IdleTimeout => format!("nothing came for {seconds:.1} s in the midst of the answer"),
            FailureKind::Deadline => format!("the request's deadline passed, {seconds:.1} s after it was sent"),
            _ => format!("the answer was not complete after {seconds:.1} s"),
        };
        Failure::new(self.kind, message)
    }
}

/// The waits of one call.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    started: Instant,
    first_token: Duration,
    idle: Duration,
    total: Duration,
    /// The call's own limit for its first token.
    first_by: Option<Instant>,
    deadline: Option<Instant>,
}

impl Patience {
    /// Starts now.
    pub fn new(settings: &RemoteSettings, call: &Call) -> Self {
        Self {
            started: Instant::now(),
            first_token: settings.first_token_timeout,
            idle: settings.idle_timeout,
            total: settings.timeout,
            first_by: call.first_by.map(Instant::from_std),
            deadline: call.deadline.map(Instant::from_std),
        }
    }

    /// Starts now, for a question that must be answered within `limit`.
    pub fn short(settings: &RemoteSettings, limit: Duration) -> Self {
        let total = limit.min(settings.timeout);
        Self {
            started: Instant::now(),
            first_token: total,
            idle: settings.idle_timeout,
            total,
            first_by: None,
            deadline: None,
        }
    }

    /// The headers of an answer that comes whole: they come with it.
    pub fn whole_headers(&self) -> Limit {
        self.earliest(FailureKind::HeaderTimeout, self.started + self.total)
    }

    /// The headers of a stream.
    pub fn stream_headers(&self) -> Limit {
        self.first(FailureKind::HeaderTimeout)
    }

    /// The first token of a stream.
    pub fn first_token(&self) -> Limit {
        self.first(FailureKind::FirstTokenTimeout)
    }

    /// The next bytes of an answer whose last ones came at `last`.
    pub fn next(&self, last: Instant) -> Limit {
        let idle = self.limit(FailureKind::IdleTimeout, last, last + self.idle);
        let total = self.earliest(FailureKind::TotalTimeout, self.started + self.total);
        if idle.by < total.by { idle } else { total }
    }

    fn first(&self, kind: FailureKind) -> Limit {
        let ours = self.started + self.first_token.min(self.total);
        match self.first_by {
            Some(by) if by < ours => self.earliest(FailureKind::TooSlow, by),
            _ => self.earliest(kind, ours),
        }
    }

    /// This limit, or the deadline if that comes first.
    fn earliest(&self, kind: FailureKind, by: Instant) -> Limit {
        match self.deadline {
            Some(deadline) if deadline <= by => self.limit(FailureKind::Deadline, self.started, deadline),
            _ => self.limit(kind, self.started, by),
        }
    }

    fn limit(&self, kind: FailureKind, from: Instant, by: Instant) -> Limit {
        Limit { by, kind, span: by.saturating_duration_since(from) }
    }

    /// What the client's deadline leaves, if it has one.
    pub fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}
