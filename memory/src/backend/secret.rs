//! A password, key or URL with one: never printed.

use std::fmt;

/// Text that must not reach a log, an error or a metric: printed as `***` wherever it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `message` without any of `secrets`; what a driver or a server says may quote what it was given.
pub(super) fn scrub(message: &str, secrets: &[&str]) -> String {
    let mut secrets: Vec<&str> = secrets.iter().copied().filter(|secret| !secret.is_empty()).collect();
    // Longest first: a URL holds its password, and must go as a whole.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(message.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn is_taken_out_of_messages() {
        let check = |message: &str, secrets: &[&str], expected: &str| assert_eq!(scrub(message, secrets), expected);
        check("no route to redis://:pw@h:1", &["pw", "redis://:pw@h:1"], "no route to ***");
        check("bad password pw", &["pw", ""], "bad password ***");
        check("refused", &["pw"], "refused");
    }
}
