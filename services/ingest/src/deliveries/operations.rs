//! What the routes of deliveries do, for those who call them.

use http::StatusCode;
use serde_json::json;
use zyven_domain::lifecycle::DeliveryState;
use zyven_store::REPLAY_REASON_CHARS_MAX;

use super::{Attempts, DeliveryView, ReplayedDelivery};
use crate::openapi::schema::{object, text, time};
use crate::openapi::{Operation, event_type_parameter, reason, values};
use crate::pages::Page;
use crate::problem::Code;

pub(crate) fn list() -> Operation {
    let state = DeliveryState::ALL.map(DeliveryState::as_str).join("|");
    let states = text()
        .pattern(format!("^({state})(,({state}))*$"))
        .example("DEAD_LETTERED,RETRY_SCHEDULED")
        .about("Only those that stand here: one state, or several separated by commas.");
    Operation::new("listDeliveries", "List deliveries")
        .about("The newest first.")
        .query("status", states)
        .query(
            "endpoint",
            values::EndpointId::schema().about("Only those for this endpoint."),
        )
        .query("event_type", event_type_parameter())
        .query(
            "dead_reason",
            values::DeadReason::schema().about("Only those that were given up for this reason."),
        )
        .query(
            "since",
            time().about("Only those of events accepted at or after this time."),
        )
        .query(
            "until",
            time().about("Only those of events accepted before this time."),
        )
        .paged(values::DeliveryId::schema())
        .answer::<Page<'_, DeliveryView<'_>>>(StatusCode::OK, "A page of deliveries.")
}

pub(crate) fn delivery() -> Operation {
    Operation::new("getDelivery", "Read a delivery")
        .one("id", values::DeliveryId::schema())
        .answer::<DeliveryView<'_>>(StatusCode::OK, "The delivery.")
}

pub(crate) fn attempts() -> Operation {
    Operation::new("listAttempts", "List a delivery's attempts")
        .about("Those on record, of all generations, at most 1,000. A request whose outcome was lost or came too late \
             has no record.")
        .one("id", values::DeliveryId::schema())
        .answer::<Attempts<'_>>(StatusCode::OK, "The attempts.")
}

pub(crate) fn replay() -> Operation {
    let body = object().required("reason", reason(REPLAY_REASON_CHARS_MAX));
    Operation::new("replayDelivery", "Replay a dead letter")
        .about("Sends it back to the start: the same delivery with the same `webhook-id`, attempts and age counted \
             anew.")
        .one("id", values::DeliveryId::schema())
        .body(body, json!({ "reason": "receiver is mended" }))
        .answer::<ReplayedDelivery>(StatusCode::ACCEPTED, "It is on its way again.")
        .problem(Code::NotReplayable)
}
