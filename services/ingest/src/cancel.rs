//! Calling deliveries off.

pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::id::{DeliveryId, EventId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{CANCEL_REASON_CHARS_MAX, Cancelled};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::fields::{self, Members};
use crate::openapi::values;
use crate::problem::{Code, Problem};

/// What has become of an event's deliveries.
#[derive(Serialize, JsonSchema)]
struct CancelledEvent {
    #[schemars(with = "values::EventId")]
    id: EventId,
    /// How many are cancelled, now or before.
    cancelled: u32,
    /// How many had been delivered or given up before.
    finished: u32,
}

/// A delivery that was called off.
#[derive(Serialize, JsonSchema)]
struct CancelledDelivery {
    #[schemars(with = "values::DeliveryId")]
    id: DeliveryId,
    #[schemars(with = "values::DeliveryStatus", example = &"DEAD_LETTERED")]
    status: &'static str,
    #[schemars(with = "values::DeadReason", example = &"cancelled")]
    reason: &'static str,
}

/// `POST /v1/events/{id}/cancel`: every delivery of it that is not finished and not being attempted.
pub(crate) async fn event(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let reason = reason_of(&app, request).await?;
    let id: EventId = id.parse().map_err(|_| Problem::not_found("event"))?;
    let done = app
        .store_of(&caller)
        .cancel_event(caller.tenant, id, &reason, &caller.key.to_string())
        .await?
        .ok_or_else(|| Problem::not_found("event"))?;
    let Cancelled {
        cancelled,
        cancelled_before,
        being_attempted,
        finished,
    } = done;
    if being_attempted > 0 {
        return Err(Problem::new(
            Code::BeingAttempted,
            format!(
                "{cancelled} deliveries were cancelled, {being_attempted} are being attempted at this moment. Send the request again in a few seconds: what is not delivered by then can be cancelled."
            ),
        ));
    }
    let body = CancelledEvent {
        id,
        cancelled: cancelled + cancelled_before,
        finished,
    };
    Ok(answer::value(StatusCode::OK, &body))
}

/// `POST /v1/deliveries/{id}/cancel`
pub(crate) async fn delivery(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    if caller.link_expires_at.is_some() {
        return Err(Problem::new(
            Code::ScopeMissing,
            "A view link sends dead letters again; to call something off takes an API key.",
        ));
    }
    let reason = reason_of(&app, request).await?;
    let id: DeliveryId = id.parse().map_err(|_| Problem::not_found("delivery"))?;
    let done = app
        .store_of(&caller)
        .cancel_delivery(caller.tenant, id, &reason, &caller.key.to_string())
        .await?
        .ok_or_else(|| Problem::not_found("delivery"))?;
    if done.being_attempted > 0 {
        return Err(Problem::new(
            Code::BeingAttempted,
            format!(
                "Delivery {id} is being attempted at this moment. Send the request again in a few seconds: if it is not delivered by then, it can be cancelled."
            ),
        ));
    }
    if done.finished > 0 {
        return Err(Problem::new(
            Code::NotCancellable,
            format!("Delivery {id} is finished already; its status says how."),
        ));
    }
    let body = CancelledDelivery {
        id,
        status: DeliveryState::DeadLettered.as_str(),
        reason: DeadLetterReason::Cancelled.as_str(),
    };
    Ok(answer::value(StatusCode::OK, &body))
}

async fn reason_of(app: &App, request: Request) -> Result<String, Problem> {
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let reason = members.text("reason", |text| {
        fields::reason(text, CANCEL_REASON_CHARS_MAX)
    });
    if reason.is_none() {
        members.missing("reason");
    }
    members.finish()?;
    Ok(reason.unwrap_or_default())
}
