//! What a console shows first: whose key this is, and what has lately become of the tenant's deliveries.

pub(crate) mod operations;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::api_key::Scope;
use zyven_domain::id::{ApiKeyId, EndpointId, TenantId};
use zyven_store::{DEAD_LETTERS_COUNTED_MAX, Tally, Waiting, Window};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::openapi::values;
use crate::pages::Query;
use crate::places::Places;
use crate::problem::Problem;

/// Questions of this kind that are asked at the same time, lists of recent events and explanations of events among them, each of
/// another tenant; more wait for their turn. Each reads tens of thousands of rows, on connections by which keys are looked up as
/// well, and publishing must not feel how many people look at it.
const ASKING_MAX: usize = 2;
/// How far back one may look, in minutes. Also the length of a step in seconds, as there are sixty.
const MINUTES: std::ops::RangeInclusive<u32> = 5..=1440;
const MINUTES_DEFAULT: u32 = 60;
/// Steps of a window, the one that is not over yet included.
const STEPS: u32 = 60;

/// The key that asks.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CurrentKey")]
struct CurrentKeyView<'a> {
    #[schemars(with = "values::ApiKeyId")]
    id: ApiKeyId,
    #[schemars(example = &"billing service")]
    name: &'a str,
    #[schemars(with = "Vec<values::ScopeName>")]
    scopes: Vec<&'static str>,
    /// Null: never.
    expires_at: Option<DateTime<Utc>>,
    #[schemars(with = "values::TenantId")]
    tenant: TenantId,
    #[schemars(example = &"Acme")]
    tenant_name: &'a str,
}

/// How deliveries of events from a period have gone, and what waits.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Statistics")]
struct StatisticsView {
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    /// How long a step is, in seconds.
    #[schemars(example = 60)]
    step_s: u32,
    /// Not all from before this moment are counted. Null: everything is.
    complete_since: Option<DateTime<Utc>>,
    #[serde(flatten)]
    total: TallyView,
    /// Sixty, the one that is not over yet included.
    steps: Vec<StepView>,
    waiting: WaitingView,
    /// False: there is more, for only the oldest unfinished deliveries of all tenants are counted.
    waiting_is_complete: bool,
    /// Those that nobody has replayed.
    dead_letters: i64,
    /// False: there are more.
    dead_letters_is_complete: bool,
    /// Those with most dead letters first, then those that something waits for.
    endpoints: Vec<EndpointTallyView>,
}

/// How deliveries have ended.
#[derive(Serialize, Default, JsonSchema)]
#[schemars(rename = "Tally")]
struct TallyView {
    delivered: i64,
    dead_lettered: i64,
    attempts: i64,
    /// Of what ended, the part that was delivered. Null if nothing ended.
    success_rate: Option<f64>,
    /// Null if nothing was delivered.
    latency_ms: Option<LatencyView>,
    last_finished_at: Option<DateTime<Utc>>,
}

/// From being due to being delivered, in milliseconds: half, 95 and 99 in 100 were faster.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Latency")]
struct LatencyView {
    p50: i64,
    p95: i64,
    p99: i64,
}

/// How deliveries of events from one step have ended.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Step")]
struct StepView {
    /// When it begins.
    at: DateTime<Utc>,
    #[serde(flatten)]
    tally: TallyView,
}

/// What is not finished.
#[derive(Serialize, Default, JsonSchema)]
#[schemars(rename = "Waiting")]
struct WaitingView {
    deliveries: i64,
    /// How many of them have failed at least once.
    retrying: i64,
    /// How many of them are being attempted.
    in_hand: i64,
    /// Since when the oldest one could have been sent that nobody works on.
    oldest_due_at: Option<DateTime<Utc>>,
}

/// The same for one endpoint.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointTally")]
struct EndpointTallyView {
    #[schemars(with = "values::EndpointId")]
    endpoint: EndpointId,
    #[serde(flatten)]
    tally: TallyView,
    waiting: WaitingView,
}

impl TallyView {
    fn of(tally: &Tally) -> Self {
        let ended = tally.delivered + tally.dead_lettered;
        Self {
            delivered: tally.delivered,
            dead_lettered: tally.dead_lettered,
            attempts: tally.attempts,
            success_rate: (ended > 0).then(|| tally.delivered as f64 / ended as f64),
            latency_ms: tally
                .latency_ms
                .map(|[p50, p95, p99]| LatencyView { p50, p95, p99 }),
            last_finished_at: tally.last_finished_at,
        }
    }
}

impl WaitingView {
    fn of(waiting: &Waiting) -> Self {
        Self {
            deliveries: waiting.deliveries,
            retrying: waiting.retrying,
            in_hand: waiting.in_hand,
            oldest_due_at: waiting.oldest_due_at,
        }
    }
}

