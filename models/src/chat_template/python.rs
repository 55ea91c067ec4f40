//! The Python that chat templates lean on: its JSON, its dates, its string methods.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::Value as Json;

/// A `raise_exception` call, kept as the source of the error it becomes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RaisedByTemplate(pub(super) String);

/// Adds filters, functions and methods to the environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    // Python's None is not iterable, minijinja's is.
    environment.add_test("iterable", |value: Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Iterable)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(RaisedByTemplate(message)))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
}

/// Takes `{% generation %}` and `{% endgeneration %}` out: they only mark which tokens are trained on. A comment in
/// their place keeps what they do to the white space around them.
pub(super) fn without_generation_tags(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        kept.push_str(before);
        let Some(length) = tag.find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inside = &tag[2..length - 2];
        let name = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        if name == "generation" || name == "endgeneration" {
            let open = inside.chars().next().filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
            let close = inside.chars().last().filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
            let _ = write!(kept, "{{#{open} {close}#}}");
        } else {
            kept.push_str(&tag[..length]);
        }
        rest = &tag[length..];
    }
    kept.push_str(rest);
    kept
}

/// A JSON value for the template; every string, keys too, goes through `guard`.
pub(super) fn to_template(value: &Json, guard: &dyn Fn(&str) -> String) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Value::from(number),
            (None, Some(number), _) => Value::from(number),
            (None, None, number) => Value::from(number.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(guard(text)),
        Json::Array(items) => Value::from(items.iter().map(|item| to_template(item, guard)).collect::<Vec<Value>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, item)| (guard(key), to_template(item, guard))))
        }
    }
}

/// Methods that Python's strings have and minijinja-contrib leaves out, then those it has.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                return Ok(partition(text, separator, name == "rpartition").into_iter().map(Value::from).collect());
            }
            "index" => {
                let (wanted,): (&str,) = from_args(args)?;
                let at =
                    text.find(wanted).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
                return Ok(Value::from(text[..at].chars().count()));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn partition<'a>(text: &'a str, separator: &'a str, last: bool) -> [&'a str; 3] {
    let split = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
    match split {
        Some((left, right)) => [left, separator, right],
        None if last => ["", "", text],
        None => [text, "", ""],
    }
}

/// How `json.dumps` writes: what stands between items and after keys, and how far each level is indented.
struct JsonStyle {
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    sort: bool,
}

/// Deeper values are cut off with an error (Python's own limit is about a thousand).
const JSON_DEPTH: usize = 256;

/// `json.dumps(value, ensure_ascii=False, ...)`, as transformers defines the filter: no HTML escapes.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        Some(width) if !width.is_none() => Some(usize::try_from(width)?.min(64)),
        _ => None,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut text = String::new();
    write_json(&mut text, value, &JsonStyle { item, key, indent, ascii, sort }, 0)?;
    Ok(Value::from(text))
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    if depth > JSON_DEPTH {
        return Err(Error::new(ErrorKind::BadSerialization, format!("tojson: nested deeper than {JSON_DEPTH}")));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style.ascii),
        ValueKind::Map => {
            let mut fields: Vec<(String, Value)> = Vec::new();
            for key in value.try_iter()? {
                fields.push((key.to_string(), value.get_item(&key)?));
            }
            if style.sort {
                fields.sort_by(|left, right| left.0.cmp(&right.0));
            }
            write_items(out, ('{', '}'), &fields, style, depth, |out, (key, item)| {
                write_string(out, key, style.ascii);
                out.push_str(&style.key);
                write_json(out, item, style, depth + 1)
            })?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(out, ('[', ']'), &items, style, depth, |out, item| write_json(out, item, style, depth + 1))?;
        }
        kind => {
            return Err(Error::new(ErrorKind::BadSerialization, format!("tojson: {kind} has no JSON form")));
        }
    }
    Ok(())
}

fn write_items<T>(
    out: &mut String,
    (open, close): (char, char),
    items: &[T],
    style: &JsonStyle,
    depth: usize,
    mut write: impl FnMut(&mut String, &T) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item);
        }
        new_line(out, style, depth + 1);
        write(out, item)?;
    }
    if !items.is_empty() {
        new_line(out, style, depth);
    }
    out.push(close);
    Ok(())
}

fn new_line(out: &mut String, style: &JsonStyle, depth: usize) {
    if let Some(width) = style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width * depth));
    }
}

/// Integers as they are, floats as Python's `repr`: `1.0`, `1e-05`, `1e+16`.
fn write_number(out: &mut String, value: &Value) {
    let text = match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => format!("{number:?}"),
        _ => value.to_string(),
    };
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
        }
        None => out.push_str(&text),
    }
}

/// Marks of user text come from this plane; they stay as they are even where a template asks for ASCII.
pub(super) const MARKS: std::ops::RangeInclusive<u32> = 0xF0000..=0xFFFFD;

fn write_string(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control if (control as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other if ascii && !other.is_ascii() && !MARKS.contains(&(other as u32)) => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `datetime.now().strftime(format)`, in UTC so that a prompt does not depend on the server's time zone.
fn strftime(format: &str, now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let _ = match letters.next() {
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:02}", year % 100),
            Some('m') => write!(text, "{month:02}"),
            Some('d') => write!(text, "{day:02}"),
            Some('B') => write!(text, "{month_name}"),
            Some('b' | 'h') => write!(text, "{}", &month_name[..3]),
            Some('A') => write!(text, "{day_name}"),
            Some('a') => write!(text, "{}", &day_name[..3]),
            Some('H') => write!(text, "{:02}", second / 3600),
            Some('I') => write!(text, "{:02}", (second / 3600 + 11) % 12 + 1),
            Some('p') => write!(text, "{}", if second < 43_200 { "AM" } else { "PM" }),
            Some('M') => write!(text, "{:02}", second / 60 % 60),
            Some('S') => write!(text, "{:02}", second % 60),
            Some('F') => write!(text, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(text, "{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60),
            Some('%') => write!(text, "%"),
            Some(other) => write!(text, "%{other}"),
            None => write!(text, "%"),
        };
    }
    text
}

/// Year, month and day of a day counted from 1 January 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years are 146,097 days; the loop below then runs under 400 times.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if left < length {
            return (year, month, left + 1);
        }
        left -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        let check = |seconds: u64, expected: &str| {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%Y-%m-%d %H:%M:%S %a %d %b %Y 100%%", now), expected);
        };
        check(0, "1970-01-01 00:00:00 Thu 01 Jan 1970 100%");
        check(951_782_399, "2000-02-28 23:59:59 Mon 28 Feb 2000 100%");
        check(951_782_400, "2000-02-29 00:00:00 Tue 29 Feb 2000 100%");
        check(1_735_689_599, "2024-12-31 23:59:59 Tue 31 Dec 2024 100%");
        check(4_107_542_400, "2100-03-01 00:00:00 Mon 01 Mar 2100 100%");
    }

    #[test]
    fn generation_tags_become_comments() {
        assert_eq!(
            without_generation_tags("a{%- generation -%}b{% endgeneration %}c{% if x %}"),
            "a{#- -#}b{# #}c{% if x %}"
        );
        assert_eq!(without_generation_tags("{% open"), "{% open");
    }
}
