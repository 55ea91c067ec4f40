//! What is to be forgotten.

use engram_memory::RecordId;
use engram_memory::backend::{Forget, Selection};
use serde_json::Value;

use super::scope::{Where, read_kinds, read_scope};
use super::{MAX_IDS, read_filter};
use crate::error::{ApiError, ErrorCode};
use crate::openai::Fields;
use crate::openai::fields::wrong_type;

/// Reads `{ids}`, `{scope, kinds, filter}` or `{tenant: true}`.
///
/// Whatever would empty a whole domain or the whole tenant must say `confirm: true`: a field that was
/// forgotten must not forget everything.
pub fn read_forget(body: &[u8], place: &Where) -> Result<Forget, ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let ids = read_ids(&mut fields)?;
    let tenant = fields.bool("tenant", false)?;
    let (scope, _) = read_scope(&mut fields, place)?;
    let kinds = read_kinds(&mut fields)?;
    let filter = read_filter(&mut fields)?;
    let confirm = fields.bool("confirm", false)?;
    fields.finish()?;
    let narrowed = !kinds.is_empty() || filter.is_some() || scope.project.is_some() || scope.session.is_some();
    let unconfirmed = |what: &str| {
        let message = format!("this forgets {what}: say `confirm: true` if that is meant");
        Err(ApiError::new(ErrorCode::MissingParameter, message).with_param("confirm"))
    };
    match (ids, tenant) {
        (Some(_), true) => Err(ApiError::invalid_value("ids", "give `ids` or `tenant`, not both")),
        (Some(_), false) if narrowed => Err(ApiError::invalid_value(
            "ids",
            "`ids` name the records: `kinds`, `filter`, `scope.project` and `scope.session` do not go with them",
        )),
        (Some(ids), false) => Ok(Forget::Ids(scope.partition, ids)),
        (None, true) if narrowed => Err(ApiError::invalid_value(
            "tenant",
            "`tenant` is everything: give it without `kinds`, `filter` or a scope",
        )),
        (None, true) if place.pinned => {
            let message = format!("`tenant` is every domain, and this API key sees `{}` alone", place.domain);
            Err(ApiError::new(ErrorCode::DomainNotAllowed, message).with_param("tenant"))
        }
        (None, true) if !confirm => unconfirmed("everything of this key, in every domain"),
        (None, true) => Ok(Forget::Tenant(place.tenant.clone())),
        (None, false) if !narrowed && !confirm => {
            unconfirmed(&format!("everything in the domain `{}`", scope.partition.domain))
        }
        (None, false) => Ok(Forget::Matching(Selection { scope, kinds, filter })),
    }
}

fn read_ids(fields: &mut Fields) -> Result<Option<Vec<RecordId>>, ApiError> {
    let Some(values) = fields.list("ids", MAX_IDS)? else {
        return Ok(None);
    };
    if values.is_empty() {
        return Err(ApiError::invalid_value("ids", "`ids` is empty: name records, or leave it out"));
    }
    let ids = values.iter().enumerate().map(|(index, value)| {
        let path = format!("ids[{index}]");
        match value {
            Value::String(text) => text.parse().map_err(|_| {
                ApiError::invalid_value(&path, format!("`{path}`: a record's id is 32 hexadecimal digits"))
            }),
            other => Err(wrong_type(&path, other, "a record's id")),
        }
    });
    ids.collect::<Result<_, _>>().map(Some)
}
