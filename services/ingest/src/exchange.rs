//! One request and its answer, whatever they are about: request id, log line, counters.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tower::ServiceExt as _;
use uuid::Uuid;
use zyven_domain::id::{EventId, TenantId};

use crate::app::App;
use crate::body::{self, OnLoan, Returned};
use crate::events;
use crate::problem::{Code, Problem};
use crate::rates::Limit;
use crate::router::{self, PUBLISH};
use crate::statistics::Requests;
use crate::trace::RequestSpan;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// What requests are counted under that no route was found for.
const NO_ROUTE: &str = "none";

/// Methods as the log names them. Another one is a client's own text, and not told.
const METHODS: [Method; 7] = [
    Method::POST,
    Method::GET,
    Method::PATCH,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
];

/// What is known of a request when its answer is sent, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail {
    route: &'static str,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) event: Option<EventId>,
    /// What the request was counted under, if anything limits that.
    pub(crate) limit: Option<Limit>,
}

impl Trail {
    pub(crate) fn on(route: &'static str) -> Self {
        Self {
            route,
            tenant: None,
            event: None,
            limit: None,
        }
    }
}

/// Answers every request of every connection.
pub(crate) struct Exchange {
    app: Arc<App>,
    router: Router,
    publishes: Requests,
    others: HashMap<&'static str, Requests>,
}

type Sent = Response<Either<Full<Bytes>, Body>>;

impl Exchange {
    pub(crate) fn new(app: Arc<App>) -> Self {
        let (router, paths) = router::router(&app);
        Self {
            router,
            publishes: app.statistics.requests(PUBLISH),
            others: paths
                .into_iter()
                .chain([NO_ROUTE])
                .map(|route| (route, app.statistics.requests(route)))
                .collect(),
            app,
        }
    }

    /// Never fails; the type is what hyper asks for.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Sent, Infallible> {
        let started = Instant::now();
        let id = request_id(request.headers());
        // With parameters it is the router's to refuse.
        let is_publish = request.method() == Method::POST
            && request.uri().path() == PUBLISH
            && request.uri().query().is_none_or(str::is_empty);
        // Whoever waits to be asked for a body that is not wanted is not asked.
        let waits_to_be_asked = request.headers().contains_key(EXPECT);
        let (head, body) = request.into_parts();
        let method = head.method.clone();
        let returned = Returned::default();
        let (mut response, trail) = if let Some(problem) = malformed(&head) {
            drop(returned.lend(body));
            (refused(problem), Trail::on(NO_ROUTE))
        } else if is_publish {
            self.publish(&head.headers, returned.lend(body)).await
        } else {
            let body = Body::new(returned.lend(body));
            self.route(Request::from_parts(head, body)).await
        };
        let is_late = response.extensions().get() == Some(&Code::BodyTimeout);
        if let Some(rest) = returned.take()
            && !waits_to_be_asked
            && !is_late
        {
            body::drain(rest).await;
        }
        let status = response.status();
        let duration = started.elapsed();
        if is_publish {
            self.publishes.count(status.as_u16());
            if status.is_success() {
                self.app.statistics.acknowledged.observe_duration(duration);
            }
        } else if let Some(requests) = self.others.get(trail.route) {
            requests.count(status.as_u16());
        }
        log(&response, &method, &trail, &id, duration);
        response.headers_mut().insert(REQUEST_ID, id);
        if let Some(limit) = &trail.limit {
            let is_refusal = response.extensions().get() == Some(&Code::RateLimited);
            if is_refusal {
                self.app.statistics.rate_limited(limit.counted());
            }
            let headers = response.headers_mut();
            self.app.rates.tell(limit, is_refusal, headers);
        }
        Ok(response)
    }

    async fn publish(&self, headers: &HeaderMap, body: OnLoan) -> (Sent, Trail) {
        let mut trail = Trail::on(PUBLISH);
        let mut span = RequestSpan::begin();
        let answer = events::publish(&self.app, headers, body, &mut trail, &mut span)
            .await
            .unwrap_or_else(Problem::into_answer);
        let outcome = (answer.status(), answer.extensions().get().copied());
        span.end(PUBLISH, outcome, trail.tenant, trail.event);
        (answer.map(Either::Left), trail)
    }

    async fn route(&self, request: Request<Body>) -> (Sent, Trail) {
        // No route and no id needs an escape, and what one may decode to is nobody's text.
        if request.uri().path().contains('%') {
            let answer = Problem::not_found("route").into_answer();
            return (answer.map(Either::Left), Trail::on(NO_ROUTE));
        }
        let Ok(mut response) = self.router.clone().oneshot(request).await;
        let trail = response.extensions_mut().remove();
        (
            response.map(Either::Right),
            trail.unwrap_or_else(|| Trail::on(NO_ROUTE)),
        )
    }
}

