//! Ids back to text while they arrive.
//!
//! A token may end inside a character; its bytes wait for the next. What is sent is final: no text is taken back, no
//! character is split, and U+FFFD stands only for bytes that no continuation could complete. O(1) per token, amortised.

use crate::tokenizer::Tokenizer;

/// How ids are turned into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Control tokens give no text; otherwise their own, such as `<|im_end|>`.
    pub skip_special: bool,
    /// The ids begin a text, so the space that SentencePiece puts first is dropped. False for a generation, which
    /// continues its prompt. Without effect on byte-level vocabularies.
    pub text_start: bool,
}

impl DecodeOptions {
    /// For tokens a model generates after a prompt.
    pub const GENERATED: DecodeOptions = DecodeOptions { skip_special: true, text_start: false };
}

/// Text of one sequence, token by token.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The next space is one that encoding added.
    drop_space: bool,
    /// The start of a character whose rest has not come: at most three bytes between calls.
    pending: Vec<u8>,
}

impl DecodeStream {
    pub(crate) fn new(tokenizer: Tokenizer, options: DecodeOptions) -> Self {
        let drop_space = options.text_start && tokenizer.drops_leading_space();
        DecodeStream { tokenizer, skip_special: options.skip_special, drop_space, pending: Vec::new() }
    }

    /// Takes the next id; gives the text that is certain now, if any. An id beyond the vocabulary gives none.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let control = self.tokenizer.is_control(id);
        if control && self.skip_special {
            // The character before it can no longer be completed.
            return Some(self.finish()).filter(|text| !text.is_empty());
        }
        let mut bytes = self.tokenizer.token_bytes(id)?;
        if self.drop_space && !control && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let text = self.take_certain();
        Some(text).filter(|text| !text.is_empty())
    }

    /// The end of the text: bytes still waiting become U+FFFD. The stream can go on afterwards.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }

    /// Everything up to an unfinished character.
    fn take_certain(&mut self) -> String {
        let mut text = String::with_capacity(self.pending.len());
        let mut done = 0;
        loop {
            match std::str::from_utf8(&self.pending[done..]) {
                Ok(valid) => {
                    text.push_str(valid);
                    done = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = done + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[done..valid]));
                    done = valid;
                    match error.error_len() {
                        Some(invalid) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            done += invalid;
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..done);
        text
    }
}
