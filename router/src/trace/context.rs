//! W3C Trace Context: the `traceparent` and `tracestate` headers.
//! <https://www.w3.org/TR/trace-context/>

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::request_id::random_uuid;

/// Header of the ids.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Header of what vendors add.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest `tracestate` that is passed on: what the specification asks of everyone, and no more.
const MAX_STATE: usize = 512;

/// A place in a trace: what a request came with, or goes out with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace_id: u128,
    /// The span in it, never 0.
    pub span_id: u64,
    /// The caller keeps this trace.
    pub sampled: bool,
    /// `tracestate`, as received.
    pub state: Option<HeaderValue>,
}

impl TraceContext {
    /// What the headers say. Anything but one well-formed `traceparent` counts as none, and without one
    /// `tracestate` means nothing.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let (trace_id, span_id, sampled) = parse(value.as_bytes())?;
        Some(Self { trace_id, span_id, sampled, state: state(headers) })
    }

    /// A new trace that nobody keeps.
    pub fn new() -> Self {
        // Version 4 UUIDs have bits that are always set, in both halves of them: neither id is 0.
        let (trace, span) = (random_uuid().as_u128(), random_uuid().as_u64_pair().1);
        Self { trace_id: trace, span_id: span, sampled: false, state: None }
    }

    /// The trace's id as logs write it.
    pub fn trace(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The headers of a request made on behalf of this one.
    pub fn write(&self, headers: &mut HeaderMap) {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled));
        // Digits and dashes are in every header's alphabet.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(TRACEPARENT, value);
        }
        match &self.state {
            Some(state) => drop(headers.insert(TRACESTATE, state.clone())),
            None => drop(headers.remove(TRACESTATE)),
        }
    }
}

impl Default for TraceContext {
    fn default() -> Self {
        Self::new()
    }
}

/// `00-TRACE-SPAN-FLAGS`; a later version may add more after another dash.
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    if value.len() < 55 || [2, 35, 52].iter().any(|&at| value[at] != b'-') {
        return None;
    }
    let version = hex(&value[..2])? as u8;
    let length_fits = match version {
        0xff => false,
        0 => value.len() == 55,
        _ => value.len() == 55 || value[55] == b'-',
    };
    let (trace, span, flags) = (hex(&value[3..35])?, hex(&value[36..52])? as u64, hex(&value[53..55])? as u8);
    (length_fits && trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

/// Lower-case hexadecimal digits only, as the specification has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// All `tracestate` headers as one, if it is of a size to be passed on.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let values: Vec<&str> =
        headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect::<Option<_>>()?;
    let joined = values.join(",");
    let joined = joined.trim();
    (!joined.is_empty() && joined.len() <= MAX_STATE).then(|| HeaderValue::from_str(joined).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_well_formed_parents_are_taken() {
        let zeros = "0".repeat(32);
        let table = [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), true),
            (format!("00-{TRACE}-{SPAN}-ff"), true),
            (format!("cc-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), true),
            (format!("cc-{TRACE}-{SPAN}-01x"), false),
            (format!("00-{TRACE}-{SPAN}-01-more"), false),
            (format!("ff-{TRACE}-{SPAN}-01"), false),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false),
            (format!("00-{zeros}-{SPAN}-01"), false),
            (format!("00-{TRACE}-{}-01", &zeros[..16]), false),
            (format!("00-{TRACE}-{SPAN}-0"), false),
            (format!("00-{TRACE}-{SPAN}-0g"), false),
            (format!("00-{TRACE}-{SPAN}"), false),
            (format!("0-{TRACE}-{SPAN}-01"), false),
            (format!(" 00-{TRACE}-{SPAN}-01"), false),
            (format!("00_{TRACE}_{SPAN}_01"), false),
            (format!("00-{}-{SPAN}-01", &TRACE[1..]), false),
            (format!("00-{TRACE}é-{SPAN}-01"), false),
            (String::new(), false),
            ("-".repeat(55), false),
        ];
        for (value, taken) in table {
            let found = TraceContext::read(&headers(&[("traceparent", &value)]));
            assert_eq!(found.is_some(), taken, "{value}");
            if let Some(context) = found {
                assert_eq!((context.trace(), format!("{:016x}", context.span_id)), (TRACE.into(), SPAN.into()));
                assert_eq!(context.sampled, !value.ends_with("-00"), "{value}");
            }
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(TraceContext::read(&headers(&[("traceparent", &good), ("traceparent", &good)])), None);
    }

    #[test]
    fn what_was_read_is_written_again() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let came = headers(&[("traceparent", &good), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        let mut goes = headers(&[("tracestate", "old=1")]);
        TraceContext::read(&came).unwrap().write(&mut goes);
        assert_eq!((goes[TRACEPARENT].to_str().unwrap(), goes[TRACESTATE].to_str().unwrap()), (&*good, "a=1,b=2"));
        let long = "x=".to_owned() + &"y".repeat(MAX_STATE);
        let context = TraceContext::read(&headers(&[("traceparent", &good), ("tracestate", &long)])).unwrap();
        context.write(&mut goes);
        assert!(context.state.is_none() && !goes.contains_key(TRACESTATE));
    }

    #[test]
    fn new_traces_are_well_formed_and_differ() {
        let (one, other) = (TraceContext::new(), TraceContext::new());
        assert!(one.trace_id != other.trace_id && one.span_id != other.span_id && !one.sampled);
        let mut headers = HeaderMap::new();
        one.write(&mut headers);
        assert_eq!(TraceContext::read(&headers), Some(one));
    }
}
