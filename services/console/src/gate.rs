//! What is passed on to the API, and how.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zyven_domain::api_key::Scope;
use zyven_domain::view_link::{VIEW_LINK_PREFIX, ViewLink};

use crate::App;
use crate::problem::Problem;
use crate::sessions::{Doing, Token};
use crate::{guard, login};

/// Largest body of a request that is passed on: more than any form of the page.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest answer that is passed back: a thousand attempts with their headers and bodies.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests that are passed on at the same time for those who are logged in; one more is answered 503 at once.
pub(crate) const PLACES: usize = 64;
/// The same for those who have a view link, or something that looks like one: anybody may try.
pub(crate) const VIEW_PLACES: usize = 32;
/// How much of a body that is too large is read over.
const READ_OVER_BYTES_MAX: usize = 1024 * 1024;
/// How long a client may take to send a body.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the API may take for all of its answer: longer than it lets any question take.
const API_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest path and query that are passed on.
const TARGET_BYTES_MAX: usize = 2_048;

/// Everything the page asks for. `*` stands for an id. What is not here is not passed on: publishing, signing
/// secrets, and whatever changes how an endpoint is reached or signed.
#[rustfmt::skip] // One route per line.
const PASSED_ON: [(Method, &str); 25] = [
    (Method::GET,    "/v1/api-keys/current"),
    (Method::GET,    "/v1/statistics"),
    (Method::GET,    "/v1/events/*"),
    (Method::GET,    "/v1/events/*/deliveries"),
    (Method::GET,    "/v1/events/*/explain"),
    (Method::POST,   "/v1/events/*/cancel"),
    (Method::GET,    "/v1/deliveries"),
    (Method::GET,    "/v1/deliveries/*"),
    (Method::GET,    "/v1/deliveries/*/attempts"),
    (Method::GET,    "/v1/deliveries/*/explain"),
    (Method::POST,   "/v1/deliveries/*/replay"),
    (Method::POST,   "/v1/deliveries/*/cancel"),
    (Method::POST,   "/v1/replays"),
    (Method::GET,    "/v1/replays/*"),
    (Method::GET,    "/v1/endpoints"),
    (Method::GET,    "/v1/endpoints/*"),
    (Method::POST,   "/v1/endpoints/*/enable"),
    (Method::POST,   "/v1/endpoints/*/disable"),
    (Method::POST,   "/v1/endpoints/*/pause"),
    (Method::POST,   "/v1/endpoints/*/resume"),
    (Method::POST,   "/v1/endpoints/*/test"),
    (Method::GET,    "/v1/api-keys"),
    (Method::POST,   "/v1/api-keys"),
    (Method::DELETE, "/v1/api-keys/*"),
    (Method::GET,    "/v1/audit-log"),
];

/// The API, as the console reaches it.
pub(crate) struct Upstream {
    client: reqwest::Client,
    url: String,
}

/// Whose a key is.
pub(crate) enum Known {
    Yes { id: String, tenant: String },
    No,
    MayNotRead,
    Unavailable,
}

/// What of the API's answer is looked at.
#[derive(Deserialize)]
struct CurrentKey {
    id: String,
    tenant: String,
    scopes: Vec<String>,
}

impl Upstream {
    /// # Errors
    /// The system cannot make a client.
    pub(crate) fn new(url: &str) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            // The environment's proxies are for others, and the API sends nobody elsewhere.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(API_TIME_MAX)
            .build()?;
        Ok(Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// Asks the API about a key.
    pub(crate) async fn look_up(&self, key: &str) -> Known {
        let url = format!("{}/v1/api-keys/current", self.url);
        let answer = match self.client.get(url).bearer_auth(key).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let error = error.without_url();
                tracing::warn!(%error, "the API does not answer");
                return Known::Unavailable;
            }
        };
        match answer.status() {
            StatusCode::OK => match answer.json::<CurrentKey>().await {
                Ok(CurrentKey { scopes, .. })
                    if !scopes.iter().any(|it| it == Scope::Read.as_str()) =>
                {
                    Known::MayNotRead
                }
                Ok(CurrentKey { id, tenant, .. }) => Known::Yes { id, tenant },
                Err(_) => Known::Unavailable,
            },
            StatusCode::UNAUTHORIZED => Known::No,
            // Of an API that asks for the scope itself, as it did before any key might ask.
            StatusCode::FORBIDDEN => Known::MayNotRead,
            _ => Known::Unavailable,
        }
    }
}

