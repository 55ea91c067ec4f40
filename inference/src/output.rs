//! Tokens to text on the caller's side: detokenize, watch for stop strings.
//!
//! A stop string is found wherever token borders fall, and never shown in part: text that could be the
//! beginning of one is held back until it is clear what it is. Linear in the bytes of text times the
//! number of stop strings (Knuth-Morris-Pratt).

use std::collections::VecDeque;

use crate::error::EngineError;
use crate::handle::TokenStream;
use crate::request::{FinishReason, Logprobs, Timing, TokenEvent, Usage};

/// Token ids to text, one after the other.
pub trait Detokenizer {
    /// Text that is certain after this token: `None` while a character is incomplete.
    fn push(&mut self, id: u32) -> Option<String>;
    /// What is left at the end.
    fn finish(&mut self) -> String;
}

/// A token that belongs to the text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextToken {
    /// Its id.
    pub id: u32,
    /// Present if asked for.
    pub logprobs: Option<Logprobs>,
}

/// Text that is certain, and the tokens whose text is out with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// May be empty.
    pub text: String,
    /// A token comes with the piece that holds its last byte.
    pub tokens: Vec<TextToken>,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// One stop string and how much of it the text ends with.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// `borders[n]`: length of the longest proper prefix of `text[..=n]` that is also its suffix.
    borders: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut length = 0;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = borders[length - 1];
            }
            length += usize::from(bytes[at] == bytes[length]);
            borders[at] = length;
        }
        Self { text, borders, matched: 0 }
    }

    /// True if the text with `byte` ends with the whole pattern.
    fn push(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && byte != bytes[self.matched] {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(byte == bytes[self.matched]);
        self.matched == bytes.len()
    }
}

/// Where a token's text lies, in bytes from the start of all text.
#[derive(Debug)]
struct Placed {
    token: TextToken,
    start: usize,
    end: usize,
}

/// Builds text from token ids and stops at stop strings.
#[derive(Debug)]
pub struct TextAssembler<D> {
    detokenizer: D,
    patterns: Vec<Pattern>,
    include_stop: bool,
    /// Decoded but not shown.
    held: String,
    /// Bytes shown.
    shown: usize,
    tokens: VecDeque<Placed>,
    text_tokens: usize,
    stop: Option<String>,
}

impl<D: Detokenizer> TextAssembler<D> {
    /// Stops at the first of `stops` that the text comes to hold (empty ones are passed over), which is
    /// shown only if `include_stop`.
    pub fn new(detokenizer: D, stops: Vec<String>, include_stop: bool) -> Self {
        Self {
            detokenizer,
            patterns: stops.into_iter().filter(|stop| !stop.is_empty()).map(Pattern::new).collect(),
            include_stop,
            held: String::new(),
            shown: 0,
            tokens: VecDeque::new(),
            text_tokens: 0,
            stop: None,
        }
    }

    /// Takes a token; gives the text that is now certain. Nothing more once a stop string was found.
    pub fn push(&mut self, id: u32, logprobs: Option<Logprobs>) -> Piece {
        if self.stop.is_some() {
            return Piece::default();
        }
        let text = self.detokenizer.push(id).unwrap_or_default();
        let start = self.shown + self.held.len();
        self.tokens.push_back(Placed { token: TextToken { id, logprobs }, start, end: start + text.len() });
        self.take_text(&text);
        let keep = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        if self.stop.is_some() { self.show_all() } else { self.show(self.held.len() - keep, false) }
    }

    /// Gives what was held back, at the end of the tokens.
    pub fn finish(&mut self) -> Piece {
        if self.stop.is_some() {
            return Piece::default();
        }
        let rest = self.detokenizer.finish();
        if let Some(last) = self.tokens.back_mut() {
            last.end += rest.len();
        }
        self.take_text(&rest);
        self.show_all()
    }

    /// The stop string that was found.
    pub fn stop(&self) -> Option<&str> {
        self.stop.as_deref()
    }

    /// Tokens with at least a byte in the text shown, and silent ones among them.
    pub fn text_tokens(&self) -> usize {
        self.text_tokens
    }

    /// Adds decoded text to what is held, up to the end of a stop string if one ends in it. Of several
    /// that end at the same byte the longest counts.
    fn take_text(&mut self, text: &str) {
        for (at, byte) in text.bytes().enumerate() {
            let mut found: Option<&Pattern> = None;
            for pattern in &mut self.patterns {
                if pattern.push(byte) && found.is_none_or(|other| pattern.text.len() > other.text.len()) {
                    found = Some(pattern);
                }
            }
            if let Some(pattern) = found {
                self.stop = Some(pattern.text.clone());
                self.held.push_str(&text[..=at]);
                let cut = if self.include_stop { 0 } else { pattern.text.len() };
                self.held.truncate(self.held.len() - cut);
                return;
            }
        }
        self.held.push_str(text);
    }

