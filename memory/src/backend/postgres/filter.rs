//! A [`Filter`] as a condition on the column `facts` (jsonb), with the same meaning as [`Filter::matches`].
//!
//! Every leaf is two-valued (`coalesce(.., false)`), so `NOT` and `ne` hold for a field that is not there.

use globset::GlobBuilder;
use postgres::types::Json;
use serde_json::{Map, Number, Value, json};

use super::sql::{Sql, without_nul};
use crate::error::{MemoryError, Result};
use crate::filter::{Bounds, Filter};
use crate::record::Record;

/// What filters see of a record, as one JSON object.
pub(super) fn facts(record: &Record) -> Value {
    let provenance = &record.provenance;
    comparable(&json!({
        "kind": record.kind.as_str(),
        "project": record.scope.project,
        "session": record.scope.session,
        "language": provenance.language,
        "path": provenance.path,
        "symbol": provenance.symbol,
        "commit": provenance.commit,
        "trust": provenance.trust,
        "created": record.created,
        "updated": record.updated,
        "version": record.version,
        "pinned": record.pinned,
        "metadata": record.metadata,
    }))
}

/// The same value with texts that jsonb can hold.
fn comparable(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Array(items) => Value::Array(items.iter().map(comparable).collect()),
        Value::Object(object) => {
            let fields = object.iter().map(|(key, value)| (without_nul(key), comparable(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// Appends the condition of a filter that was validated.
pub(super) fn condition(sql: &mut Sql, filter: &Filter) -> Result<()> {
    match filter {
        Filter::And(parts) => joined(sql, parts, " AND ", "true")?,
        Filter::Or(parts) => joined(sql, parts, " OR ", "false")?,
        Filter::Not(part) => {
            sql.push("NOT ");
            condition(sql, part)?;
        }
        Filter::Eq(eq) => equals(sql, &eq.field, std::slice::from_ref(&eq.value)),
        Filter::Ne(ne) => {
            sql.push("NOT ");
            equals(sql, &ne.field, std::slice::from_ref(&ne.value));
        }
        Filter::In(among) => equals(sql, &among.field, &among.values),
        Filter::Range(bounds) => range(sql, bounds),
        Filter::Exists(presence) => {
            let field = field(sql, &presence.field);
            sql.push(&format!("coalesce(jsonb_typeof({field}) <> 'null', false)"));
        }
        Filter::Glob(glob) => {
            let regex = byte_regex(&glob.pattern)?;
            let field = field(sql, &glob.field);
            let text = format!("convert_from(convert_to({field} #>> '{{}}', 'UTF8'), 'LATIN1')");
            sql.push(&format!("coalesce(CASE jsonb_typeof({field}) WHEN 'string' THEN {text} ~ "));
            sql.bind(regex, "text").push(" END, false)");
        }
    }
    Ok(())
}

fn joined(sql: &mut Sql, parts: &[Filter], word: &str, empty: &str) -> Result<()> {
    sql.push("(");
    if parts.is_empty() {
        sql.push(empty);
    }
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            sql.push(word);
        }
        condition(sql, part)?;
    }
    sql.push(")");
    Ok(())
}

/// The expression of a field. `->` with a text finds keys of objects only, never a place in an array.
fn field(sql: &mut Sql, name: &str) -> String {
    let (head, rest) = name.split_once('.').unwrap_or((name, ""));
    let keys = std::iter::once(head).chain(rest.split('.').filter(|key| !key.is_empty()));
    let mut expression = "facts".to_owned();
    for key in keys {
        let place = sql.place(without_nul(key), "text");
        expression = format!("{expression} -> {place}");
    }
    format!("({expression})")
}

fn equals(sql: &mut Sql, name: &str, values: &[Value]) {
    let field = field(sql, name);
    let values: Vec<Json<Value>> = values.iter().map(|value| Json(comparable(value))).collect();
    let place = sql.place(values, "jsonb[]");
    sql.push(&format!(
        "coalesce({field} = ANY({place}) OR CASE jsonb_typeof({field}) WHEN 'array' THEN EXISTS \
         (SELECT FROM jsonb_array_elements({field}) AS item WHERE item = ANY({place})) END, false)"
    ));
}

fn range(sql: &mut Sql, bounds: &Bounds) {
    let field = field(sql, &bounds.field);
    let given = [(">", &bounds.gt), (">=", &bounds.gte), ("<", &bounds.lt), ("<=", &bounds.lte)];
    sql.push("(true");
    for (operator, bound) in given {
        match bound {
            Some(Value::String(text)) => {
                // The character that stands for U+0000 sorts behind most; here it is put before all, on both sides.
                let place = sql.place(in_order(text), "text");
                sql.push(&format!(
                    " AND coalesce(CASE jsonb_typeof({field}) WHEN 'string' THEN replace(replace({field} #>> '{{}}', \
                     E'\\u0001', E'\\u0001\\u0002'), E'\\uFDD0', E'\\u0001\\u0001') COLLATE \"C\" {operator} {place} END, false)"
                ));
            }
            Some(Value::Number(number)) => {
                let compared = compared(sql, &format!("({field} #>> '{{}}')::numeric"), operator, number);
                sql.push(&format!(
                    " AND coalesce(CASE jsonb_typeof({field}) WHEN 'number' THEN {compared} END, false)"
                ));
            }
            _ => {}
        }
    }
    sql.push(")");
}

/// A text without U+0000 that sorts among others so written as it does among texts.
fn in_order(text: &str) -> String {
    text.replace('\u{1}', "\u{1}\u{2}").replace('\0', "\u{1}\u{1}")
}

/// Integers exactly, others as 64-bit floats, as [`Filter::matches`] does.
fn compared(sql: &mut Sql, value: &str, operator: &str, bound: &Number) -> String {
    let text = bound.to_string();
    if bound.is_f64() {
        let place = sql.place(text, "text");
        return format!("{value}::float8 {operator} {place}::float8");
    }
    let place = sql.place(text, "text");
    format!(
        "CASE WHEN scale({value}) > 0 THEN {value}::float8 {operator} {place}::float8 \
         ELSE {value} {operator} {place}::numeric END"
    )
}

/// A glob as a regular expression over the bytes of a text, each byte as the character of its number.
///
/// Globs are matched byte by byte (`?` is one byte), so the text is read as Latin-1 on PostgreSQL's side too.
fn byte_regex(pattern: &str) -> Result<String> {
    let invalid = |message: String| MemoryError::Invalid { field: "filter.glob.pattern".to_owned(), message };
    let pattern = without_nul(pattern);
    let glob = GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build();
    let glob = glob.map_err(|error| invalid(error.to_string()))?;
    let regex = glob.regex();
    let mut rest = regex.strip_prefix("(?-u)").unwrap_or(regex);
    let mut out = String::with_capacity(rest.len());
    while let Some(escape) = rest.find("\\x") {
        // `\\x` after an escaped backslash is that backslash and a plain x.
        let slashes = rest[..escape].bytes().rev().take_while(|byte| *byte == b'\\').count();
        let byte = rest.get(escape + 2..escape + 4).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if slashes.is_multiple_of(2) => {
                out.push_str(&rest[..escape]);
                out.push(char::from(byte));
                rest = &rest[escape + 4..];
            }
            _ => {
                out.push_str(&rest[..escape + 2]);
                rest = &rest[escape + 2..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}