/// What a request is passed on with: the key of its session, or a view link.
enum Pass {
    Session { token: Token, key: String },
    View(ViewLink),
}

impl Pass {
    /// A view link comes before the session that the browser may have as well: whoever looks at an embedded view sees what
    /// the link allows. Keys are not taken from a header; they are for the login, and for the API itself.
    fn of(headers: &HeaderMap, doing: Doing, app: &App) -> Result<Self, Problem> {
        if app.config.frame_ancestors.is_some()
            && let Some(text) = bearer(headers).filter(|text| text.starts_with(VIEW_LINK_PREFIX))
        {
            let link = ViewLink::parse(text);
            return link.map(Self::View).map_err(|_| Problem::ViewEnded);
        }
        let token = login::token(headers, &app.config).ok_or(Problem::SessionEnded)?;
        let key = app.sessions.key(&token, doing);
        let key = key.ok_or(Problem::SessionEnded)?;
        Ok(Self::Session { token, key })
    }

    /// Where its requests wait for nobody: views do not take the places of those who are logged in.
    fn places<'a>(&self, app: &'a App) -> &'a Semaphore {
        match self {
            Self::Session { .. } => &app.places,
            Self::View(_) => &app.view_places,
        }
    }

    fn bearer(&self) -> String {
        match self {
            Self::Session { key, .. } => key.clone(),
            Self::View(link) => link.expose(),
        }
    }

    /// The API does not accept it: revoked or expired meanwhile.
    fn end(&self, app: &App) -> Problem {
        match self {
            Self::Session { token, .. } => {
                app.sessions.end(token);
                Problem::SessionEnded
            }
            Self::View(_) => Problem::ViewEnded,
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

/// `/api/v1/…`: passes a request on with the key of its session, or with its view link.
pub(crate) async fn pass(State(app): State<Arc<App>>, request: Request) -> Response {
    let method = request.method().clone();
    let answered = pass_on(&app, request).await;
    match &answered {
        Ok(_) => app.statistics.answered.increment(),
        Err(Problem::ApiUnavailable) => app.statistics.failed.increment(),
        Err(_) => app.statistics.refused.increment(),
    }
    let response = answered.unwrap_or_else(IntoResponse::into_response);
    if method != Method::GET {
        tracing::info!(%method, status = response.status().as_u16(), "a request that changes something");
    }
    response
}

async fn pass_on(app: &App, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let is_reading = head.method == Method::GET;
    let doing = guard::asked_by_own_script(&head.headers).ok_or(Problem::OriginRefused)?;
    if !is_reading && !guard::is_same_origin(&head.headers, &app.config) {
        return Err(Problem::OriginRefused);
    }
    let pass = Pass::of(&head.headers, doing, app)?;
    let target = head
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let target = target.strip_prefix("/api").unwrap_or_default();
    if !is_passed_on(&head.method, target) {
        return Err(Problem::NotFound);
    }
    // First, for who sends slowly is to keep nobody's place.
    let body = receive(body, BODY_BYTES_MAX).await?;
    let place = pass.places(app).try_acquire();
    let _place = place.map_err(|_| Problem::Overloaded)?;
    let url = format!("{}{target}", app.upstream.url);
    let mut asking = app
        .upstream
        .client
        .request(head.method, url)
        .bearer_auth(pass.bearer());
    if let Some(kind) = head.headers.get(CONTENT_TYPE)
        && !body.is_empty()
    {
        asking = asking.header(CONTENT_TYPE, kind);
    }
    let (status, headers, body) = ask(asking.body(body)).await?;
    if status == StatusCode::UNAUTHORIZED {
        return Err(pass.end(app));
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    for name in [CONTENT_TYPE, RETRY_AFTER, ALLOW] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
        .headers_mut()
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn ask(asking: reqwest::RequestBuilder) -> Result<(StatusCode, HeaderMap, Bytes), Problem> {
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        tracing::warn!(%error, "the API does not answer");
        Problem::ApiUnavailable
    };
    let mut answer = asking.send().await.map_err(failed)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut body = BytesMut::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            tracing::warn!("the API's answer is larger than any that the page asks for");
            return Err(Problem::ApiUnavailable);
        }
        body.extend_from_slice(&piece);
    }
    Ok((status, headers, body.freeze()))
}

/// Reads a body of at most so many bytes. What is refused is read over for a while: a connection that is closed with
/// unread bytes is reset, and the client may never see why.
pub(crate) async fn receive(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let read = async {
        let mut kept = BytesMut::new();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::BodyRefused)?;
            let data = frame.into_data().unwrap_or_default();
            bytes += data.len();
            if bytes <= bytes_max {
                kept.extend_from_slice(&data);
            } else if bytes > bytes_max + READ_OVER_BYTES_MAX {
                break;
            }
        }
        match bytes <= bytes_max {
            true => Ok(kept.freeze()),
            false => Err(Problem::BodyRefused),
        }
    };
    let read = timeout(BODY_TIME_MAX, read).await;
    read.unwrap_or(Err(Problem::BodyRefused))
}

