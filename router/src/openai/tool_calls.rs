//! Tool calls in a model's text: `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, the form
//! that Qwen's and Hermes' templates ask for.
//!
//! The parser works on text as it streams. What is not a well-formed call stays text, tags
//! included: nothing the model said is lost, and no call is made up.

use serde_json::Value;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text for the reader.
    Text(String),
    /// A call.
    Call {
        /// Name of the tool.
        name: String,
        /// Its arguments, as JSON text.
        arguments: String,
    },
}

/// Splits streamed text into text and calls. Each byte is looked at a bounded number of times.
#[derive(Debug, Default)]
pub struct ToolCallParser {
    /// Text that could still become part of a tag, or the inside of an open call.
    pending: String,
    /// Inside `<tool_call>`.
    inside: bool,
    /// Bytes of `pending` in which no closing tag begins.
    scanned: usize,
    /// Calls found so far.
    calls: usize,
}

impl ToolCallParser {
    /// Takes the next text, and returns what is now certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.pending.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// The text is complete: returns what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.pending);
        if self.inside {
            self.inside = false;
            // Models often stop right after the arguments, without the closing tag.
            return match self.call(&rest) {
                Some(call) => vec![call],
                None => vec![Piece::Text(format!("{OPEN}{rest}"))],
            };
        }
        let nothing_but_space_after_calls = self.calls > 0 && rest.trim().is_empty();
        if rest.is_empty() || nothing_but_space_after_calls { Vec::new() } else { vec![Piece::Text(rest)] }
    }

    /// Calls found so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// One tag or one stretch of text; whether there may be more.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.inside { self.step_inside(pieces) } else { self.step_outside(pieces) }
    }

    fn step_outside(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if let Some(at) = self.pending.find(OPEN) {
            // Line breaks before a call belong to the format, not to the answer.
            push_text(pieces, self.pending[..at].trim_end());
            self.pending.drain(..at + OPEN.len());
            self.inside = true;
            self.scanned = 0;
            return true;
        }
        let held = partial_suffix(&self.pending, OPEN);
        let sure = self.pending[..self.pending.len() - held].trim_end().len();
        push_text(pieces, &self.pending[..sure]);
        self.pending.drain(..sure);
        false
    }

    fn step_inside(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(at) = self.pending[self.scanned..].find(CLOSE) else {
            self.scanned = self.pending.len() - partial_suffix(&self.pending, CLOSE);
            return false;
        };
        let at = self.scanned + at;
        let body = self.pending[..at].to_owned();
        self.pending.drain(..at + CLOSE.len());
        self.inside = false;
        self.scanned = 0;
        match self.call(&body) {
            Some(call) => pieces.push(call),
            None => push_text(pieces, &format!("{OPEN}{body}{CLOSE}")),
        }
        true
    }

    /// The call that `body` is, if it is one.
    fn call(&mut self, body: &str) -> Option<Piece> {
        let value: Value = serde_json::from_str(body.trim()).ok()?;
        let name = value.get("name")?.as_str().filter(|name| !name.is_empty())?.to_owned();
        let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(Value::String(text)) => {
                serde_json::from_str::<Value>(text).ok().filter(Value::is_object)?;
                text.clone()
            }
            Some(object @ Value::Object(_)) => object.to_string(),
            Some(_) => return None,
        };
        self.calls += 1;
        Some(Piece::Call { name, arguments })
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if text.is_empty() {
        return;
    }
    if let Some(Piece::Text(last)) = pieces.last_mut() {
        last.push_str(text);
    } else {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// Length of the longest proper beginning of `tag` that `text` ends with.
fn partial_suffix(text: &str, tag: &str) -> usize {
    (1..tag.len().min(text.len() + 1)).rev().find(|&len| text.ends_with(&tag[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of `text`, fed `step` characters at a time, adjacent texts joined.
    fn parse(text: &str, step: usize) -> Vec<Piece> {
        let mut parser = ToolCallParser::default();
        let chars: Vec<char> = text.chars().collect();
        let mut all: Vec<Piece> = Vec::new();
        let mut pieces: Vec<Piece> = Vec::new();
        for chunk in chars.chunks(step) {
            pieces.extend(parser.push(&chunk.iter().collect::<String>()));
        }
        pieces.extend(parser.finish());
        for piece in pieces {
            match (all.last_mut(), piece) {
                (Some(Piece::Text(last)), Piece::Text(text)) => last.push_str(&text),
                (_, piece) => all.push(piece),
            }
        }
        all
    }

    #[test]
    fn calls_and_text_are_told_apart_however_they_arrive() {
        let text = |text: &str| Piece::Text(text.into());
        let call = |name: &str, arguments: &str| Piece::Call { name: name.into(), arguments: arguments.into() };
        let table = [
            ("plain text\nwith lines\n", vec![text("plain text\nwith lines\n")]),
            ("a < b <tool", vec![text("a < b <tool")]),
            ("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", vec![call("f", r#"{"a":1}"#)]),
            (
                "Let me look.\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>\n",
                vec![text("Let me look."), call("f", "{}"), call("g", "{}")],
            ),
            ("<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"é\"}}", vec![call("f", "{\"x\":\"é\"}")]),
            ("<tool_call>{oops}</tool_call> ok", vec![text("<tool_call>{oops}</tool_call> ok")]),
            ("<tool_call>{\"name\": 1}</tool_call>", vec![text("<tool_call>{\"name\": 1}</tool_call>")]),
            ("<tool_call>{\"name\":", vec![text("<tool_call>{\"name\":")]),
            (
                "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 2}\"}</tool_call>",
                vec![call("f", "{\"a\": 2}")],
            ),
            ("", vec![]),
        ];
        for (input, expected) in table {
            for step in [1, 2, 3, 5, 1000] {
                assert_eq!(parse(input, step), expected, "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn text_is_not_held_back_longer_than_a_tag_needs() {
        let mut parser = ToolCallParser::default();
        assert_eq!(parser.push("fn main() {"), [Piece::Text("fn main() {".into())]);
        assert_eq!(parser.push(" <"), []);
        assert_eq!(parser.push("T>"), [Piece::Text(" <T>".into())]);
    }
}
