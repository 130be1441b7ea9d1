//! What the routes of events do, for those who call them.

use http::StatusCode;
use serde_json::{Value, json};
use zyven_domain::event::{
    CHANNELS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, ORDERING_KEY_BYTES_MAX, SOURCE_BYTES_MAX,
};

use super::answers::{AcceptedEvent, BatchOutcome, RepeatedEvent};
use super::draft::CLOUD_EVENT_ID_BYTES_MAX;
use super::read::{EventItem, EventView};
use crate::deliveries::DeliveryView;
use crate::openapi::schema::{
    Schema, any_of, anything, flag, list, number, object, one_of, text, time,
};
use crate::openapi::{
    CLOUD_EVENT, CLOUD_EVENTS, Extent, JSON, LINES, Operation, event_type_parameter, values,
};
use crate::pages::Page;
use crate::problem::Code;

pub(crate) fn publish() -> Operation {
    let example = json!({
        "type": "invoice.paid",
        "payload": { "invoice": "INV-1001", "amount": 4200, "currency": "EUR" },
    });
    Operation::new("publishEvent", "Publish an event")
        .about("`202` means: event and deliveries are committed.\n\nCloudEvents 1.0 are taken in structured mode, as \
             described, and in binary mode: attributes in `ce-` headers, among them `ce-specversion`, and data of any \
             type as the body.\n\nSend an `Idempotency-Key`, a name of your own for \
             this event, and any request whose fate is unknown can be repeated safely: the same event is `200` with \
             the first one's id, another event is `idempotency_conflict`.")
        .header("Idempotency-Key", idempotency_key().about("The publisher's own name for this event; the member \
             `idempotency_key` says the same."))
        .header("traceparent", text().about("W3C Trace Context, sent to the receivers, unless the event has its own. \
             One that is not written right is ignored."))
        .body(new_event(), example)
        .body_as(CLOUD_EVENT, Extent::One, cloud_event(), cloud_example(1))
        .answer::<AcceptedEvent<'_>>(StatusCode::ACCEPTED, "It is stored.")
        .answer::<RepeatedEvent<'_>>(StatusCode::OK, "It was stored before.")
        .with_header("idempotent-replayed")
        .problem(Code::IdempotencyConflict)
        .problem(Code::SchemaMismatch)
        .problem(Code::FiltersTooCostly)
}

pub(crate) fn publish_batch() -> Operation {
    let event = |order: u32| json!({ "type": "order.placed", "payload": { "order": order }, "idempotency_key": format!("order-{order}") });
    let lines = format!("{}\n{}\n", event(1), event(2));
    // The assembly says how many there may be: that is a setting.
    let array = list(new_event(), 0..=0);
    let text = text().about("One JSON object per line, each as an item of the array.");
    Operation::new("publishEvents", "Publish many events")
        .about("All of them are stored in one transaction, or none. A used key is its own event's affair: the answer \
             is `207` then. A mistake in any event refuses all of them and names its place: `[3].payload`. The header \
             `Idempotency-Key` is refused; each event has its own `idempotency_key`, a CloudEvent its `source` and `id`.")
        .header("traceparent", self::text().about("For those events that have none of their own."))
        .body_as(JSON, Extent::Batch, array, json!([event(1), event(2)]))
        .body_as(LINES, Extent::Batch, text, lines.into())
        .body_as(CLOUD_EVENTS, Extent::Batch, list(cloud_event(), 0..=0), json!([cloud_example(2), cloud_example(3)]))
        .answer::<BatchOutcome<'_>>(StatusCode::ACCEPTED, "All of them are stored, now or before.")
        .answer::<BatchOutcome<'_>>(StatusCode::MULTI_STATUS, "The key of at least one was used for another event; \
             the others are stored.")
        .problem(Code::SchemaMismatch)
        .problem(Code::FiltersTooCostly)
}

pub(crate) fn recent() -> Operation {
    Operation::new("listEvents", "List recent events")
        .about("Those of the last hour, the newest first, whether an endpoint wanted them or not.")
        .query("event_type", event_type_parameter())
        .query(
            "since",
            time().about(
                "Only those accepted at or after this time, which must be within the last hour.",
            ),
        )
        .paged(values::EventId::schema())
        .answer::<Page<'_, EventItem<'_>>>(StatusCode::OK, "A page of events.")
}

pub(crate) fn event() -> Operation {
    Operation::new("getEvent", "Read an event")
        .about("Its payload, and where its deliveries stand.")
        .one("id", values::EventId::schema())
        .answer::<EventView<'_>>(StatusCode::OK, "The event.")
}