fn is_passed_on(method: &Method, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    target.len() <= TARGET_BYTES_MAX
        && PASSED_ON
            .iter()
            .any(|(of, pattern)| of == method && is_like(path, pattern))
}

/// Part by part. An id is of characters that mean nothing in a path, so that none can become another route.
fn is_like(path: &str, pattern: &str) -> bool {
    let is_id = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    let (mut parts, mut wanted) = (path.split('/'), pattern.split('/'));
    loop {
        match (parts.next(), wanted.next()) {
            (None, None) => return true,
            (Some(part), Some("*")) if is_id(part) => {}
            (Some(part), Some(name)) if part == name => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_is_not_passed_on() {
        let get = |target: &str| is_passed_on(&Method::GET, target);
        for good in [
            "/v1/deliveries",
            "/v1/deliveries?status=DEAD_LETTERED&limit=50",
            "/v1/events/evt_0199f2c6d1a87b3e9c5f2d4a6b8e0c1d",
            "/v1/endpoints/ep_0199f2c6d1a87b3e9c5f2d4a6b8e0c1d",
        ] {
            assert!(get(good), "{good}");
        }
        for bad in [
            "",
            "/v1",
            "/v1/",
            "/v1/endpoints/ep_1/secret",
            "/v1/events/..",
            "/v1/events/../endpoints/ep_1/secret",
            "/v1/events/%2e%2e",
            "/v1/events/a%2Fb",
            "/v1/deliveries/",
            "//v1/deliveries",
            "/v1/deliveries/a/b/c",
            "@evil.example/v1/deliveries",
        ] {
            assert!(!get(bad), "{bad}");
        }
        assert!(!get(&format!(
            "/v1/deliveries?{}",
            "a".repeat(TARGET_BYTES_MAX)
        )));
        assert!(!is_passed_on(&Method::POST, "/v1/events"), "publishing");
        assert!(!is_passed_on(&Method::PATCH, "/v1/endpoints/ep_1"));
        assert!(!is_passed_on(&Method::POST, "/v1/view-links"));
        assert!(is_passed_on(&Method::POST, "/v1/endpoints/ep_1/pause"));
    }
}
