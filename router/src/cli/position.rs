//! `FILE:LINE[:COLUMN]`: where in a file a gap is to be filled.

use std::path::PathBuf;
use std::str::FromStr;

/// A place in a file. Lines and columns count from 1, columns in characters; without a column the end
/// of the line is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub path: PathBuf,
    /// Line.
    pub line: usize,
    /// Column: the gap is before its character.
    pub column: Option<usize>,
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not FILE:LINE or FILE:LINE:COLUMN");
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
        let (head, last) = text.rsplit_once(':').ok_or_else(expected)?;
        let last = number(last).ok_or_else(expected)?;
        // A path may hold colons itself: the column is only taken if a line stands before it.
        let (path, line, column) = match head.rsplit_once(':').and_then(|(path, line)| Some((path, number(line)?))) {
            Some((path, line)) => (path, line, Some(last)),
            None => (head, last, None),
        };
        if path.is_empty() {
            return Err(expected());
        }
        Ok(Self { path: PathBuf::from(path), line, column })
    }
}

impl Position {
    /// The text before and after the gap.
    pub fn split<'a>(&self, text: &'a str) -> Result<(&'a str, &'a str), String> {
        let mut start = 0;
        for passed in 1..self.line {
            match text[start..].find('\n') {
                Some(newline) => start += newline + 1,
                None => {
                    return Err(format!("{} has {passed} lines, line {} was named", self.path.display(), self.line));
                }
            }
        }
        let rest = &text[start..];
        let line = rest.split('\n').next().unwrap_or(rest);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let at = match self.column {
            None => line.len(),
            Some(column) => {
                let ends = line.char_indices().map(|(at, _)| at).chain([line.len()]);
                ends.clone().nth(column - 1).ok_or_else(|| {
                    let columns = ends.count();
                    format!("line {} has {columns} columns, column {column} was named", self.line)
                })?
            }
        };
        Ok(text.split_at(start + at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let position = |path: &str, line, column| Ok(Position { path: path.into(), line, column });
        for (text, expected) in [
            ("a.rs:3", position("a.rs", 3, None)),
            ("a.rs:3:7", position("a.rs", 3, Some(7))),
            ("C:a.rs:3", position("C:a.rs", 3, None)),
            ("C:1:a.rs:3:7", position("C:1:a.rs", 3, Some(7))),
        ] {
            assert_eq!(text.parse::<Position>(), expected);
        }
        for text in ["a.rs", "a.rs:", "a.rs:0", "a.rs:x", ":3", "a.rs:-1", "a.rs:99999999999999999999999"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn splits() {
        let text = "fn a() {\n    é;\r\n}\n";
        for (position, expected) in [
            ("f:1", Ok(("fn a() {", "\n    é;\r\n}\n"))),
            ("f:1:1", Ok(("", text))),
            ("f:1:4", Ok(("fn ", "a() {\n    é;\r\n}\n"))),
            ("f:2", Ok(("fn a() {\n    é;", "\r\n}\n"))),
            ("f:2:6", Ok(("fn a() {\n    é", ";\r\n}\n"))),
            ("f:2:7", Ok(("fn a() {\n    é;", "\r\n}\n"))),
            ("f:4", Ok((text, ""))),
            ("f:4:1", Ok((text, ""))),
            ("f:2:8", Err("line 2 has 7 columns, column 8 was named".to_owned())),
            ("f:5", Err("f has 4 lines, line 5 was named".to_owned())),
        ] {
            assert_eq!(position.parse::<Position>().unwrap().split(text), expected, "{position}");
        }
    }
}
