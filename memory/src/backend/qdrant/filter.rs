//! A [`Filter`] as a condition of Qdrant's that takes at least what the filter takes.
//!
//! Qdrant's comparisons are not ours (`1` is not `1.0` to it, a key with a dot is a path), so a record carries
//! its facts as numbers: a hash, salted with its partition, of each field that it has and of each value a field
//! has. Equality, `in`, `exists` and what needs a field to be there become look-ups of such numbers; times and
//! versions are ranges. The rest (`not`, `ne`, a text's order) narrows nothing. Every record that comes back is
//! asked again by [`crate::filter::CompiledFilter`].

use serde_json::{Number, Value, json};

use crate::backend::Selection;
use crate::backend::terms::Numbering;
use crate::filter::{Bounds, Filter};
use crate::record::{Record, Timestamp};
use crate::scope::Partition;

/// Largest number that Qdrant's ranges, which are 64-bit floats, hold exactly with all below it.
const MAX_RANGE: u64 = 1 << 53;

/// A number as ranges see it: a larger one is as large as can be, which keeps the order.
pub(super) fn bounded(number: u64) -> u64 {
    number.min(MAX_RANGE)
}

/// The numbers of what a record's fields are, sorted.
pub(super) fn facts(record: &Record) -> Vec<i64> {
    let provenance = &record.provenance;
    let fields = [
        ("kind", json!(record.kind)),
        ("project", json!(record.scope.project)),
        ("session", json!(record.scope.session)),
        ("language", json!(provenance.language)),
        ("path", json!(provenance.path)),
        ("symbol", json!(provenance.symbol)),
        ("commit", json!(provenance.commit)),
        ("trust", json!(provenance.trust)),
        ("created", json!(record.created)),
        ("updated", json!(record.updated)),
        ("version", json!(record.version)),
        ("pinned", json!(record.pinned)),
    ];
    let numbers = Numbering::of(&record.scope.partition);
    let mut facts = Vec::new();
    for (name, value) in &fields {
        collect(&numbers, name, value, &mut facts);
    }
    for (key, value) in &record.metadata {
        inside(&numbers, "metadata", key, value, &mut facts);
    }
    facts.sort_unstable();
    facts.dedup();
    facts
}

/// Its depth is that of a parsed document, at most 128.
fn collect(numbers: &Numbering, name: &str, value: &Value, facts: &mut Vec<i64>) {
    if value.is_null() {
        return;
    }
    facts.push(numbers.word(name));
    facts.extend(equality(numbers, name, value));
    match value {
        Value::Array(items) => facts.extend(items.iter().filter_map(|item| equality(numbers, name, item))),
        Value::Object(object) => object.iter().for_each(|(key, value)| inside(numbers, name, key, value, facts)),
        _ => {}
    }
}

/// A key that is empty or has a dot cannot be named by a filter.
fn inside(numbers: &Numbering, name: &str, key: &str, value: &Value, facts: &mut Vec<i64>) {
    if !key.is_empty() && !key.contains('.') {
        collect(numbers, &format!("{name}.{key}"), value, facts);
    }
}

