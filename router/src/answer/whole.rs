//! An answer as one body.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::begin::{Begun, said};
use super::serve::Way;
use crate::context::Exchange;
use crate::error::ApiError;
use crate::remote::usage_of;
use crate::routing::{Bill, Report};

/// The whole answer, with what was recalled for it, who made it and what it cost.
pub(super) async fn response(
    mut way: Way,
    mut begun: Begun,
    mut bill: Bill,
    mut report: Report,
) -> Result<Response, ApiError> {
    let (mut value, remote) = loop {
        report.upstream = begun.upstream().cloned();
        let remote = matches!(begun, Begun::Remote(..));
        match begun.whole().await {
            Ok(value) => break (value, remote),
            Err(error) => (begun, bill) = way.instead(error, &mut report).await?,
        }
    };
    let answered = || said(way.asked.endpoint, &value).unwrap_or_default().len();
    let usage = usage_of(&value).unwrap_or_else(|| way.estimated_usage(answered()));
    if remote {
        way.caller.facts.add_tokens(usage.prompt as usize, usage.cached as usize, usage.completion as usize);
    }
    way.keep(&value);
    let cost = bill.settle(&usage);
    way.caller.facts.routed(&report, cost);
    finish(way, &mut value, &report, cost);
    let mut response = Json(value).into_response();
    response.headers_mut().extend(report.headers(Some(cost)));
    Ok(response)
}

/// Adds the members that are ours, and has the exchange remembered.
fn finish(way: Way, value: &mut Value, report: &Report, cost: crate::money::Usd) {
    if way.state.routing().is_in_use() {
        let mut member = report.member();
        member["cost_usd"] = json!(cost.as_dollars());
        value["engram"] = member;
    }
    if let Some(attached) = way.attached {
        let mut exchange = Exchange::new(attached, way.question, &report.model, &way.caller.id);
        value["memory"] = exchange.member();
        exchange.heard(said(way.asked.endpoint, value).unwrap_or_default());
        exchange.complete();
    }
}
