//! Logging in and out. The login is a plain form: the page's script never sees a key, and the form's own, which keeps
//! where somebody was, does not look at it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use zyven_domain::api_key::ApiKey;

use crate::App;
use crate::config::Config;
use crate::gate::{self, Known};
use crate::guard;
use crate::problem::Problem;
use crate::sessions::{Doing, Token};

/// Largest form that is read: a key and its name, many times over.
const FORM_BYTES_MAX: usize = 1_024;

const FORM: &str = include_str!("../assets/login.html");
/// The login, for whoever had a session that is over. The page's own script goes there as well.
pub(crate) const AFTER_THE_END: &str = "/login?ended";
/// What is said there.
const ENDED: &str = "<p class=\"notice warn\" role=\"status\">Your session has ended. Log in again to go on where you were.</p>";
/// Where the form says what went wrong. What is put there is ours, word for word.
const MESSAGE_PLACE: &str = "<!--message-->";

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotAKey,
    NotAccepted,
    MayNotRead,
    ApiUnavailable,
    Origin,
    Form,
}

impl Refusal {
    const fn facts(self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotAKey => (
                S::UNAUTHORIZED,
                "That is not an API key. Keys begin with zyk_ and have 64 characters.",
            ),
            Self::NotAccepted => (
                S::UNAUTHORIZED,
                "This key is not accepted: it is unknown, revoked or expired.",
            ),
            Self::MayNotRead => (
                S::FORBIDDEN,
                "This key may not read. The console needs a key with the scope read.",
            ),
            Self::ApiUnavailable => (
                S::BAD_GATEWAY,
                "The API does not answer, so nobody can be let in. Try again in a moment.",
            ),
            Self::Origin => (
                S::FORBIDDEN,
                "The form was not sent by the console's own page. Behind a proxy, ZYVEN_CONSOLE_URL must be what browsers see.",
            ),
            Self::Form => (S::BAD_REQUEST, "The form could not be read."),
        }
    }
}

/// `GET /login`. With `?ended` it says that the session is over.
///
/// Where somebody was, `#/…`, never comes here: browsers send it to nobody, and the form's script keeps it. So no address
/// leads from here to anywhere but the console's own page.
pub(crate) async fn form(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Response {
    let token = token(&headers, &app.config);
    if token.is_some_and(|token| app.sessions.key(&token, Doing::Page).is_some()) {
        return Redirect::to("/").into_response();
    }
    match uri.query() {
        Some("ended") => Html(FORM.replace(MESSAGE_PLACE, ENDED)).into_response(),
        Some(_) | None => Html(FORM).into_response(),
    }
}

/// `POST /login`: begins a session with the form's `key`. A session the browser had before ends.
pub(crate) async fn log_in(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match begin(&app, &headers, body).await {
        Ok(response) => {
            app.statistics.logins_accepted.increment();
            response
        }
        Err(refusal) => {
            let count = match refusal {
                Refusal::ApiUnavailable => &app.statistics.logins_failed,
                Refusal::NotAKey
                | Refusal::NotAccepted
                | Refusal::MayNotRead
                | Refusal::Origin
                | Refusal::Form => &app.statistics.logins_refused,
            };
            count.increment();
            tracing::info!(why = ?refusal, "nobody was logged in");
            let (status, text) = refusal.facts();
            let message = format!("<p class=\"notice bad\" role=\"alert\">{text}</p>");
            (status, Html(FORM.replace(MESSAGE_PLACE, &message))).into_response()
        }
    }
}

async fn begin(app: &App, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    if !guard::is_same_origin(headers, &app.config) {
        return Err(Refusal::Origin);
    }
    let form = gate::receive(body, FORM_BYTES_MAX)
        .await
        .map_err(|_| Refusal::Form)?;
    let (_, key) = url::form_urlencoded::parse(&form)
        .find(|(name, _)| name == "key")
        .ok_or(Refusal::Form)?;
    let key = ApiKey::parse(key.trim()).map_err(|_| Refusal::NotAKey)?;
    match app.upstream.look_up(&key.expose()).await {
        Known::Yes { id, tenant } => {
            tracing::info!(api_key.id = id, tenant.id = tenant, "logged in");
        }
        Known::No => return Err(Refusal::NotAccepted),
        Known::MayNotRead => return Err(Refusal::MayNotRead),
        Known::Unavailable => return Err(Refusal::ApiUnavailable),
    }
    if let Some(token) = token(headers, &app.config) {
        app.sessions.end(&token);
    }
    let token = app.sessions.begin(key).map_err(|error| {
        tracing::error!(%error, "the operating system has no random bytes");
        Refusal::ApiUnavailable
    })?;
    let mut response = Redirect::to("/").into_response();
    let cookie = cookie(
        &app.config,
        token.expose(),
        app.config.lifetimes.total.as_secs(),
    );
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// `POST /logout`: ends the session, here and in the browser.
pub(crate) async fn log_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if !guard::is_same_origin(&headers, &app.config) {
        return Problem::OriginRefused.into_response();
    }
    if let Some(token) = token(&headers, &app.config) {
        app.sessions.end(&token);
    }
    let mut response = Redirect::to("/login").into_response();
    let expired = cookie(&app.config, "", 0);
    response.headers_mut().insert(SET_COOKIE, expired);
    response
}

/// The token of the request's cookie. The first one counts, if there are several: with `__Host-` there are none.
pub(crate) fn token(headers: &HeaderMap, config: &Config) -> Option<Token> {
    let name = cookie_name(config);
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(of, _)| *of == name)
        .and_then(|(_, value)| Token::parse(value))
}

/// `__Host-`: set by this very host over TLS, for no other (RFC 6265bis, section 4.1.3.2).
fn cookie_name(config: &Config) -> &'static str {
    match config.is_behind_tls() {
        true => "__Host-zyven_console",
        false => "zyven_console",
    }
}

fn cookie(config: &Config, value: &str, seconds: u64) -> HeaderValue {
    let secure = if config.is_behind_tls() {
        "; Secure"
    } else {
        ""
    };
    let name = cookie_name(config);
    let text =
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).expect("names and tokens are visible ASCII")
}
