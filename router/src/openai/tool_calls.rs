//! Tool calls in a model's text: `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, the form
//! that Qwen's and Hermes' templates ask for, and the same JSON without tags as the whole answer,
//! which is what small models make of it.
//!
//! The parser works on text as it streams. What is not a well-formed call stays text, tags
//! included: nothing the model said is lost, and no call is made up. Without tags a call must name
//! a tool that was offered, for JSON alone is also a fair answer.

use serde_json::Value;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// How an answer that is a call without tags begins, white space aside.
const BARE: &str = "{\"name\":\"";

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

/// Where in the answer the parser is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So far the answer could be a call without tags.
    #[default]
    Start,
    /// It begins like one: held to the end, which tells.
    Bare,
    /// In text.
    Outside,
    /// After `<tool_call>`.
    Inside,
}

/// Splits streamed text into text and calls. Each byte is looked at a bounded number of times.
#[derive(Debug, Default)]
pub struct ToolCallParser {
    /// Names of the tools that were offered.
    offered: Vec<String>,
    /// Text that could still become part of a tag, or the inside of a call.
    pending: String,
    place: Place,
    /// Bytes of `pending` in which no closing tag begins.
    scanned: usize,
    /// Calls found so far.
    calls: usize,
}

impl ToolCallParser {
    /// A parser for an answer to a request that offered these tools.
    pub fn new(offered: Vec<String>) -> Self {
        Self { offered, ..Self::default() }
    }

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
        match self.place {
            // Models often stop right after the arguments, without the closing tag.
            Place::Inside => {
                self.place = Place::Outside;
                return vec![self.call(&rest).unwrap_or_else(|| Piece::Text(format!("{OPEN}{rest}")))];
            }
            Place::Bare => {
                self.place = Place::Outside;
                return self.bare_calls(&rest).unwrap_or_else(|| vec![Piece::Text(rest)]);
            }
            Place::Start | Place::Outside => {}
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
        match self.place {
            Place::Start => self.step_start(),
            Place::Bare => false,
            Place::Outside => self.step_outside(pieces),
            Place::Inside => self.step_inside(pieces),
        }
    }

    /// Leaves the start once it is clear how the answer begins.
    fn step_start(&mut self) -> bool {
        let mut wanted = BARE.chars();
        for found in self.pending.chars().filter(|c| !c.is_whitespace()) {
            match wanted.next() {
                None => break,
                Some(expected) if expected == found => {}
                Some(_) => {
                    self.place = Place::Outside;
                    return true;
                }
            }
        }
        if wanted.as_str().is_empty() {
            self.place = Place::Bare;
        }
        false
    }

    fn step_outside(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if let Some(at) = self.pending.find(OPEN) {
            // Line breaks before a call belong to the format, not to the answer.
            push_text(pieces, self.pending[..at].trim_end());
            self.pending.drain(..at + OPEN.len());
            self.place = Place::Inside;
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
        self.place = Place::Outside;
        self.scanned = 0;
        match self.call(&body) {
            Some(call) => pieces.push(call),
            None => push_text(pieces, &format!("{OPEN}{body}{CLOSE}")),
        }
        true
    }

    /// The calls that a whole answer is: one JSON object after the other, each naming an offered tool.
    fn bare_calls(&mut self, body: &str) -> Option<Vec<Piece>> {
        let values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
        let calls: Vec<Piece> = values.map(|value| as_call(&value.ok()?)).collect::<Option<_>>()?;
        let offered = |call: &Piece| matches!(call, Piece::Call { name, .. } if self.offered.contains(name));
        if calls.is_empty() || !calls.iter().all(offered) {
            return None;
        }
        self.calls += calls.len();
        Some(calls)
    }

    /// The call that the inside of a tag is, if it is one.
    fn call(&mut self, body: &str) -> Option<Piece> {
        let call = as_call(&serde_json::from_str(body.trim()).ok()?)?;
        self.calls += 1;
        Some(call)
    }
}

/// `{"name": .., "arguments": ..}` as a call.
fn as_call(value: &Value) -> Option<Piece> {
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
    Some(Piece::Call { name, arguments })
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
        let mut parser = ToolCallParser::new(vec!["f".into(), "g".into()]);
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
            ("{\"name\": \"f\", \"arguments\": {\"a\": 1}}", vec![call("f", r#"{"a":1}"#)]),
            ("\n{ \"name\":\"f\"}\n{\"name\": \"g\", \"arguments\": {}}\n", vec![call("f", "{}"), call("g", "{}")]),
            ("{\"name\": \"h\", \"arguments\": {}}", vec![text("{\"name\": \"h\", \"arguments\": {}}")]),
            ("{\"name\": \"f\"} is it", vec![text("{\"name\": \"f\"} is it")]),
            ("{\"name\": \"f\", \"argu", vec![text("{\"name\": \"f\", \"argu")]),
            ("{\"nam", vec![text("{\"nam")]),
            ("{ x }", vec![text("{ x }")]),
            ("  \n", vec![text("  \n")]),
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
