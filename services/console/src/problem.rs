//! What the page's script is told when the console itself does not pass a request on: problem documents in the API's
//! own form (RFC 9457), so that the script knows one form only.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

/// Everything that can be in the way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// There is no session, or it has ended.
    SessionEnded,
    /// The view link is not accepted, or not any more.
    ViewEnded,
    /// It does not come from the console's own page.
    OriginRefused,
    /// It is not among what the console passes on.
    NotFound,
    /// Its body is larger than any that the page sends, or took too long.
    BodyRefused,
    /// Too many requests are being passed on.
    Overloaded,
    /// The API does not answer, or answers too much.
    ApiUnavailable,
}

impl Problem {
    const fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::SessionEnded => (
                S::UNAUTHORIZED,
                "session_ended",
                "The session has ended",
                "Log in again.",
            ),
            Self::ViewEnded => (
                S::UNAUTHORIZED,
                "view_ended",
                "This view has ended",
                "Reload the page that shows it.",
            ),
            Self::OriginRefused => (
                S::FORBIDDEN,
                "origin_refused",
                "The request does not come from the console's own page",
                "Reload the page. Behind a proxy, ZYVEN_CONSOLE_URL must be what browsers see.",
            ),
            Self::NotFound => (
                S::NOT_FOUND,
                "not_found",
                "There is no such thing",
                "The console does not pass this request on.",
            ),
            Self::BodyRefused => (
                S::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large",
                "The request's body is too large or did not arrive in time.",
            ),
            Self::Overloaded => (
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "There is more to do than can be done",
                "The console passes on too many requests at the moment.",
            ),
            Self::ApiUnavailable => (
                S::BAD_GATEWAY,
                "api_unavailable",
                "The API does not answer",
                "The console cannot reach the API, or its answer is too large.",
            ),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title, detail) = self.facts();
        let body = serde_json::json!({
            "type": format!("urn:zyven:problem:{code}"),
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
            "code": code,
        });
        let mut response = (status, body.to_string()).into_response();
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }
}
