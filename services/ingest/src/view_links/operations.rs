//! What the route of view links does, for those who call it.

use http::StatusCode;
use serde_json::json;
use zyven_domain::api_key::Scope;
use zyven_domain::view_link::VIEW_SCOPES;

use super::{EXPIRES_IN_S, EXPIRES_IN_S_DEFAULT, ViewLinkView};
use crate::openapi::Operation;
use crate::openapi::schema::{list, number, object, one_of};

pub(crate) fn create() -> Operation {
    let scopes = list(
        one_of(VIEW_SCOPES.map(Scope::as_str)),
        1..=VIEW_SCOPES.len(),
    )
    .default(json!([Scope::Read.as_str()]))
    .about("What it allows, which the caller's key must have itself.");
    let body = object().optional("scopes", scopes).optional(
        "expires_in_s",
        number(EXPIRES_IN_S)
            .default(EXPIRES_IN_S_DEFAULT)
            .about("After how many seconds it ends. It also ends with its key."),
    );
    Operation::new("createViewLink", "Make a view link")
        .about("A key for a customer's browser: the console shows with it what the tenant has, for a while. Any request takes \
             it as `Authorization: Bearer zyv_…`, as far as its scopes go, but for calling a delivery off.")
        .body(body, json!({ "scopes": ["read", "replay"], "expires_in_s": 900 }))
        .body_is_optional()
        .answer::<ViewLinkView>(StatusCode::CREATED, "The link. It is not kept.")
}
