//! What a client is told when something is wrong: RFC 9457 problem documents with a stable `code`.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::api_key::Scope;
use zyven_store::StoreError;

use crate::answer::{self, Answer};
use crate::openapi::values;

/// Seconds after which a client that was turned away may come again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// The media type of every problem (RFC 9457, section 3).
pub(crate) const ANSWERED_AS: &str = "application/problem+json";

/// Every kind of problem. Its code never changes once published; programs branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    RequestMalformed,
    BodyNotJson,
    BodyNotUtf8,
    Unauthenticated,
    ScopeMissing,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    IdempotencyConflict,
    EndpointDisabled,
    EndpointLimit,
    ApiKeyLimit,
    EventTypeExists,
    EventTypeLimit,
    NotReplayable,
    BeingAttempted,
    NotCancellable,
    PreconditionFailed,
    BodyTooLarge,
    ContentTypeUnsupported,
    ContentEncodingUnsupported,
    Invalid,
    SchemaMismatch,
    FiltersTooCostly,
    RateLimited,
    Internal,
    Overloaded,
    Unavailable,
}

impl Code {
    /// Every code, in order.
    pub(crate) const ALL: [Self; 28] = [
        Self::RequestMalformed,
        Self::BodyNotJson,
        Self::BodyNotUtf8,
        Self::Unauthenticated,
        Self::ScopeMissing,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::IdempotencyConflict,
        Self::EndpointDisabled,
        Self::EndpointLimit,
        Self::ApiKeyLimit,
        Self::EventTypeExists,
        Self::EventTypeLimit,
        Self::NotReplayable,
        Self::BeingAttempted,
        Self::NotCancellable,
        Self::PreconditionFailed,
        Self::BodyTooLarge,
        Self::ContentTypeUnsupported,
        Self::ContentEncodingUnsupported,
        Self::Invalid,
        Self::SchemaMismatch,
        Self::FiltersTooCostly,
        Self::RateLimited,
        Self::Internal,
        Self::Overloaded,
        Self::Unavailable,
    ];

    /// Status, stable code, title.
    const fn facts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::RequestMalformed => (
                S::BAD_REQUEST,
                "request_malformed",
                "The request can be read in two ways",
            ),
            Self::BodyNotJson => (S::BAD_REQUEST, "body_not_json", "The body is not JSON"),
            Self::BodyNotUtf8 => (S::BAD_REQUEST, "body_not_utf8", "The body is not UTF-8"),
            Self::Unauthenticated => (
                S::UNAUTHORIZED,
                "unauthenticated",
                "A valid API key is needed",
            ),
            Self::ScopeMissing => (S::FORBIDDEN, "scope_missing", "The API key lacks a scope"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is no such thing"),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The method does not apply here",
            ),
            Self::BodyTimeout => (
                S::REQUEST_TIMEOUT,
                "body_timeout",
                "The body did not arrive in time",
            ),
            Self::IdempotencyConflict => (
                S::CONFLICT,
                "idempotency_conflict",
                "The idempotency key was used for a different event",
            ),
            Self::EndpointDisabled => {
                (S::CONFLICT, "endpoint_disabled", "The endpoint is disabled")
            }
            Self::EndpointLimit => (
                S::CONFLICT,
                "endpoint_limit",
                "There are too many endpoints",
            ),
            Self::ApiKeyLimit => (S::CONFLICT, "api_key_limit", "There are too many API keys"),
            Self::EventTypeExists => (
                S::CONFLICT,
                "event_type_exists",
                "There is an event type of this name",
            ),
            Self::EventTypeLimit => (
                S::CONFLICT,
                "event_type_limit",
                "There are too many event types",
            ),
            Self::NotReplayable => (
                S::CONFLICT,
                "not_replayable",
                "The delivery cannot be replayed",
            ),
            Self::BeingAttempted => (
                S::CONFLICT,
                "being_attempted",
                "A request is under way at this moment",
            ),
            Self::NotCancellable => (
                S::CONFLICT,
                "not_cancellable",
                "The delivery cannot be cancelled",
            ),
            Self::PreconditionFailed => (
                S::PRECONDITION_FAILED,
                "precondition_failed",
                "It has changed meanwhile",
            ),
            Self::BodyTooLarge => (
                S::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large",
            ),
            Self::ContentTypeUnsupported => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "content_type_unsupported",
                "The content type is not supported",
            ),
            Self::ContentEncodingUnsupported => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "content_encoding_unsupported",
                "The content encoding is not supported",
            ),
            Self::Invalid => (
                S::UNPROCESSABLE_ENTITY,
                "invalid",
                "The request breaks a rule",
            ),
            Self::SchemaMismatch => (
                S::UNPROCESSABLE_ENTITY,
                "schema_mismatch",
                "The payload does not fit its type's schema",
            ),
            Self::FiltersTooCostly => (
                S::UNPROCESSABLE_ENTITY,
                "filters_too_costly",
                "Asking the endpoints' filters would take too long",
            ),
            Self::RateLimited => (
                S::TOO_MANY_REQUESTS,
                "rate_limited",
                "The tenant asks more often than it may",
            ),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Zyven failed"),
            Self::Overloaded => (
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "There is more to do than can be done",
            ),
            Self::Unavailable => (
                S::SERVICE_UNAVAILABLE,
                "unavailable",
                "The database cannot be reached",
            ),
        }
    }

    pub(crate) const fn status(self) -> StatusCode {
        self.facts().0
    }

    pub(crate) const fn as_str(self) -> &'static str {
        self.facts().1
    }

    pub(crate) const fn title(self) -> &'static str {
        self.facts().2
    }

    /// What such an answer says in its head besides its status.
    pub(crate) fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            // How long it takes until one may ask again, the exchange knows better.
            Self::Overloaded | Self::Unavailable | Self::RateLimited => {
                Some((RETRY_AFTER, RETRY_AFTER_S))
            }
            Self::Unauthenticated => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            _ => None,
        }
    }
}

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct FieldError {
    /// Where: a member's path such as `channels[2]`, a header's name, or a query parameter's.
    pub(crate) field: String,
    /// The rule, as a sentence about the field.
    pub(crate) rule: Cow<'static, str>,
}

