//! The API's description of itself: an OpenAPI 3.1 document at [`DOCUMENT`], and a page made of it at [`REFERENCE`] (ADR 0035).
//!
//! # Who says what
//!
//! The table of routes (`router.rs`) is where an operation begins: method, path, scope, handler, and the [`Operation`] that says what
//! the handler does. Operations stand in a submodule `operations` of their handlers' module. What a request may carry is written
//! with [`schema`], beside the code that reads it and with the same constants. What an answer has is derived from the structure
//! that is sent; [`values`] tells what Rust's types do not. [`problem codes`](crate::problem::Code) an operation has by what it takes, or by name.
//! The [assembly] puts it together, has [examples] made of answers, and knows the limits that are settings.
//!
//! # To add an operation
//!
//! A line in the table of routes, with the handler and a function that returns its [`Operation`]. The tests then ask for a
//! good request of it (`tests/it/routes.rs`), and hold every answer that any test receives against the document.
//!
//! # Architecture invariants
//!
//! - Neither of the two needs a key: they say what this version's source says, and nothing of any tenant.
//! - Both are made once, when the process starts.

pub(crate) mod schema;
pub(crate) mod values;

mod assembly;
mod examples;
mod operation;
mod page;

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::answer::Answer;
use crate::app::App;
use crate::config::Limits;

pub(crate) use operation::{
    CLOUD_EVENT, CLOUD_EVENTS, Extent, JSON, LINES, Operation, event_type_parameter, reason,
};

/// Where the document is.
pub(crate) const DOCUMENT: &str = "/openapi.json";
/// Where the page is.
pub(crate) const REFERENCE: &str = "/docs";

/// How long whoever has read it may go on without asking whether it has changed, which happens with another version only.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// What was made when the process started.
pub(crate) struct Description {
    document: Published,
    reference: Published,
    reference_policy: HeaderValue,
}

/// Bytes that are sent as they are.
struct Published {
    content_type: HeaderValue,
    body: Bytes,
    tag: HeaderValue,
}

impl Description {
    /// Of an API with these limits.
    pub(crate) fn of(limits: &Limits) -> Self {
        let document = self::document(limits);
        let text = serde_json::to_vec(&document).expect("a JSON value can be written");
        Self {
            document: Published::new("application/json", text),
            reference: Published::new("text/html; charset=utf-8", page::render(&document).into()),
            reference_policy: HeaderValue::from_str(&page::policy())
                .expect("a hash in base64 is a header value"),
        }
    }
}

impl Published {
    fn new(content_type: &'static str, body: Vec<u8>) -> Self {
        let digest: String = Sha256::digest(&body)
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            content_type: HeaderValue::from_static(content_type),
            tag: HeaderValue::from_str(&format!("\"{digest}\""))
                .expect("hexadecimal digits in quotes are a header value"),
            body: body.into(),
        }
    }

    /// The whole, or 304 if the client has it already (RFC 9110, section 13.1.2).
    fn answer(&self, headers: &HeaderMap) -> Answer {
        let known = headers.get_all(IF_NONE_MATCH).iter().any(|given| {
            let tags = given.to_str().unwrap_or_default().split(',');
            let mut tags = tags.map(|tag| tag.trim().trim_start_matches("W/"));
            tags.any(|tag| tag == "*" || tag.as_bytes() == self.tag.as_bytes())
        });
        let mut answer = Answer::new(Full::default());
        if known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *answer.body_mut() = Full::new(self.body.clone());
            answer
                .headers_mut()
                .insert(CONTENT_TYPE, self.content_type.clone());
        }
        let said = answer.headers_mut();
        said.insert(ETAG, self.tag.clone());
        said.insert(CACHE_CONTROL, CACHED);
        said.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }
}

/// The OpenAPI 3.1 document of an API with these limits.
pub fn document(limits: &Limits) -> Value {
    assembly::document(limits)
}

/// `GET /openapi.json`
pub(crate) async fn send_document(State(app): State<Arc<App>>, headers: HeaderMap) -> Answer {
    app.description.document.answer(&headers)
}

/// `GET /docs`
pub(crate) async fn send_reference(State(app): State<Arc<App>>, headers: HeaderMap) -> Answer {
    let mut answer = app.description.reference.answer(&headers);
    let said = answer.headers_mut();
    said.insert(
        CONTENT_SECURITY_POLICY,
        app.description.reference_policy.clone(),
    );
    said.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}