/// The number of a field that has this value; `None` for arrays and objects.
fn equality(numbers: &Numbering, name: &str, value: &Value) -> Option<i64> {
    let value = match value {
        Value::String(text) => format!("\"{text}"),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => by_value(number),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(numbers.word(&format!("{name}\0{value}")))
}

/// Numbers that are equal by value have one name; some that are not, past 2^53, share theirs.
fn by_value(number: &Number) -> String {
    let value = number.as_f64().unwrap_or(f64::NAN);
    format!("{:x}", if value == 0.0 { 0 } else { value.to_bits() })
}

/// The wall around a partition.
pub(super) fn wall(partition: &Partition) -> Vec<Value> {
    vec![equal("tenant", partition.tenant.as_str()), equal("domain", partition.domain.as_str())]
}

/// Conditions that never change for a record: where it is kept and what kind it is.
pub(super) fn placed(selection: &Selection) -> Vec<Value> {
    let mut must = wall(&selection.scope.partition);
    must.extend(selection.scope.project.as_ref().map(|name| equal("project", name.as_str())));
    must.extend(selection.scope.session.as_ref().map(|name| equal("session", name.as_str())));
    if !selection.kinds.is_empty() {
        must.push(json!({"key": "kind", "match": {"any": selection.kinds}}));
    }
    must
}

/// What is selected and alive at `now`, or more.
pub(super) fn selected(selection: &Selection, now: Timestamp) -> Value {
    let mut must = placed(selection);
    let numbers = Numbering::of(&selection.scope.partition);
    must.extend(selection.filter.as_ref().and_then(|filter| wider(filter, &numbers)));
    json!({"must": must, "must_not": [dead(now)]})
}

/// Past its time at `now`.
pub(super) fn dead(now: Timestamp) -> Value {
    json!({"key": "dies", "range": {"lte": bounded(now.0)}})
}

/// `key` is or holds `value`.
pub(super) fn equal(key: &str, value: impl Into<Value>) -> Value {
    json!({"key": key, "match": {"value": value.into()}})
}

/// `key` is or holds one of `values`, at least one.
pub(super) fn any(key: &str, values: &[i64]) -> Value {
    json!({"key": key, "match": {"any": values}})
}

/// A condition that is met by every record that `filter` takes; `None`: any record may be taken.
pub(super) fn wider(filter: &Filter, numbers: &Numbering) -> Option<Value> {
    match filter {
        Filter::And(parts) => {
            let parts: Vec<Value> = parts.iter().filter_map(|part| wider(part, numbers)).collect();
            (!parts.is_empty()).then(|| json!({"must": parts}))
        }
        Filter::Or(parts) => {
            let parts: Vec<Value> = parts.iter().map(|part| wider(part, numbers)).collect::<Option<_>>()?;
            (!parts.is_empty()).then(|| json!({"should": parts}))
        }
        Filter::Not(_) | Filter::Ne(_) => None,
        Filter::Eq(eq) => Some(among(numbers, &eq.field, std::slice::from_ref(&eq.value))),
        Filter::In(among_values) if among_values.values.is_empty() => None,
        Filter::In(among_values) => Some(among(numbers, &among_values.field, &among_values.values)),
        Filter::Range(bounds) => Some(range(numbers, bounds)),
        Filter::Exists(presence) => Some(there(numbers, &presence.field)),
        Filter::Glob(glob) => Some(there(numbers, &glob.field)),
    }
}

fn there(numbers: &Numbering, field: &str) -> Value {
    equal("facts", numbers.word(field))
}

fn among(numbers: &Numbering, field: &str, values: &[Value]) -> Value {
    let facts: Option<Vec<i64>> = values.iter().map(|value| equality(numbers, field, value)).collect();
    facts.map_or_else(|| there(numbers, field), |facts| any("facts", &facts))
}

/// Bounds count as met when equal: rounding to a 64-bit float keeps the order, but may make two numbers one.
fn range(numbers: &Numbering, bounds: &Bounds) -> Value {
    if !matches!(bounds.field.as_str(), "created" | "updated" | "version") {
        return there(numbers, &bounds.field);
    }
    let number =
        |bound: &Option<Value>| bound.as_ref().and_then(Value::as_f64).map(|bound| bound.min(MAX_RANGE as f64));
    let least = number(&bounds.gt).into_iter().chain(number(&bounds.gte)).reduce(f64::max);
    let most = number(&bounds.lt).into_iter().chain(number(&bounds.lte)).reduce(f64::min);
    match (least, most) {
        (None, None) => there(numbers, &bounds.field),
        (least, most) => {
            let given = [("gte", least), ("lte", most)].into_iter().filter_map(|(name, bound)| Some((name, bound?)));
            json!({"key": bounds.field, "range": given.collect::<std::collections::BTreeMap<_, _>>()})
        }
    }
}
