//! View links: what an application gives its own customers' browsers, for a while.

pub(crate) mod operations;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use chrono::{DateTime, SubsecRound as _, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::api_key::{Scope, Scopes};
use zyven_domain::view_link::{VIEW_SCOPES, View, ViewLink, view_scope};

use crate::answer::{self, Answer};
use crate::app::{App, random};
use crate::auth::Caller;
use crate::fields::Members;
use crate::openapi::values;
use crate::problem::Problem;

/// How long a link may be good for, in seconds. A day, because only its key can end it earlier.
const EXPIRES_IN_S: RangeInclusive<u64> = 60..=24 * 3600;
/// How long it is when nobody says.
const EXPIRES_IN_S_DEFAULT: u64 = 3600;

/// A key for somebody's browser.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ViewLink")]
struct ViewLinkView {
    /// `zyv_…`
    token: String,
    #[schemars(with = "Vec<values::ScopeName>")]
    scopes: Vec<&'static str>,
    expires_at: DateTime<Utc>,
}

/// `POST /v1/view-links`: a link may only be given scopes that the caller's key has. The body is optional.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let (mut scopes, mut expires_in_s) = (vec![Scope::Read], EXPIRES_IN_S_DEFAULT);
    let (head, body) = request.into_parts();
    if let Some(received) = app.receive_perhaps(&head.headers, body).await? {
        let mut members = Members::parse(received.text()?)?;
        let wanted = members.texts("scopes", 1..=VIEW_SCOPES.len(), view_scope);
        scopes = wanted.unwrap_or(scopes);
        let wanted = members.number("expires_in_s", EXPIRES_IN_S);
        expires_in_s = wanted.unwrap_or(expires_in_s);
        members.finish()?;
    }
    let scopes: Scopes = scopes.into_iter().collect();
    if let Some(scope) = caller.scopes.first_missing_of(scopes) {
        return Err(Problem::scope_missing(scope));
    }
    let lasts = Duration::from_secs(expires_in_s);
    let view = View {
        scopes,
        // It ends with its key.
        expires_at: (caller.key_expires_at.into_iter())
            .fold(Utc::now() + lasts, DateTime::min)
            .trunc_subsecs(0),
    };
    let holder = (caller.tenant, caller.key);
    let link = ViewLink::seal(view, caller.public_id, holder, &app.ring, random()?);
    // First: a link that nobody can know of must not exist.
    app.store_of(&caller)
        .note_view_link(caller.tenant, caller.key, view.scopes, lasts)
        .await?;
    let view = ViewLinkView {
        token: link.expose(),
        scopes: scopes.iter().map(Scope::as_str).collect(),
        expires_at: view.expires_at,
    };
    Ok(answer::value(StatusCode::CREATED, &view))
}
