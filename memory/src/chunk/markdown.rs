//! Sections of Markdown by their headings (CommonMark: ATX and setext), code fences left alone.

use super::lines::Lines;
use super::outline::Item;

/// One item a heading, from it to the next heading of its level or above, named by the headings above it.
pub(super) fn sections(lines: &Lines<'_>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut open: Vec<(usize, usize)> = Vec::new(); // level and item of the sections we stand in
    for (line, level, title) in headings(lines) {
        while let Some((_, item)) = open.pop_if(|(above, _)| *above >= level) {
            items[item].lines.end = line;
        }
        let parent = open.last().map(|(_, item)| *item);
        let around = parent.and_then(|item| items[item].symbol.as_deref());
        let symbol = around.map_or(title.to_owned(), |around| format!("{around} > {title}"));
        open.push((level, items.len()));
        items.push(Item {
            symbol: Some(symbol),
            node: "section",
            lines: line..lines.len(),
            parent,
            defines: true,
            doc: None,
        });
    }
    items
}

/// Longest title taken, bytes.
const MAX_TITLE: usize = 200;

/// Line, level (1 to 6) and title of each heading.
fn headings<'a>(lines: &Lines<'a>) -> Vec<(usize, usize, &'a str)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for number in 0..lines.len() {
        let line = lines.get(number);
        let trimmed = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
            (None, None) => {
                let level = trimmed.bytes().take_while(|byte| *byte == b'#').count();
                let title = trimmed[level..].trim().trim_end_matches('#').trim();
                let spaced = trimmed[level..].starts_with([' ', '\t']);
                if (1..=6).contains(&level) && spaced && !title.is_empty() && title.len() <= MAX_TITLE {
                    found.push((number, level, title));
                } else if let Some(level) = underline(trimmed)
                    && number > 0
                    && let above = lines.get(number - 1).trim()
                    && above.starts_with(char::is_alphanumeric)
                    && above.len() <= MAX_TITLE
                    && found.last().is_none_or(|(line, ..)| *line < number - 1)
                {
                    found.push((number - 1, level, above));
                }
            }
        }
    }
    found
}

/// Level of the heading that such a line makes of the one above.
fn underline(line: &str) -> Option<usize> {
    let all = |mark: char| line.len() >= 3 && line.chars().all(|c| c == mark);
    if all('=') {
        Some(1)
    } else if all('-') {
        Some(2)
    } else {
        None
    }
}
