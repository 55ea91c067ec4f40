//! Answers as lines for people.

use serde_json::Value;

/// Rows under their heads, columns as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Where a record comes from, on one line: path and lines, then symbol, or its kind.
pub fn source(record: &Value) -> String {
    let from = &record["provenance"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = if from["path"].is_string() { word(&from["path"]) } else { word(&record["kind"]) };
    if let (Some(first), Some(last)) = (from["lines"][0].as_u64(), from["lines"][1].as_u64()) {
        text.push_str(&format!(":{first}-{last}"));
    }
    if from["symbol"].is_string() {
        text.push_str(&format!(" {}", word(&from["symbol"])));
    }
    one_line(&text, 80)
}

/// Text on one line, cut to `chars`; control characters do not reach the terminal.
pub fn one_line(text: &str, chars: usize) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    match line.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Text as it is but for control characters other than line breaks and tabs.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_for_people() {
        let rows = [vec!["A".into(), "LONG".into()], vec!["bb".into(), "c".into()]];
        assert_eq!(table(&rows), "A   LONG\nbb  c\n");
        assert_eq!(one_line("a\n\tb \u{1b}[31mc", 80), "a b [31mc");
        assert_eq!(one_line("éééé", 2), "éé…");
        assert_eq!(printable("a\u{7}\nb\tc"), "a\nb\tc");
        let record = json!({"kind": "code", "provenance": {"path": "a.rs", "lines": [3, 9], "symbol": "f"}});
        assert_eq!(source(&record), "a.rs:3-9 f");
        assert_eq!(source(&json!({"kind": "knowledge", "provenance": {}})), "knowledge");
    }
}
