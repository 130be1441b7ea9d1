//! The audit log as a tenant reads it.

pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use zyven_domain::id::AuditId;
use zyven_store::{AuditFilter, AuditRecord};

use crate::answer::Answer;
use crate::app::App;
use crate::auth::Caller;
use crate::fields;
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::problem::Problem;

/// Longest text that is searched for, in bytes: longer than any action, actor or subject.
const SEARCHED_BYTES_MAX: usize = 200;

/// An administrative action.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
struct AuditView<'a> {
    #[schemars(with = "values::AuditId")]
    id: AuditId,
    done_at: DateTime<Utc>,
    /// An API key's id, `dispatcher`, `zyven admin`, or a database role.
    #[schemars(example = &"zyven admin")]
    actor: &'a str,
    /// What was done.
    #[schemars(example = &"endpoint.disable")]
    action: &'a str,
    /// The id (or the name of an event type) it was done to.
    #[schemars(example = &"ep_0199f2c6d1a87b3e9c5f2d4a6b8e0c1d")]
    subject: &'a str,
    /// What changed, from what to what. Secrets are never shown.
    details: Option<&'a RawValue>,
}

impl<'a> AuditView<'a> {
    fn of(record: &'a AuditRecord) -> Self {
        Self {
            id: record.id,
            done_at: record.done_at,
            actor: &record.actor,
            action: &record.action,
            subject: &record.subject,
            details: serde_json::from_str(&record.details).ok(),
        }
    }
}

/// `GET /v1/audit-log`: the latest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let before = query.value::<AuditId>("cursor");
    let filter = AuditFilter {
        action: query.parsed("action", searched),
        actor: query.parsed("actor", searched),
        subject: query.parsed("subject", searched),
        since: query.parsed("since", fields::moment),
        until: query.parsed("until", fields::moment),
    };
    query.finish()?;
    let entries = app
        .store
        .audit_log_of(caller.tenant, &filter, before, pages::asked(limit))
        .await?;
    let (shown, next) = pages::cut(entries, limit, |entry| entry.id.to_string());
    let views: Vec<AuditView<'_>> = shown.iter().map(AuditView::of).collect();
    Ok(pages::page(&views, next))
}

fn searched(text: &str) -> Result<String, String> {
    if (1..=SEARCHED_BYTES_MAX).contains(&text.len()) && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must have 1 to {SEARCHED_BYTES_MAX} bytes, without U+0000"
        ))
    }
}
