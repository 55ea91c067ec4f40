//! A filter that was checked once and is asked about many records.

use std::cmp::Ordering;

use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Number, Value};

use super::field::{Field, Found, Outline};
use super::{Bounds, Filter, Pattern};
use crate::error::{MemoryError, Result};
use crate::record::Record;

/// A checked [`Filter`]: fields resolved, globs compiled.
#[derive(Debug, Clone)]
pub struct CompiledFilter {
    root: Node,
}

#[derive(Debug, Clone)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    /// One of these values; a single one for `eq`.
    Equals(Field, Vec<Value>),
    Range(Field, Vec<Bound>),
    Exists(Field),
    Glob(Field, Box<GlobMatcher>),
}

/// The field's order against `value` must be one of `wanted`.
#[derive(Debug, Clone)]
struct Bound {
    value: Value,
    wanted: &'static [Ordering],
}

impl CompiledFilter {
    pub(super) fn new(filter: &Filter) -> Result<Self> {
        let mut nodes = 0;
        let root = compile(filter, "filter", 1, &mut nodes)?;
        Ok(Self { root })
    }

    /// Whether `record` meets it.
    pub fn matches(&self, record: &Record) -> bool {
        self.root.matches(record)
    }

    /// Whether a record of this outline meets it; `None` if that hangs on what the outline does not tell.
    pub fn decides(&self, outline: &Outline<'_>) -> Option<bool> {
        self.root.decides(outline)
    }
}

impl Node {
    fn matches(&self, record: &Record) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.matches(record)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(record)),
            Self::Not(part) => !part.matches(record),
            Self::Equals(field, _) | Self::Range(field, _) | Self::Exists(field) | Self::Glob(field, _) => {
                self.holds(field.of(record))
            }
        }
    }

    /// Kleene's three values: a part that is not known does not matter where the others decide.
    fn decides(&self, outline: &Outline<'_>) -> Option<bool> {
        let any = |parts: &[Self], decisive: bool| {
            let mut known = Some(!decisive);
            for part in parts {
                match part.decides(outline) {
                    Some(value) if value == decisive => return Some(decisive),
                    Some(_) => {}
                    None => known = None,
                }
            }
            known
        };
        match self {
            Self::And(parts) => any(parts, false),
            Self::Or(parts) => any(parts, true),
            Self::Not(part) => part.decides(outline).map(|value| !value),
            Self::Equals(field, _) | Self::Range(field, _) | Self::Exists(field) | Self::Glob(field, _) => {
                field.outlined(outline).map(|found| self.holds(found))
            }
        }
    }

    /// Whether a condition on a field holds for its value; for `and`, `or` and `not`, which have none, it does not.
    fn holds(&self, found: Option<Found<'_>>) -> bool {
        let Some(found) = found else { return false };
        match self {
            Self::Equals(_, values) => values.iter().any(|value| equals(found, value)),
            Self::Range(_, bounds) => bounds.iter().all(|bound| bound.holds(found)),
            Self::Exists(_) => true,
            Self::Glob(_, glob) => found.text().is_some_and(|text| glob.is_match(text)),
            Self::And(_) | Self::Or(_) | Self::Not(_) => false,
        }
    }
}

impl Bound {
    fn holds(&self, found: Found<'_>) -> bool {
        let order = match (found, &self.value) {
            (Found::Text(text), Value::String(bound)) => Some(text.cmp(bound.as_str())),
            (Found::Json(Value::String(text)), Value::String(bound)) => Some(text.cmp(bound)),
            (Found::Number(number), Value::Number(bound)) => order(&number.into(), bound),
            (Found::Json(Value::Number(number)), Value::Number(bound)) => order(number, bound),
            _ => None,
        };
        order.is_some_and(|order| self.wanted.contains(&order))
    }
}

