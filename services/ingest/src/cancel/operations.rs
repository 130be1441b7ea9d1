//! What the routes that call deliveries off do, for those who call them.

use http::StatusCode;
use serde_json::json;
use zyven_store::CANCEL_REASON_CHARS_MAX;

use super::{CancelledDelivery, CancelledEvent};
use crate::openapi::schema::{Schema, object};
use crate::openapi::{Operation, reason, values};
use crate::problem::Code;

pub(crate) fn event() -> Operation {
    Operation::new("cancelEvent", "Cancel an event")
        .about("Each of its deliveries that is not finished becomes a dead letter with the reason `cancelled`. A \
             request that is under way cannot be called back: as long as there is one, the answer is \
             `being_attempted`, everything else has been cancelled, and the same request cancels the rest later. \
             Cancelling twice is harmless.")
        .one("id", values::EventId::schema())
        .body(body(), json!({ "reason": "invoice was wrong" }))
        .answer::<CancelledEvent>(StatusCode::OK, "Nothing of it is on its way any more.")
        .problem(Code::BeingAttempted)
}

pub(crate) fn delivery() -> Operation {
    Operation::new("cancelDelivery", "Cancel a delivery")
        .about(
            "As with an event, for this delivery alone. It can be replayed like any dead letter. This takes a key: a view link is \
             refused.",
        )
        .one("id", values::DeliveryId::schema())
        .body(body(), json!({ "reason": "receiver is being moved" }))
        .answer::<CancelledDelivery>(StatusCode::OK, "It is cancelled, now or before.")
        .problem(Code::BeingAttempted)
        .problem(Code::NotCancellable)
}

fn body() -> Schema {
    object().required("reason", reason(CANCEL_REASON_CHARS_MAX))
}
