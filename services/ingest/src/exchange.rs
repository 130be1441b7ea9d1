//! One request and its answer, whatever they are about: request id, log line, counters.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tower::ServiceExt as _;
use uuid::Uuid;
use zyven_domain::id::{EventId, TenantId};

use crate::app::App;
use crate::body;
use crate::events;
use crate::problem::{Code, Problem};
use crate::router::{self, PUBLISH};
use crate::statistics::Requests;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// What requests are counted under that no route was found for.
const NO_ROUTE: &str = "none";

/// What is known of a request when its answer is sent, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail {
    route: &'static str,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) event: Option<EventId>,
}

impl Trail {
    pub(crate) fn on(route: &'static str) -> Self {
        Self {
            route,
            tenant: None,
            event: None,
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
        let is_publish = request.method() == Method::POST && request.uri().path() == PUBLISH;
        let (mut response, trail) = if is_publish {
            self.publish(request).await
        } else {
            self.route(request).await
        };
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
        log(&response, &trail, &id, duration);
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }

    async fn publish(&self, request: Request<Incoming>) -> (Sent, Trail) {
        let (head, body) = request.into_parts();
        let mut trail = Trail::on(PUBLISH);
        let answer = events::publish(&self.app, &head.headers, body, &mut trail)
            .await
            .unwrap_or_else(Problem::into_answer);
        (answer.map(Either::Left), trail)
    }

    async fn route(&self, request: Request<Incoming>) -> (Sent, Trail) {
        // No route and no id needs an escape, and what one may decode to is nobody's text.
        if request.uri().path().contains('%') {
            let (head, body) = request.into_parts();
            body::drain(&head.headers, Body::new(body)).await;
            let answer = Problem::not_found("route").into_answer();
            return (answer.map(Either::Left), Trail::on(NO_ROUTE));
        }
        let Ok(mut response) = self.router.clone().oneshot(request.map(Body::new)).await;
        let trail = response.extensions_mut().remove();
        (
            response.map(Either::Right),
            trail.unwrap_or_else(|| Trail::on(NO_ROUTE)),
        )
    }
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

/// The one line about a request. What went well is told at debug: at thousands of requests a second
/// a log line costs more than the request.
fn log(response: &Sent, trail: &Trail, id: &HeaderValue, duration: Duration) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                request.id = id.to_str().unwrap_or_default(),
                route = trail.route,
                status = response.status().as_u16(),
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
    if response.status().is_success() {
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
