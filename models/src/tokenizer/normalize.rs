//! What happens to a text before it is cut into words: composing characters, and SentencePiece's visible spaces.

use std::borrow::Cow;

use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer};

/// SentencePiece writes a space as U+2581, a visible block.
pub(super) const VISIBLE_SPACE: &str = "\u{2581}";

/// One step, applied in turn to each stretch of text between special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NormalizeStep {
    /// Canonical composition, Unicode annex 15: `e` + U+0301 becomes `é`.
    Compose,
    /// Literal replacement.
    Replace {
        /// What is looked for.
        from: String,
        /// What is put in its place.
        to: String,
    },
    /// A text put before the stretch.
    Prefix {
        /// What is put first.
        text: String,
        /// Not where the stretch starts with it already.
        unless_there: bool,
        /// Only where the stretch is the start of the whole text.
        first_only: bool,
    },
}

/// Where a stretch of text stands, which decides about the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the start of the whole text.
    Start,
    /// After a special token.
    AfterSpecial,
    /// Continues a text: no prefix whatever the model says (the suffix of fill-in-the-middle).
    Continuation,
}

/// Applies the steps; borrows where none changes anything.
pub(super) fn normalize<'a>(text: &'a str, steps: &[NormalizeStep], place: Place) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    if text.is_empty() {
        return text;
    }
    for step in steps {
        match step {
            NormalizeStep::Compose => {
                if !text.is_ascii() {
                    text = Cow::Owned(compose(&text));
                }
            }
            NormalizeStep::Replace { from, to } => {
                if text.contains(from.as_str()) {
                    text = Cow::Owned(text.replace(from.as_str(), to));
                }
            }
            NormalizeStep::Prefix { text: prefix, unless_there, first_only } => {
                let wanted = match place {
                    Place::Start => true,
                    Place::AfterSpecial => !first_only,
                    Place::Continuation => false,
                };
                if wanted && !(*unless_there && text.starts_with(prefix.as_str())) {
                    text = Cow::Owned(format!("{prefix}{text}"));
                }
            }
        }
    }
    text
}

fn compose(text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    match NFC.normalize(&mut normalized) {
        Ok(()) => normalized.get().to_owned(),
        // The crate's signature allows an error, its NFC has none to give.
        Err(_) => text.to_owned(),
    }
}

/// The steps of a SentencePiece vocabulary: a leading space, then every space visible.
pub(super) fn sentence_piece(add_space_prefix: bool) -> Vec<NormalizeStep> {
    let visible = NormalizeStep::Replace { from: " ".to_owned(), to: VISIBLE_SPACE.to_owned() };
    let prefix = NormalizeStep::Prefix { text: VISIBLE_SPACE.to_owned(), unless_there: false, first_only: false };
    if add_space_prefix { vec![prefix, visible] } else { vec![visible] }
}