    fn show_all(&mut self) -> Piece {
        let piece = self.show(self.held.len(), true);
        self.tokens.clear();
        piece
    }

    /// Shows `len` bytes of what is held. Tokens go out once their last byte does; with `all`, also
    /// those that only begin in the text, and silent ones at the end.
    fn show(&mut self, len: usize, all: bool) -> Piece {
        let text: String = self.held.drain(..len).collect();
        self.shown += len;
        let mut tokens = Vec::new();
        while let Some(placed) = self.tokens.front() {
            let is_out = placed.start < self.shown && placed.end <= self.shown;
            let is_last = all && (placed.start < self.shown || self.stop.is_none());
            if !is_out && !is_last {
                break;
            }
            tokens.extend(self.tokens.pop_front().map(|placed| placed.token));
        }
        self.text_tokens += tokens.len();
        Piece { text, tokens }
    }
}

/// What comes out of a [`TextStream`]: perhaps `Prompt`, any number of `Delta`, then exactly one of
/// `Finished` or `Failed`.
#[derive(Debug, Clone)]
pub enum TextEvent {
    /// Log-probabilities of the prompt.
    Prompt(Vec<Option<Logprobs>>),
    /// More text.
    Delta(Piece),
    /// The end, as it should be.
    Finished {
        /// Why; a stop string is [`FinishReason::Stop`].
        reason: FinishReason,
        /// The stop string that ended it, if one did.
        stop: Option<String>,
        /// Tokens that belong to the text; `usage.completion_tokens` counts all that were generated.
        text_tokens: usize,
        /// Token counts.
        usage: Usage,
        /// Times.
        timing: Timing,
    },
    /// The sequence could not go on.
    Failed(EngineError),
}

/// A [`TokenStream`] read as text. Finding a stop string ends the generation in the engine.
pub struct TextStream<D> {
    tokens: Option<TokenStream>,
    assembler: TextAssembler<D>,
    ready: VecDeque<TextEvent>,
}

impl<D: Detokenizer> TextStream<D> {
    /// Reads `tokens` through `assembler`.
    pub fn new(tokens: TokenStream, assembler: TextAssembler<D>) -> Self {
        Self { tokens: Some(tokens), assembler, ready: VecDeque::new() }
    }

    /// The next event; waits for it. `None` after `Finished` or `Failed`.
    pub fn recv(&mut self) -> Option<TextEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = self.tokens.as_mut()?.recv()?;
            self.take(event);
        }
    }

    /// [`Self::recv`] for async callers. Cancel safe.
    pub async fn recv_async(&mut self) -> Option<TextEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = self.tokens.as_mut()?.recv_async().await?;
            self.take(event);
        }
    }

    fn take(&mut self, event: TokenEvent) {
        match event {
            TokenEvent::Prompt(scores) => self.ready.push_back(TextEvent::Prompt(scores)),
            TokenEvent::Token { id, logprobs } => {
                let piece = self.assembler.push(id, logprobs);
                self.show(piece);
                if self.assembler.stop().is_some() {
                    self.end_at_stop();
                }
            }
            TokenEvent::Finished { reason, usage, timing } => {
                let piece = self.assembler.finish();
                self.show(piece);
                let reason = if self.assembler.stop().is_some() { FinishReason::Stop } else { reason };
                self.finish(reason, usage, timing);
            }
            TokenEvent::Failed(error) => {
                self.tokens = None;
                self.ready.push_back(TextEvent::Failed(error));
            }
        }
    }

    fn show(&mut self, piece: Piece) {
        if !piece.is_empty() {
            self.ready.push_back(TextEvent::Delta(piece));
        }
    }

    fn end_at_stop(&mut self) {
        if let Some(tokens) = self.tokens.take() {
            let (usage, timing) = (tokens.usage(), tokens.timing());
            tokens.stop();
            self.finish(FinishReason::Stop, usage, timing);
        }
    }

    fn finish(&mut self, reason: FinishReason, usage: Usage, timing: Timing) {
        self.tokens = None;
        let stop = self.assembler.stop().map(str::to_owned);
        let text_tokens = self.assembler.text_tokens();
        self.ready.push_back(TextEvent::Finished { reason, stop, text_tokens, usage, timing });
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
