//! Server-sent events, read as they arrive.
//!
//! The parser follows <https://html.spec.whatwg.org/multipage/server-sent-events.html> but for `id` and `retry`, which
//! mean nothing to a client that never reconnects. However the bytes are cut into chunks, the events are the same. An
//! event whose line lies in one chunk is a slice of that chunk: nothing is copied.

use axum::body::Bytes;

/// One event that was dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The `event` field, if it was there.
    pub name: Option<Bytes>,
    /// The `data` lines, joined by line feeds.
    pub data: Bytes,
}

/// An event grew past the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventTooLarge {
    /// Most bytes of an event.
    pub limit: usize,
}

/// Takes chunks in, gives events out.
#[derive(Debug)]
pub(super) struct Parser {
    limit: usize,
    /// What is still to be read of the last chunk.
    chunk: Bytes,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    data: Data,
    name: Option<Bytes>,
    /// The last line ended in CR: an LF that follows belongs to it.
    after_cr: bool,
    /// No line was read yet: a byte order mark may begin it.
    at_start: bool,
}

/// The data lines of the event in progress.
#[derive(Debug)]
enum Data {
    None,
    /// One line, as it came.
    Line(Bytes),
    /// Several, joined by line feeds.
    Lines(Vec<u8>),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Line(line) => line.len(),
            Self::Lines(lines) => lines.len(),
        }
    }

    fn add(&mut self, line: Bytes) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::Line(line),
            Self::Line(first) => Self::Lines([&first[..], b"\n", &line[..]].concat()),
            Self::Lines(mut lines) => {
                lines.push(b'\n');
                lines.extend_from_slice(&line);
                Self::Lines(lines)
            }
        };
    }

    fn take(&mut self) -> Option<Bytes> {
        match std::mem::replace(self, Self::None) {
            Self::None => None,
            Self::Line(line) => Some(line),
            Self::Lines(lines) => Some(lines.into()),
        }
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl Parser {
    /// A parser that refuses events of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            chunk: Bytes::new(),
            partial: Vec::new(),
            data: Data::None,
            name: None,
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes the next chunk; the last one must have been read to its end.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "{} bytes were not read", self.chunk.len());
        self.chunk = chunk;
    }

    /// The next event; `None`: more bytes are needed.
    pub fn next(&mut self) -> Result<Option<Event>, EventTooLarge> {
        while let Some(line) = self.line()? {
            if let Some(event) = self.take(line)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The next whole line, without its end.
    fn line(&mut self) -> Result<Option<Bytes>, EventTooLarge> {
        if self.after_cr && !self.chunk.is_empty() {
            self.after_cr = false;
            if self.chunk[0] == b'\n' {
                let _line_feed = self.chunk.split_to(1);
            }
        }
        let Some(end) = self.chunk.iter().position(|&byte| byte == b'\n' || byte == b'\r') else {
            self.check(self.partial.len() + self.chunk.len())?;
            self.partial.extend_from_slice(&self.chunk);
            self.chunk.clear();
            return Ok(None);
        };
        let mut line = self.chunk.split_to(end);
        self.after_cr = self.chunk.split_to(1)[0] == b'\r';
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(&line);
            line = std::mem::take(&mut self.partial).into();
        }
        if std::mem::take(&mut self.at_start) && line.starts_with(BYTE_ORDER_MARK) {
            line = line.slice(BYTE_ORDER_MARK.len()..);
        }
        Ok(Some(line))
    }

    /// What a line does: an empty one dispatches, the others fill the event.
    fn take(&mut self, line: Bytes) -> Result<Option<Event>, EventTooLarge> {
        if line.is_empty() {
            let name = self.name.take();
            return Ok(self.data.take().map(|data| Event { name, data }));
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => {
                let value = line.slice(colon + 1..);
                (&line[..colon], if value.starts_with(b" ") { value.slice(1..) } else { value })
            }
            None => (&line[..], Bytes::new()),
        };
        match field {
            b"data" => {
                self.check(self.data.len() + value.len())?;
                self.data.add(value);
            }
            b"event" => self.name = Some(value).filter(|name| !name.is_empty()),
            _ => {} // a comment, or a field without a meaning here
        }
        Ok(None)
    }

    fn check(&self, size: usize) -> Result<(), EventTooLarge> {
        if size > self.limit { Err(EventTooLarge { limit: self.limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of a text that arrives in pieces of these sizes, the sizes taken in turn.
    fn events(text: &[u8], sizes: &[usize]) -> Vec<(Option<String>, String)> {
        let mut parser = Parser::new(1 << 20);
        let mut found = Vec::new();
        let mut rest = Bytes::copy_from_slice(text);
        let string = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            parser.push(rest.split_to((*size).clamp(1, rest.len())));
            while let Some(event) = parser.next().expect("small events") {
                found.push((event.name.map(string), string(event.data)));
            }
        }
        found
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let table: [(&str, &[(&str, &str)]); 16] = [
            ("data: a\n\n", &[("", "a")]),
            ("data:a\n\n", &[("", "a")]),
            ("data:  a\n\n", &[("", " a")]),
            ("data: a\r\n\r\n", &[("", "a")]),
            ("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]),
            ("data: a\ndata: b\n\n", &[("", "a\nb")]),
            ("data\n\n", &[("", "")]),
            ("data\ndata\n\n", &[("", "\n")]),
            ("event: error\ndata: a\n\ndata: b\n\n", &[("error", "a"), ("", "b")]),
            ("event: lost\n\ndata: b\n\n", &[("", "b")]),
            (": keep-alive\n\n:\n\ndata: a\n\n", &[("", "a")]),
            ("id: 7\nretry: 9\nfoo: b\ndata: a\n\n", &[("", "a")]),
            ("\u{feff}data: a\n\n", &[("", "a")]),
            ("data: a\n\n\u{feff}data: b\n\n", &[("", "a")]),
            ("data: a\n", &[]),
            ("data: a: b\n\n", &[("", "a: b")]),
        ];
        for (text, expected) in table {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, data)| ((!name.is_empty()).then(|| (*name).to_owned()), (*data).to_owned()))
                .collect();
            for size in 1..=text.len() {
                assert_eq!(events(text.as_bytes(), &[size]), expected, "{text:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_line_in_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"data: {\"a\": 1}\n\n");
        let mut parser = Parser::new(100);
        parser.push(chunk.clone());
        let event = parser.next().expect("small").expect("whole");
        assert!(chunk.as_ptr_range().contains(&event.data.as_ptr()));
    }

    #[test]
    fn an_event_past_the_limit_is_refused_wherever_it_grows() {
        let table =
            ["data: 0123456789012345", "data: 01234567\ndata: 01234567\n", ": 0123456789012345", "0123456789012345"];
        for text in table {
            for size in [1, 5, 100] {
                let mut parser = Parser::new(15);
                let mut rest = Bytes::from_static(text.as_bytes());
                let mut refused = false;
                while !rest.is_empty() && !refused {
                    parser.push(rest.split_to(size.min(rest.len())));
                    refused = parser.next() == Err(EventTooLarge { limit: 15 });
                }
                assert!(refused, "{text:?} in pieces of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in prop::collection::vec("(data|event|id|:|x|\u{feff}data)(: ?)?[a-zé\u{0}: ]{0,6}", 0..12),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"]), 12),
            sizes in prop::collection::vec(1usize..9, 1..9),
        ) {
            let text: String = lines.iter().zip(&ends).flat_map(|(line, end)| [line.as_str(), end]).collect();
            prop_assert_eq!(events(text.as_bytes(), &sizes), events(text.as_bytes(), &[text.len()]));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..20) {
            prop_assert_eq!(events(&bytes, &[size]), events(&bytes, &[200]));
        }
    }
}
