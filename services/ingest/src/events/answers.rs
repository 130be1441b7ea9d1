//! What publishers are told.

use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::id::EventId;

use crate::openapi::values;
use crate::problem::FieldError;

/// An event that is stored now.
#[derive(Serialize, JsonSchema)]
pub(super) struct AcceptedEvent<'a> {
    #[schemars(with = "values::EventId")]
    pub(super) id: EventId,
    #[schemars(with = "values::DeliveryStatus")]
    pub(super) status: &'static str,
    #[schemars(with = "values::EventTypeName")]
    pub(super) r#type: &'a str,
    /// To how many endpoints it goes. 0 is not an error.
    pub(super) deliveries: usize,
    /// Where the payload does not fit its type's schema, if that is to be told and no more.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) schema_warnings: &'a [FieldError],
}

/// An event that was stored before, by a request with the same key and the same content.
#[derive(Serialize, JsonSchema)]
pub(super) struct RepeatedEvent<'a> {
    /// That of the first one.
    #[schemars(with = "values::EventId")]
    pub(super) id: EventId,
    #[schemars(with = "values::DeliveryStatus")]
    pub(super) status: &'static str,
    #[schemars(with = "values::EventTypeName")]
    pub(super) r#type: &'a str,
    /// Always true.
    pub(super) repeated: bool,
}

/// What has become of the events of a batch.
#[derive(Serialize, JsonSchema)]
pub(super) struct BatchOutcome<'a> {
    /// How many are stored now.
    pub(super) accepted: u32,
    /// How many had been stored before.
    pub(super) repeated: u32,
    /// How many have a key that was used for another event.
    pub(super) conflicts: u32,
    /// One for each event, in their order.
    pub(super) results: Vec<BatchItem<'a>>,
}

/// What has become of one event of a batch.
#[derive(Serialize, JsonSchema)]
pub(super) struct BatchItem<'a> {
    /// The status that a request of its own would have had: 202, 200 or 409.
    #[schemars(example = 202)]
    pub(super) status: u16,
    /// That of the first one, if its key was used before.
    #[schemars(with = "values::EventId")]
    pub(super) id: EventId,
    /// To how many endpoints it goes, if it is stored now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deliveries: Option<usize>,
    /// Where the payload does not fit its type's schema, if that is to be told and no more.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) schema_warnings: &'a [FieldError],
    /// `idempotency_conflict`, if the key was used for another event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<values::ProblemCode>", example = &"idempotency_conflict")]
    pub(super) code: Option<&'static str>,
}
