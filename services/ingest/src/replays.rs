//! Replays of many dead letters: which, how fast, and how far they have come.

pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::SemaphorePermit;
use zyven_domain::event::EventType;
use zyven_domain::id::EndpointId;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{
    REPLAY_DELIVERIES_MAX, REPLAY_REASON_CHARS_MAX, Replay, ReplayFilter, ReplayProgress,
};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::fields::{self, Members};
use crate::overview;
use crate::problem::Problem;

/// Replays that are begun, or asked how far they have come, at the same time; more wait for their turn. Each reads and writes as many
/// rows as ten thousand events.
pub(crate) const AT_ONCE_MAX: usize = 2;
/// How fast a replay may be asked to go, in deliveries a second.
const RATE_PER_S: std::ops::RangeInclusive<u64> = 1..=10_000;

/// What was found, and what is done about it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BegunReplay")]
struct BegunView {
    /// Null if nothing was sent back.
    id: Option<i64>,
    dry_run: bool,
    /// How many were found, and sent back unless it was a dry run.
    deliveries: u32,
    /// When the first of them was given up.
    oldest_at: Option<DateTime<Utc>>,
    /// When the last of them was given up.
    newest_at: Option<DateTime<Utc>>,
}

/// How far a replay has come: the tenant's own part of it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Replay")]
struct ProgressView {
    id: i64,
    decided_at: DateTime<Utc>,
    /// The id of a key, or a role of the database. Null for a view link, if it was not its own key.
    decided_by: Option<String>,
    /// Null for a view link, if the decision was not that of its own key.
    reason: Option<String>,
    /// How many it has sent back.
    deliveries: u32,
    /// Those that are not finished.
    waiting: u32,
    delivered: u32,
    /// Those that were given up again.
    dead_lettered: u32,
    /// Those whose result is older than retention keeps.
    forgotten: u32,
    /// When the next of those that wait is due.
    next_due_at: Option<DateTime<Utc>>,
    /// When the last of those that wait is due.
    last_due_at: Option<DateTime<Utc>>,
}

impl From<ReplayProgress> for ProgressView {
    fn from(progress: ReplayProgress) -> Self {
        Self {
            id: progress.id,
            decided_at: progress.decided_at,
            decided_by: Some(progress.decided_by),
            reason: Some(progress.reason),
            deliveries: progress.deliveries,
            waiting: progress.waiting,
            delivered: progress.delivered,
            dead_lettered: progress.dead_lettered,
            forgotten: progress.forgotten,
            next_due_at: progress.due_between.map(|(next, _)| next),
            last_due_at: progress.due_between.map(|(_, last)| last),
        }
    }
}

/// Waits for one of [`AT_ONCE_MAX`] places, for as long as a request may take.
async fn place(app: &App) -> Result<SemaphorePermit<'_>, Problem> {
    let place = overview::place_among(app, &app.replays).await;
    place.ok_or_else(|| {
        Problem::overloaded("Too many replays are asked about at this moment; nothing was done.")
    })
}

/// `POST /v1/replays`: 202 if something is sent back, 200 if nothing is, or if it was a dry run.
pub(crate) async fn begin(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let reason = members.required("reason", |text| {
        fields::reason(text, REPLAY_REASON_CHARS_MAX)
    });
    let filter = filter(&mut members);
    let rate_per_s = members.number("rate_per_s", RATE_PER_S);
    let is_dry = members.flag("dry_run").unwrap_or(false);
    members.finish()?;
    let replay = if is_dry {
        Replay::DryRun
    } else {
        let rate_per_s = rate_per_s.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
        Replay::Do { rate_per_s }
    };
    let _place = place(&app).await?;
    let begun = app
        .store_of(&caller)
        .replay_dead_letters(caller.tenant, &filter, &reason.unwrap_or_default(), replay)
        .await?;
    let status = if begun.id.is_some() {
        app.bell.ring();
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let view = BegunView {
        id: begun.id,
        dry_run: is_dry,
        deliveries: begun.deliveries,
        oldest_at: begun.dead_between.map(|(oldest, _)| oldest),
        newest_at: begun.dead_between.map(|(_, newest)| newest),
    };
    Ok(answer::value(status, &view))
}

fn filter(members: &mut Members<'_>) -> ReplayFilter {
    let filter = ReplayFilter {
        endpoint: members.text("endpoint", |text| {
            text.parse::<EndpointId>()
                .map_err(|error| error.to_string())
        }),
        event_type: members.text("event_type", EventType::parse),
        dead_reason: members.text("dead_reason", dead_reason),
        since: members.text("since", fields::moment),
        until: members.text("until", fields::moment),
        deliveries_max: members
            .number("deliveries_max", 1..=u64::from(REPLAY_DELIVERIES_MAX))
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(REPLAY_DELIVERIES_MAX),
    };
    if filter
        .since
        .zip(filter.until)
        .is_some_and(|(since, until)| since >= until)
    {
        members.mistake("until", "must be later than since");
    }
    filter
}

fn dead_reason(text: &str) -> Result<DeadLetterReason, String> {
    let mut all = DeadLetterReason::ALL.into_iter();
    all.find(|reason| reason.as_str() == text).ok_or_else(|| {
        let names = DeadLetterReason::ALL.map(DeadLetterReason::as_str);
        format!("must be one of {}", names.join(", "))
    })
}

/// `GET /v1/replays/{id}`
pub(crate) async fn progress(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let id: i64 = id.parse().map_err(|_| Problem::not_found("replay"))?;
    let _place = place(&app).await?;
    let progress = app
        .store
        .replay_progress(caller.tenant, id)
        .await?
        .ok_or_else(|| Problem::not_found("replay"))?;
    let is_own = progress.decided_by == caller.key.to_string();
    let mut view = ProgressView::from(progress);
    if caller.link_expires_at.is_some() && !is_own {
        // What operators write to each other is not for a tenant's customers.
        (view.decided_by, view.reason) = (None, None);
    }
    Ok(answer::value(StatusCode::OK, &view))
}
