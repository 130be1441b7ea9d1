//! What the route of the audit log does, for those who call it.

use http::StatusCode;

use super::{AuditView, SEARCHED_BYTES_MAX};
use crate::openapi::schema::{Schema, text, time};
use crate::openapi::{Operation, values};
use crate::pages::Page;

pub(crate) fn list() -> Operation {
    let searched = |about: &str| -> Schema { text().chars(1..=SEARCHED_BYTES_MAX).about(about) };
    Operation::new("listAuditLog", "Read the audit log")
        .about("Administrative actions that concern the tenant, the latest first, whether they were done by the API, \
             by `zyven admin`, by a dispatcher or in SQL.")
        .query("action", searched("Only this action; with a full stop at its end, all that begin with it: `endpoint.`"))
        .query("actor", searched("Only what they did: an API key's id, `dispatcher`, `zyven admin`, or a database \
             role."))
        .query("subject", searched("Only what was done to this id, or to the event type of this name."))
        .query("since", time().about("Not before this time."))
        .query("until", time().about("Before this time."))
        .paged(values::AuditId::schema())
        .answer::<Page<'_, AuditView<'_>>>(StatusCode::OK, "A page of the log.")
}