/// Depth and count are bounded here, so neither this nor [`Node::matches`] can overflow the stack.
fn compile(filter: &Filter, at: &str, depth: usize, nodes: &mut usize) -> Result<Node> {
    *nodes += 1;
    if *nodes > Filter::MAX_NODES {
        let limit = Filter::MAX_NODES;
        return Err(MemoryError::TooLarge { what: "filter in conditions", size: *nodes, limit });
    }
    if depth > Filter::MAX_DEPTH {
        return Err(MemoryError::TooLarge { what: "filter in levels", size: depth, limit: Filter::MAX_DEPTH });
    }
    let mut parts = |parts: &[Filter], word: &str| {
        let each = |(i, part)| compile(part, &format!("{at}.{word}[{i}]"), depth + 1, nodes);
        parts.iter().enumerate().map(each).collect::<Result<Vec<_>>>()
    };
    Ok(match filter {
        Filter::And(all) => Node::And(parts(all, "and")?),
        Filter::Or(any) => Node::Or(parts(any, "or")?),
        Filter::Not(part) => Node::Not(Box::new(compile(part, &format!("{at}.not"), depth + 1, nodes)?)),
        Filter::Eq(eq) => equal(&eq.field, std::slice::from_ref(&eq.value), &format!("{at}.eq"))?,
        Filter::Ne(ne) => Node::Not(Box::new(equal(&ne.field, std::slice::from_ref(&ne.value), &format!("{at}.ne"))?)),
        Filter::In(among) => equal(&among.field, &among.values, &format!("{at}.in"))?,
        Filter::Range(bounds) => range(bounds, &format!("{at}.range"))?,
        Filter::Exists(presence) => Node::Exists(Field::parse(&presence.field, &format!("{at}.exists"))?),
        Filter::Glob(pattern) => glob(pattern, &format!("{at}.glob"))?,
    })
}

fn equal(field: &str, values: &[Value], at: &str) -> Result<Node> {
    let field = Field::parse(field, at)?;
    if values.len() > Filter::MAX_VALUES {
        return Err(MemoryError::TooLarge { what: "`in` in values", size: values.len(), limit: Filter::MAX_VALUES });
    }
    if values.iter().any(Value::is_null) {
        return Err(invalid(at, "null equals nothing: ask with `exists`, or `not` of it"));
    }
    Ok(Node::Equals(field, values.to_vec()))
}

fn range(bounds: &Bounds, at: &str) -> Result<Node> {
    use Ordering::{Equal, Greater, Less};
    let field = Field::parse(&bounds.field, at)?;
    let given: Vec<Bound> = [
        (&bounds.gt, &[Greater] as &'static [Ordering]),
        (&bounds.gte, &[Greater, Equal]),
        (&bounds.lt, &[Less]),
        (&bounds.lte, &[Less, Equal]),
    ]
    .into_iter()
    .filter_map(|(value, wanted)| value.clone().map(|value| Bound { value, wanted }))
    .collect();
    let numbers = given.iter().filter(|bound| bound.value.is_number()).count();
    let strings = given.iter().filter(|bound| bound.value.is_string()).count();
    if given.is_empty() {
        return Err(invalid(at, "has no bound, give one of `gt`, `gte`, `lt`, `lte`"));
    }
    if numbers != given.len() && strings != given.len() {
        return Err(invalid(at, "bounds are all numbers or all strings"));
    }
    Ok(Node::Range(field, given))
}

fn glob(pattern: &Pattern, at: &str) -> Result<Node> {
    let field = Field::parse(&pattern.field, at)?;
    let text = &pattern.pattern;
    if text.len() > Filter::MAX_GLOB {
        return Err(MemoryError::TooLarge { what: "glob in bytes", size: text.len(), limit: Filter::MAX_GLOB });
    }
    let built = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    let glob = built.map_err(|error| invalid(&format!("{at}.pattern"), &error.to_string()))?;
    Ok(Node::Glob(field, Box::new(glob.compile_matcher())))
}

fn invalid(at: &str, message: &str) -> MemoryError {
    MemoryError::Invalid { field: at.to_owned(), message: message.to_owned() }
}

fn equals(found: Found<'_>, value: &Value) -> bool {
    match (found, value) {
        (Found::Text(text), Value::String(value)) => text == value,
        (Found::Number(number), Value::Number(value)) => order(&number.into(), value) == Some(Ordering::Equal),
        (Found::Flag(flag), Value::Bool(value)) => flag == *value,
        (Found::Json(json), value) => {
            same(json, value) || json.as_array().is_some_and(|items| items.iter().any(|item| same(item, value)))
        }
        _ => false,
    }
}

/// Equality of two JSON values with numbers by value. Its depth is that of a parsed document, at most 128.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => order(a, b) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Integers exactly, others as f64.
fn order(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

#[cfg(test)]
#[path = "compiled_tests.rs"]
mod tests;
