//! What the routes of replays do, for those who call them.

use http::StatusCode;
use serde_json::json;
use zyven_store::{REPLAY_CHOSEN_MAX, REPLAY_DELIVERIES_MAX, REPLAY_REASON_CHARS_MAX};

use super::{BegunView, ProgressView, RATE_PER_S};
use crate::openapi::schema::{flag, list, number, object, time};
use crate::openapi::{Operation, event_type_parameter, reason, values};

pub(crate) fn begin() -> Operation {
    let most = u64::from(REPLAY_DELIVERIES_MAX);
    let body = object()
        .required("reason", reason(REPLAY_REASON_CHARS_MAX))
        .optional("deliveries", list(values::DeliveryId::schema(), 1..=REPLAY_CHOSEN_MAX).about(
            "These and no others, whatever they were given up for. Does not go together with the members that narrow: \
             `endpoint`, `event_type`, `dead_reason`, `since`, `until`, `deliveries_max`.",
        ))
        .optional("endpoint", values::EndpointId::schema().about("Only dead letters for this endpoint."))
        .optional("event_type", event_type_parameter())
        .optional("dead_reason", values::DeadReason::schema().about(
            "Only those given up for this. What was cancelled or has expired comes back only if it is named here.",
        ))
        .optional("since", time().about("Only those given up at or after this time."))
        .optional("until", time().about("Only those given up before this time, which is later than `since`."))
        .optional("rate_per_s", number(RATE_PER_S).about(
            "How many become due each second. Without it all are due at once.",
        ))
        .optional("deliveries_max", number(1..=most).default(most).about("At most so many, the oldest first."))
        .optional("dry_run", flag().default(false).about("Counts, and changes nothing."));
    let example =
        json!({ "event_type": "invoice.paid", "reason": "receiver is mended", "rate_per_s": 50 });
    Operation::new("beginReplay", "Replay many dead letters")
        .about("Sends all that fit, or all that are named, back to the start, in one transaction. If more than \
             `deliveries_max` fit, send the request again: it finds what is left.")
        .body(body, example)
        .answer::<BegunView>(StatusCode::ACCEPTED, "They are on their way again.")
        .answer::<BegunView>(StatusCode::OK, "Nothing was sent back: it was a dry run, or there is nothing to send.")
}

pub(crate) fn progress() -> Operation {
    Operation::new("getReplay", "See how far a replay has come")
        .about("Also one that an operator has begun: of it each tenant sees its own part.")
        .one(
            "id",
            number(0..=i64::MAX.unsigned_abs()).about("A replay's number."),
        )
        .answer::<ProgressView>(
            StatusCode::OK,
            "How many wait, were delivered, or were given up again.",
        )
}