/// A problem document (RFC 9457).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct ProblemView<'a> {
    /// A name for `code` that is unique in the world.
    #[schemars(example = &"urn:zyven:problem:invalid")]
    r#type: String,
    /// What is wrong, in a few words for people.
    title: &'static str,
    /// The status of the answer.
    #[schemars(example = 422)]
    status: u16,
    /// What is wrong in this case, for people.
    detail: &'a str,
    #[schemars(with = "values::ProblemCode")]
    code: &'static str,
    /// Each field that breaks a rule.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// A request's unhappy end.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// The same words whatever was wrong with the key, or nobody could tell a bad one from an unknown one.
    pub(crate) fn unauthenticated() -> Self {
        Self::new(
            Code::Unauthenticated,
            "Send \"Authorization: Bearer zyk_…\" with an API key that is neither revoked nor expired.",
        )
    }

    pub(crate) fn scope_missing(scope: Scope) -> Self {
        Self::new(
            Code::ScopeMissing,
            format!("This needs an API key with the scope \"{scope}\"."),
        )
    }

    /// Also for what belongs to another tenant.
    pub(crate) fn not_found(what: &'static str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {what}."))
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{} {}.", one.field, one.rule),
            many => format!("{} fields break a rule; see errors.", many.len()),
        };
        Self {
            errors,
            ..Self::new(Code::Invalid, detail)
        }
    }

    /// The payload breaks its type's JSON Schema, in these places.
    pub(crate) fn schema_mismatch(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(
                Code::SchemaMismatch,
                "The payload does not fit the JSON Schema of its type; see errors.",
            )
        }
    }

    pub(crate) fn one_invalid(
        field: impl Into<String>,
        rule: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::invalid(vec![FieldError {
            field: field.into(),
            rule: rule.into(),
        }])
    }

    pub(crate) fn overloaded(detail: &'static str) -> Self {
        Self::new(Code::Overloaded, detail)
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "Repeat the request with the same idempotency key: it is unknown whether it has had an effect.",
        )
    }

    pub(crate) fn view(&self) -> ProblemView<'_> {
        ProblemView {
            r#type: format!("urn:zyven:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            errors: &self.errors,
        }
    }

    #[cfg(test)]
    pub(crate) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    pub(crate) fn into_answer(self) -> Answer {
        let mut answer = answer::value(self.code.status(), &self.view());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(ANSWERED_AS));
        headers.extend(self.code.header());
        answer.extensions_mut().insert(self.code);
        answer
    }
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.into_answer().map(axum::body::Body::new)
    }
}

/// Logged here, once: what a client is told about it says nothing of the database.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let transient = error.is_transient();
        let error = zyven_runtime::supervisor::Chain(&error).to_string();
        if transient {
            tracing::warn!(error, "the database could not be asked");
            Self::unavailable()
        } else {
            tracing::error!(error, "the database refused a statement");
            Self::new(
                Code::Internal,
                "The failure is in the log under this request's id.",
            )
        }
    }
}
