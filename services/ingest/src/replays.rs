//! Replays of many dead letters: which, how fast, and how far they have come.

pub(crate) mod operations;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::event::EventType;
use zyven_domain::id::{DeliveryId, EndpointId};
use zyven_store::{
    REPLAY_CHOSEN_MAX, REPLAY_DELIVERIES_MAX, REPLAY_REASON_CHARS_MAX, Replay, ReplayBegun,
    ReplayFilter, ReplayProgress,
};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::fields::{self, Members};
use crate::openapi::values;
use crate::places::Places;
use crate::problem::Problem;

/// Replays that are begun, or asked how far they have come, at the same time, each of another tenant; more wait for their turn.
/// Each reads and writes as many rows as ten thousand events.
const AT_ONCE_MAX: usize = 2;
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
    /// Those of the `deliveries` that were asked for that cannot be sent back. Of what a filter finds there are none.
    refused: Vec<RefusedView>,
}

impl BegunView {
    fn of(begun: ReplayBegun, replay: Replay) -> Self {
        let refused = begun.refused.into_iter();
        Self {
            id: begun.id,
            dry_run: replay == Replay::DryRun,
            deliveries: begun.deliveries,
            oldest_at: begun.dead_between.map(|(oldest, _)| oldest),
            newest_at: begun.dead_between.map(|(_, newest)| newest),
            refused: refused
                .map(|(delivery, reason)| RefusedView { delivery, reason })
                .collect(),
        }
    }
}

/// A delivery that is not a dead letter any more, or never was.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RefusedReplay")]
struct RefusedView {
    #[schemars(with = "values::DeliveryId")]
    delivery: DeliveryId,
    /// Why not, for people. A delivery of somebody else is one that never was.
    #[schemars(example = &"it was delivered")]
    reason: String,
}

/// Which dead letters are meant.
enum Which {
    /// These, each by its id.
    Chosen(Vec<DeliveryId>),
    /// All that fit.
    Fitting(ReplayFilter),
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

/// For replays, none of which waits longer than a request may take.
pub(crate) fn places(patience: Duration) -> Places {
    Places::new(AT_ONCE_MAX, "replays", patience)
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
    let which = which(&mut members);
    let rate_per_s = members.number("rate_per_s", RATE_PER_S);
    let is_dry = members.flag("dry_run").unwrap_or(false);
    members.finish()?;
    let reason = reason.unwrap_or_default();
    let replay = if is_dry {
        Replay::DryRun
    } else {
        let rate_per_s = rate_per_s.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
        Replay::Do { rate_per_s }
    };
    let _place = app.replays.take(caller.tenant).await?;
    let store = app.store_of(&caller);
    let begun = match which {
        Which::Chosen(chosen) => {
            store
                .replay_chosen(caller.tenant, &chosen, &reason, replay)
                .await?
        }
        Which::Fitting(filter) => {
            store
                .replay_dead_letters(caller.tenant, &filter, &reason, replay)
                .await?
        }
    };
    let status = if begun.id.is_some() {
        app.bell.ring();
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok(answer::value(status, &BegunView::of(begun, replay)))
}

/// Members that narrow a replay, and mean nothing where each delivery is named.
const FILTERS: [&str; 6] = [
    "endpoint",
    "event_type",
    "dead_reason",
    "since",
    "until",
    "deliveries_max",
];

/// What is wrong is noted among the members.
fn which(members: &mut Members<'_>) -> Which {
    if !members.has("deliveries") {
        return Which::Fitting(filter(members));
    }
    for name in FILTERS {
        if members.raw(name).is_some() {
            members.mistake(name, "must not be sent together with deliveries");
        }
    }
    let chosen = members.texts(
        "deliveries",
        1..=REPLAY_CHOSEN_MAX,
        str::parse::<DeliveryId>,
    );
    Which::Chosen(chosen.unwrap_or_default())
}

fn filter(members: &mut Members<'_>) -> ReplayFilter {
    let filter = ReplayFilter {
        endpoint: members.text("endpoint", |text| {
            text.parse::<EndpointId>()
                .map_err(|error| error.to_string())
        }),
        event_type: members.text("event_type", EventType::parse),
        dead_reason: members.text("dead_reason", fields::dead_reason),
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

/// `GET /v1/replays/{id}`
pub(crate) async fn progress(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let id: i64 = id.parse().map_err(|_| Problem::not_found("replay"))?;
    let _place = app.replays.take(caller.tenant).await?;
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
