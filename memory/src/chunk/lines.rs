//! The lines of a text, and how many of them that belong together are cut where they are too many.

/// A text and where its lines begin.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Of a text whose lines end in `\n`.
    pub fn new(text: &'a str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let mut starts: Vec<usize> = std::iter::once(0).chain(after).collect();
        if starts.last() == Some(&text.len()) {
            starts.pop();
        }
        Self { text, starts }
    }

    /// How many there are; an unfinished last one counts.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// A line, from 0, without its end.
    pub fn get(&self, line: usize) -> &'a str {
        self.span(line, line)
    }

    /// Lines `first..=last` without the last one's end.
    pub fn span(&self, first: usize, last: usize) -> &'a str {
        let end = self.starts.get(last + 1).map_or(self.text.len(), |next| next - 1);
        self.text[self.starts[first]..end].trim_end_matches('\n')
    }

    /// Bytes of lines `first..=last`, the ends between them included.
    pub fn bytes(&self, first: usize, last: usize) -> usize {
        self.starts.get(last + 1).copied().unwrap_or(self.text.len()) - self.starts[first]
    }

    /// Whether there is nothing on a line.
    pub fn blank(&self, line: usize) -> bool {
        self.get(line).trim().is_empty()
    }

    /// Lines `first..=last` in pieces of at most `max` bytes, blank lines around each dropped, each with its
    /// first and last line from 1.
    pub fn split(&self, first: usize, last: usize, max: usize) -> Vec<(&'a str, (u32, u32))> {
        let number = |line: usize| u32::try_from(line + 1).unwrap_or(u32::MAX);
        let mut pieces = Vec::new();
        let mut at = first;
        while at <= last {
            if self.blank(at) {
                at += 1;
                continue;
            }
            let mut end = self.cut(at, last, max);
            let next = end + 1;
            while self.blank(end) {
                end -= 1; // stops at `at`, which is not blank
            }
            let text = self.span(at, end);
            if text.len() <= max {
                pieces.push((text, (number(at), number(end))));
            } else {
                pieces.extend(cut_line(text, max).map(|piece| (piece, (number(at), number(at)))));
            }
            at = next;
        }
        pieces
    }

    /// The last line of a piece that begins at `at`: before the least indented line of its second half, a line
    /// after a blank one before others, so that a piece begins where something begins.
    fn cut(&self, at: usize, last: usize, max: usize) -> usize {
        if self.bytes(at, last) <= max {
            return last;
        }
        let fits = (at + 1..=last).take_while(|line| self.bytes(at, *line) <= max).last().unwrap_or(at);
        let rank = |line: usize| {
            let indent = self.get(line).len() - self.get(line).trim_start().len();
            let closes = self.get(line).trim_start().starts_with(['}', ')', ']']);
            (usize::from(closes), indent, usize::from(!self.blank(line - 1)), usize::MAX - line)
        };
        let half = self.bytes(at, fits) / 2;
        let candidates = (at + 1..=(fits + 1).min(last)).filter(|line| self.bytes(at, line - 1) >= half);
        candidates.filter(|line| !self.blank(*line)).min_by_key(|line| rank(*line)).map_or(fits, |line| line - 1)
    }
}

/// Pieces of a line that is too long, cut after `;`, `}`, `,` or a space in the second half where there is one.
fn cut_line(line: &str, max: usize) -> impl Iterator<Item = &str> {
    let mut rest = line;
    let pieces = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.floor_char_boundary(max);
        if end < rest.len() {
            let half = rest.floor_char_boundary(end / 2);
            let after = |marks: &[char]| rest[half..end].rfind(marks).map(|at| half + at + 1);
            end = after(&[';', '}']).or_else(|| after(&[',', ' '])).unwrap_or(end);
        }
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    });
    pieces.filter(|piece| !piece.trim().is_empty())
}
