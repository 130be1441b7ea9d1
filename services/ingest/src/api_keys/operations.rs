//! What the routes of API keys do, for those who call them.

use http::StatusCode;
use serde_json::json;
use zyven_domain::api_key::Scope;

use super::{ApiKeyView, NAME_CHARS_MAX};
use crate::openapi::schema::{list as list_of, object, text, time};
use crate::openapi::{Operation, values};
use crate::pages::Page;
use crate::problem::Code;

pub(crate) fn list() -> Operation {
    Operation::new("listApiKeys", "List API keys")
        .about("The tenant's keys, the oldest first, those included that were revoked or have expired.")
        .paged(values::ApiKeyId::schema())
        .answer::<Page<'_, ApiKeyView<'_>>>(StatusCode::OK, "A page of keys.")
}

pub(crate) fn create() -> Operation {
    let scopes = list_of(values::ScopeName::schema(), 1..=Scope::ALL.len())
        .about("What it allows. A key can only give scopes that it has itself.");
    let body = object()
        .required(
            "name",
            text()
                .chars(1..=NAME_CHARS_MAX)
                .pattern(r"\S")
                .about("What its owner calls it."),
        )
        .required("scopes", scopes)
        .optional(
            "expires_at",
            time().about("When it ends, which must be in the future. Absent: never."),
        );
    Operation::new("createApiKey", "Create an API key")
        .about("The answer shows the key, this once: Zyven keeps a hash of it.")
        .body(
            body,
            json!({ "name": "billing service", "scopes": ["publish"] }),
        )
        .answer::<ApiKeyView<'_>>(StatusCode::CREATED, "The key.")
        .problem(Code::ApiKeyLimit)
}

pub(crate) fn revoke() -> Operation {
    Operation::new("revokeApiKey", "Revoke an API key")
        .about("It is refused by every process within 2 seconds. Revoking it once more changes nothing.")
        .one("id", values::ApiKeyId::schema())
        .no_content("It is revoked.")
}