/// What hyper lets through although two parties could read it in two ways (RFC 9112, sections 3.2 and
/// 6.1): none or several hosts, and codings of the body besides `chunked`. A length beside a coding
/// does not come here: hyper drops the length and closes the connection after the answer.
fn malformed(head: &Parts) -> Option<Problem> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host_is_right = match (hosts.next(), hosts.next()) {
        (None, _) => head.version < Version::HTTP_11,
        (Some(host), None) => is_host(host.as_bytes()),
        (Some(_), Some(_)) => false,
    };
    if !host_is_right {
        return Some(Problem::new(
            Code::RequestMalformed,
            "Send exactly one Host header, with a host and perhaps a port.",
        ));
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let coding_is_right = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    (!coding_is_right).then(|| {
        Problem::new(
            Code::RequestMalformed,
            "The only transfer coding that is understood is a single \"chunked\".",
        )
    })
}

/// Nothing is a host, too: what a client sends whose target has none.
fn is_host(text: &[u8]) -> bool {
    text.is_empty() || (!text.contains(&b'@') && Authority::try_from(text).is_ok())
}

/// Whatever follows on this connection may have been framed by somebody else's reading, so it ends.
fn refused(problem: Problem) -> Sent {
    let mut answer = problem.into_answer();
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer.map(Either::Left)
}

/// A client's own id if it is one that can be searched for in a log, or a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match headers.get(REQUEST_ID) {
        Some(given)
            if (1..=REQUEST_ID_BYTES_MAX).contains(&given.len())
                && given.as_bytes().iter().all(plain) =>
        {
            given.clone()
        }
        Some(_) | None => {
            let mut text = [0; uuid::fmt::Simple::LENGTH];
            let id = Uuid::now_v7().simple().encode_lower(&mut text);
            HeaderValue::from_str(id).expect("hexadecimal digits are a header value")
        }
    }
}

/// The one line about a request, written when its answer is. The path is told as its pattern: what a client
/// made of it may be a secret, or a line of its own.
///
/// Of events that were accepted it is told at debug: they come by the thousand a second, and each of their attempts has a
/// line of its own.
fn log(response: &Sent, method: &Method, trail: &Trail, id: &HeaderValue, duration: Duration) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                request.id = id.to_str().unwrap_or_default(),
                http.method = METHODS
                    .into_iter()
                    .find(|known| known == method)
                    .as_ref()
                    .map(Method::as_str),
                http.route = trail.route,
                http.status = response.status().as_u16(),
                code = response
                    .extensions()
                    .get::<Code>()
                    .map(|code| code.as_str()),
                tenant.id = trail.tenant.map(tracing::field::display),
                event.id = trail.event.map(tracing::field::display),
                duration_ms = duration.as_secs_f64() * 1e3,
                "request"
            )
        };
    }
    if method == Method::POST && trail.route == PUBLISH && response.status().is_success() {
        line!(debug);
    } else {
        line!(info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_over_if_it_is_plain() {
        let id = |given: Option<&[u8]>| {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                let value = HeaderValue::from_bytes(given).expect("a header value");
                headers.insert(REQUEST_ID, value);
            }
            request_id(&headers).as_bytes().to_vec()
        };
        assert_eq!(id(Some(b"abc-1.2_3")), b"abc-1.2_3");
        for bad in [&b"a b"[..], b"", b"\xff", &[b'a'; 129]] {
            assert_eq!(id(Some(bad)).len(), 32, "{bad:?}");
        }
        assert_ne!(id(None), id(None));
    }
}
