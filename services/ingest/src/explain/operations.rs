//! What explanations tell, for those who ask for them.

use http::StatusCode;

use super::{DeliveryAnswer, EventAnswer};
use crate::openapi::{Operation, values};

pub(crate) fn event() -> Operation {
    Operation::new("explainEvent", "Explain an event")
        .about("Why it reached each endpoint or did not, and what its deliveries wait for: a page of the tenant's \
             endpoints that existed when it was accepted or were made later. Branch on `code`; sentences are for \
             people and may change.")
        .one("id", values::EventId::schema())
        .paged(values::EndpointId::schema())
        .answer::<EventAnswer<'_>>(StatusCode::OK, "A page of explanations.")
}

pub(crate) fn delivery() -> Operation {
    Operation::new("explainDelivery", "Explain a delivery")
        .about("What it waits for, or how it has ended.")
        .one("id", values::DeliveryId::schema())
        .answer::<DeliveryAnswer<'_>>(StatusCode::OK, "The explanation.")
}