pub(crate) fn event_deliveries() -> Operation {
    Operation::new("listEventDeliveries", "List an event's deliveries")
        .one("id", values::EventId::schema())
        .paged(values::DeliveryId::schema())
        .answer::<Page<'_, DeliveryView<'_>>>(StatusCode::OK, "A page of deliveries.")
}

/// What [`super::draft::Draft::read`] reads.
fn new_event() -> Schema {
    // Programs that have no other way to say so write that there is none.
    let optional = |schema: Schema| schema.or_null();
    object()
        .required("type", published_type())
        .required(
            "payload",
            anything().about(
                "Any JSON value that every parser reads alike, null too. Its bytes are kept and \
             sent exactly as they come.",
            ),
        )
        .optional(
            "channels",
            optional(list(values::Channel::schema(), 0..=CHANNELS_MAX).about(
                "An endpoint with channels gets \
             only events with at least one of them.",
            )),
        )
        .optional(
            "source",
            optional(
                visible(SOURCE_BYTES_MAX)
                    .example("billing")
                    .about("Where it comes from, in the publisher's words."),
            ),
        )
        .optional(
            "traceparent",
            optional(traceparent().about("W3C Trace Context, version 00; sent to the receivers.")),
        )
        .optional(
            "idempotency_key",
            optional(idempotency_key().about("The publisher's own name for this event.")),
        )
        .optional(
            "deliver_at",
            optional(time().about(
                "No attempt begins earlier. At most 30 days ahead; a time that has \
             passed means at once.",
            )),
        )
        .optional(
            "expires_at",
            optional(
                time().about("No attempt begins later. A time in the future, after `deliver_at`."),
            ),
        )
        .optional(
            "ordering_key",
            optional(visible(ORDERING_KEY_BYTES_MAX).about(
                "Events with the same key reach an endpoint \
             one after the other. Not together with `deliver_at`.",
            )),
        )
        .about("An optional member that is null is absent.")
}

/// What [`super::draft::Draft::read`] reads of a CloudEvent (CloudEvents 1.0.2, JSON Event Format).
fn cloud_event() -> Schema {
    let optional = |schema: Schema| schema.or_null();
    object()
        .required("specversion", one_of(["1.0"]))
        .required("id", plain().chars(1..=CLOUD_EVENT_ID_BYTES_MAX).about(
            "Together with `source` the idempotency key, unless the request has an `Idempotency-Key`.",
        ))
        .required("source", visible(SOURCE_BYTES_MAX).example("/billing"))
        .required("type", published_type())
        .optional("data", anything().about("Any JSON value. Not beside `data_base64`."))
        .optional("data_base64", optional(text().about("Bytes that are no JSON.")))
        .optional("subject", optional(plain().chars(1..=1_024)))
        .optional("time", optional(time()))
        .optional("datacontenttype", optional(plain().chars(1..=255)))
        .optional("dataschema", optional(plain().chars(1..=2_048)))
        .optional("traceparent", optional(traceparent()))
        .optional("expirytime", optional(time().about("No attempt begins later.")))
        .optional("zyvendeliverat", optional(time().about("No attempt begins earlier.")))
        .optional("zyvenorderingkey", optional(visible(ORDERING_KEY_BYTES_MAX)))
        .optional("zyvenchannels", optional(text().about("Names, with commas between them.").example("eu,us")))
        .others(
            text().pattern("^(data_base64|[a-z0-9]+)$"),
            any_of([
                plain().or_null(),
                number(0..=i32::MAX.unsigned_abs().into()),
                flag(),
            ])
            .about("An extension."),
        )
        .about("A CloudEvent, which is the payload as it is: all of it is sent, under the signature, and with this content type.")
}

fn cloud_example(id: u32) -> Value {
    json!({
        "specversion": "1.0", "id": format!("paid-{id}"), "source": "/billing", "type": "invoice.paid",
        "subject": "INV-1001", "datacontenttype": "application/json", "data": { "amount": 4200 },
    })
}

/// What kind of fact an event is; those of Zyven's own are not for publishers.
fn published_type() -> Schema {
    values::EventTypeName::schema().pattern(r"^(?!zyven\.)[a-zA-Z0-9_.-]+$")
}

/// A text without control characters.
fn plain() -> Schema {
    text().pattern(r"^[^\u0000-\u001f\u007f-\u009f]*$")
}

fn idempotency_key() -> Schema {
    visible(IDEMPOTENCY_KEY_BYTES_MAX).example("invoice-1001-paid")
}

/// A bounded text of visible ASCII characters.
fn visible(bytes_max: usize) -> Schema {
    text().pattern("^[!-~]+$").chars(1..=bytes_max)
}

/// Neither of the two ids may be zero.
fn traceparent() -> Schema {
    text()
        .pattern("^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
        .example("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
}
