//! What the routes of endpoints do, for those who call them.

use http::StatusCode;
use serde_json::json;

use super::secrets::{CurrentSecret, PublicKeys, RotatedSecret};
use super::{EndpointView, TestEvent, credentials, form, secrets};
use crate::openapi::schema::object;
use crate::openapi::{Operation, values};
use crate::pages::Page;
use crate::problem::Code;

pub(crate) fn list() -> Operation {
    Operation::new("listEndpoints", "List endpoints")
        .about("The oldest first.")
        .paged(values::EndpointId::schema())
        .answer::<Page<'_, EndpointView<'_>>>(StatusCode::OK, "A page of endpoints.")
}

pub(crate) fn create() -> Operation {
    let body = object().required("url", form::url());
    let body = secrets::described(credentials::described(form::described(body)));
    let example = json!({ "url": "https://receiver.example.com/hooks", "event_types": ["invoice.*", "customer.deleted"] });
    Operation::new("createEndpoint", "Create an endpoint")
        .about("Events accepted from now on go to it; earlier ones do not. The answer has its signing secret.")
        .body(body, example)
        .answer::<EndpointView<'_>>(StatusCode::CREATED, "The endpoint.")
        .with_header("etag")
        .problem(Code::EndpointLimit)
}

pub(crate) fn endpoint() -> Operation {
    one("getEndpoint", "Read an endpoint")
        .answer::<EndpointView<'_>>(StatusCode::OK, "The endpoint.")
        .with_header("etag")
}

pub(crate) fn change() -> Operation {
    let body = object().optional("url", form::url());
    let body = credentials::described(form::described(body));
    one("changeEndpoint", "Change an endpoint")
        .about("What is absent stays as it is. Patterns, channels and filter count for events accepted from now on; \
             all else for deliveries that are on their way, too, within a second or two.")
        .conditional()
        .body(body, json!({ "timeout_ms": 5000 }))
        .answer::<EndpointView<'_>>(StatusCode::OK, "The endpoint as it is now.")
        .with_header("etag")
}

pub(crate) fn delete() -> Operation {
    one("deleteEndpoint", "Delete an endpoint")
        .conditional()
        .about("For good. What is on its way to it becomes a dead letter; finished deliveries can still be read.")
        .no_content("It is deleted.")
}

pub(crate) fn enable() -> Operation {
    one("enableEndpoint", "Enable an endpoint")
        .no_body()
        .answer::<EndpointView<'_>>(StatusCode::OK, "The endpoint as it is now.")
}

pub(crate) fn disable() -> Operation {
    one("disableEndpoint", "Disable an endpoint")
        .no_body()
        .about("It gets no new events. What is on its way to it becomes a dead letter when its turn comes.")
        .answer::<EndpointView<'_>>(StatusCode::OK, "The endpoint as it is now.")
}

pub(crate) fn pause() -> Operation {
    one("pauseEndpoint", "Pause an endpoint")
        .no_body()
        .about("It gets no requests. What is for it waits, and spends no attempt.")
        .answer::<EndpointView<'_>>(StatusCode::OK, "The endpoint as it is now.")
}

pub(crate) fn resume() -> Operation {
    one("resumeEndpoint", "Resume an endpoint")
        .no_body()
        .about("It gets two requests at a time, and one more with each success.")
        .answer::<EndpointView<'_>>(StatusCode::OK, "The endpoint as it is now.")
}

pub(crate) fn test() -> Operation {
    one("testEndpoint", "Send an endpoint a test event")
        .no_body()
        .about("An event for this endpoint alone, whatever it subscribes to. Look at the delivery's attempts for the \
             outcome.")
        .answer::<TestEvent>(StatusCode::ACCEPTED, "The event is on its way.")
        .problem(Code::EndpointDisabled)
}

pub(crate) fn secret() -> Operation {
    one("getEndpointSecret", "Read an endpoint's signing secret")
        .about("The current one, and those in their overlap. The audit log says that somebody has read it.")
        .answer::<CurrentSecret>(StatusCode::OK, "The secrets.")
}

pub(crate) fn public_key() -> Operation {
    one("getEndpointPublicKey", "Read an endpoint's public keys")
        .about("What receivers verify with. Nothing here is secret.")
        .answer::<PublicKeys>(StatusCode::OK, "The keys.")
}

pub(crate) fn rotate_secret() -> Operation {
    let body = secrets::described(object().optional("overlap_s", secrets::overlap()));
    one("rotateEndpointSecret", "Rotate an endpoint's signing secret")
        .about("Makes a new one, or takes yours. Meanwhile requests carry a signature for each valid secret. The body \
             may be left out.")
        .body(body, json!({ "overlap_s": 3600 }))
        .body_is_optional()
        .answer::<RotatedSecret>(StatusCode::OK, "The new secret.")
}

fn one(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary).one("id", values::EndpointId::schema())
}