/// `GET /v1/api-keys/current`: whose key this is, and what it may. Of a view link: what the link may, and when it ends.
pub(crate) async fn current_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Answer, Problem> {
    let names = app
        .store
        .key_names(caller.tenant, caller.key)
        .await?
        .ok_or_else(|| Problem::not_found("key"))?;
    let view = CurrentKeyView {
        id: caller.key,
        // What an application calls its keys is not for its customers.
        name: match caller.link_expires_at {
            Some(_) => "view link",
            None => &names.key,
        },
        scopes: caller.scopes.iter().map(Scope::as_str).collect(),
        expires_at: [caller.link_expires_at, names.expires_at]
            .into_iter()
            .flatten()
            .min(),
        tenant: caller.tenant,
        tenant_name: &names.tenant,
    };
    Ok(answer::value(StatusCode::OK, &view))
}

/// For these questions, none of which waits longer than a request may take.
pub(crate) fn places(patience: Duration) -> Places {
    const WHAT: &str = "statistics, recent events or explanations";
    Places::new(ASKING_MAX, WHAT, patience)
}

/// `GET /v1/statistics`: sixty steps up to now, and what waits.
pub(crate) async fn statistics(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let minutes = query.parsed("minutes", minutes).unwrap_or(MINUTES_DEFAULT);
    let endpoint = query.value::<EndpointId>("endpoint");
    query.finish()?;
    let _place = app.overviews.take(caller.tenant).await?;
    let until = Utc::now();
    let window = window(until, minutes);
    let finished = app
        .store
        .finished_in(caller.tenant, endpoint, window)
        .await?;
    let backlog = app.store.backlog_of(caller.tenant, endpoint).await?;
    let dead_letters = app
        .store
        .dead_letters_counted(caller.tenant, endpoint)
        .await?;
    let mut steps: BTreeMap<u32, TallyView> = finished
        .steps
        .iter()
        .map(|(step, tally)| (*step, TallyView::of(tally)))
        .collect();
    let steps = (0..STEPS).map(|step| StepView {
        at: window.since + TimeDelta::seconds(i64::from(step) * i64::from(window.step_s)),
        tally: steps.remove(&step).unwrap_or_default(),
    });
    let view = StatisticsView {
        since: window.since,
        until,
        step_s: window.step_s,
        complete_since: finished.complete_since,
        total: TallyView::of(&finished.total),
        steps: steps.collect(),
        waiting: WaitingView::of(&backlog.total),
        waiting_is_complete: backlog.is_complete,
        dead_letters,
        dead_letters_is_complete: dead_letters < i64::from(DEAD_LETTERS_COUNTED_MAX),
        endpoints: by_endpoint(&finished.endpoints, &backlog.endpoints),
    };
    Ok(answer::value(StatusCode::OK, &view))
}

/// Both lists in one, those that something waits for at the end if nothing of theirs has ended.
fn by_endpoint(
    finished: &[(EndpointId, Tally)],
    waiting: &[(EndpointId, Waiting)],
) -> Vec<EndpointTallyView> {
    let mut waiting: BTreeMap<EndpointId, WaitingView> = waiting
        .iter()
        .map(|(endpoint, waiting)| (*endpoint, WaitingView::of(waiting)))
        .collect();
    let mut views: Vec<EndpointTallyView> = finished
        .iter()
        .map(|(endpoint, tally)| EndpointTallyView {
            endpoint: *endpoint,
            tally: TallyView::of(tally),
            waiting: waiting.remove(endpoint).unwrap_or_default(),
        })
        .collect();
    views.extend(
        waiting
            .into_iter()
            .map(|(endpoint, waiting)| EndpointTallyView {
                endpoint,
                tally: TallyView::default(),
                waiting,
            }),
    );
    views
}

/// Steps begin at multiples of their length, so that what is over does not change from one look to the next.
fn window(until: DateTime<Utc>, minutes: u32) -> Window {
    let step_s = i64::from(minutes);
    let last = until.timestamp().div_euclid(step_s) * step_s;
    let since = last - step_s * i64::from(STEPS - 1);
    Window {
        since: DateTime::from_timestamp(since, 0).unwrap_or(until),
        step_s: minutes,
        steps: STEPS,
    }
}

fn minutes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(minutes) if MINUTES.contains(&minutes) => Ok(minutes),
        Ok(_) | Err(_) => Err(format!(
            "must be a whole number from {} to {}",
            MINUTES.start(),
            MINUTES.end()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_with_the_step_that_is_not_over() {
        let until = DateTime::from_timestamp(1_800_000_059, 0).expect("a time");
        let window = window(until, 60);
        assert_eq!(window.step_s, 60);
        assert_eq!(window.since.timestamp() % 60, 0);
        let length = (until - window.since).num_seconds();
        assert_eq!(length, 59 * 60 + 59);
        let next = super::window(until + TimeDelta::seconds(1), 60);
        assert_eq!((next.since - window.since).num_seconds(), 60);
    }

    #[test]
    fn minutes_are_bounded() {
        for good in ["5", "1440"] {
            assert!(minutes(good).is_ok(), "{good}");
        }
        for bad in ["", "4", "1441", "-5", "x"] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }
}
