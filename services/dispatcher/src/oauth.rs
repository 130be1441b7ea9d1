//! Access tokens by the client credentials grant (RFC 6749, section 4.4).
//!
//! One source belongs to one credential. Its token is kept until shortly before it ends and shared by
//! all attempts; when it has to be renewed, one attempt asks the token endpoint, and the others wait for
//! what comes of it, each within its own deadline. The token endpoint is asked like any endpoint: through
//! the egress proxy, under its policy, with TLS checked.
//!
//! Without a token nothing is sent. That is a failed attempt of the class `oauth`, whatever the reason:
//! a token endpoint that is down comes back, and a client that was refused is mended by its owner. Only
//! what is not the token endpoint's doing (no egress proxy) spends no attempt. See ADR 0018.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;
use zyven_domain::credential::ClientCredentials;
use zyven_domain::retry::{FailureKind, Outcome};
use zyven_domain::target::{EndpointUrl, NamePolicy};

use crate::authentication::sensitive;
use crate::client::{Client, Failure, Observed, Origin, Stage};
use crate::destination::AGENT;
use crate::statistics::Statistics;

/// Longest wait for a token; the attempt's deadline ends it earlier.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a token is used whose end is not known.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// How long any token is used: a revocation that nobody reports takes effect within this.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// How long a token is used at least, however soon it ends: a server that says 0 is not asked for each
/// request. An endpoint that refuses the token meanwhile makes it be renewed.
const LIFETIME_MIN: Duration = Duration::from_secs(5);
/// How long before its end a token is renewed, at most: requests take time, and clocks differ.
const MARGIN_MAX: Duration = Duration::from_secs(30);
/// How long a refusal stands: attempts that waited for the same token do not all ask in turn.
const REFUSAL_STANDS: Duration = Duration::from_secs(1);
/// Longest answer of a token endpoint that is read.
const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// Longest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Errors that RFC 6749, section 5.2, defines. Others are not repeated: they may be anything.
const KNOWN_ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// Gets tokens and keeps them.
pub(crate) struct TokenSource {
    /// The credential's row.
    id: Uuid,
    origin: Arc<Origin>,
    path_and_query: Uri,
    headers: HeaderMap,
    body: Bytes,
    /// Locked while a token is fetched, so that one attempt asks. Whoever holds it has a deadline, and
    /// lets go of it when dropped.
    held: Mutex<Held>,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Token {
        token: Token,
        fresh_until: Instant,
    },
    Refusal {
        failure: Failure,
        until: Instant,
    },
}

/// A token as a request carries it.
#[derive(Clone)]
pub(crate) struct Token {
    /// The value of `authorization`, marked as sensitive.
    pub(crate) authorization: HeaderValue,
    /// When it was asked for: tells it from the next one, which may have the same text.
    asked_at: Instant,
}

/// What a token endpoint answers (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Issued {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl TokenSource {
    /// The error says what is wrong, and contains no secret.
    pub(crate) fn new(
        id: Uuid,
        credentials: &ClientCredentials,
        names: &NamePolicy,
        client: &Client,
    ) -> Result<Self, String> {
        let url = EndpointUrl::parse_with(&credentials.token_url, names)
            .map_err(|rule| format!("auth: the token URL {rule}"))?;
        let unfit = || "auth: the token URL does not fit into a request".to_owned();
        let asked = credentials.token_request();
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(url.host_header()).map_err(|_| unfit())?;
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, FORM);
        headers.insert(ACCEPT, JSON);
        if let Some(authorization) = &asked.authorization {
            headers.insert(AUTHORIZATION, sensitive(authorization.expose())?);
        }
        Ok(Self {
            id,
            origin: client.origin(&url, None),
            path_and_query: url.path_and_query().parse().map_err(|_| unfit())?,
            headers,
            body: Bytes::from(asked.body.expose().to_owned()),
            held: Mutex::default(),
        })
    }

    /// The credential it belongs to.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// A token: the one that is kept, unless it is too old or is `spent`, which an endpoint has refused.
    ///
    /// Cancel safe: a token that was not waited for is fetched by the next one.
    pub(crate) async fn token(
        &self,
        spent: Option<&Token>,
        client: &Client,
        statistics: &Statistics,
        deadline: Instant,
    ) -> Result<Token, Failure> {
        let mut held = self.held.lock().await;
        match &*held {
            Held::Token { token, fresh_until }
                if Instant::now() < *fresh_until
                    && spent.is_none_or(|spent| spent.asked_at != token.asked_at) =>
            {
                return Ok(token.clone());
            }
            Held::Refusal { failure, until } if Instant::now() < *until => {
                return Err(failure.clone());
            }
            Held::Nothing | Held::Token { .. } | Held::Refusal { .. } => *held = Held::Nothing,
        }
        match self.fetch(client, deadline).await {
            Ok((token, lifetime)) => {
                statistics.tokens_issued.increment();
                let fresh_until = token.asked_at + lifetime;
                *held = Held::Token {
                    token: token.clone(),
                    fresh_until,
                };
                Ok(token)
            }
            Err(failure) => {
                statistics.tokens_refused.increment();
                let failure = as_oauth(failure);
                if failure.outcome != Outcome::Unsent {
                    *held = Held::Refusal {
                        failure: failure.clone(),
                        until: Instant::now() + REFUSAL_STANDS,
                    };
                }
                Err(failure)
            }
        }
    }

    async fn fetch(
        &self,
        client: &Client,
        deadline: Instant,
    ) -> Result<(Token, Duration), Failure> {
        let asked_at = Instant::now();
        let deadline = deadline.min(asked_at + ANSWER_TIME_MAX);
        let mut observed = Observed::keeping(ANSWER_BYTES_MAX);
        let exchange =
            client.exchange(&self.origin, || Ok(self.request()), deadline, &mut observed);
        let ended = timeout_at(deadline, exchange).await;
        match (ended, observed.stage) {
            (Ok(ended), _) => ended?,
            (Err(_), Stage::Leaving) => {
                return Err(Failure::new(
                    Outcome::Unsent,
                    "no egress proxy could be asked for an access token in time",
                ));
            }
            (Err(_), _) => {
                return Err(oauth("the token endpoint did not answer in time"));
            }
        }
        let status = observed.status.unwrap_or_default();
        if status != 200 {
            return Err(refusal(status, &observed.body_start));
        }
        issued(&observed.body_start, asked_at)
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path_and_query.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Reads a token and for how long it is to be used.
fn issued(body: &[u8], asked_at: Instant) -> Result<(Token, Duration), Failure> {
    let issued: Issued = serde_json::from_slice(body)
        .map_err(|_| oauth("the token endpoint answered 200 without an access token"))?;
    let is_bearer = |kind: &String| kind.eq_ignore_ascii_case("bearer");
    if !issued.token_type.as_ref().is_none_or(is_bearer) {
        return Err(oauth(
            "the token endpoint issued a token that is not a bearer token",
        ));
    }
    let text = issued.access_token;
    let is_sendable = (1..=TOKEN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    let authorization = sensitive(&format!("Bearer {text}"))
        .ok()
        .filter(|_| is_sendable)
        .ok_or_else(|| oauth("the token endpoint issued a token that fits into no header"))?;
    let token = Token {
        authorization,
        asked_at,
    };
    Ok((token, lifetime(issued.expires_in)))
}

/// For how long a token is used whose end is `expires_in` seconds away.
fn lifetime(expires_in: Option<f64>) -> Duration {
    let granted = match expires_in {
        None => return LIFETIME_DEFAULT,
        Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or_default(),
    };
    let margin = MARGIN_MAX.min(granted / 10);
    (granted - margin).clamp(LIFETIME_MIN, LIFETIME_MAX)
}

fn refusal(status: u16, body: &[u8]) -> Failure {
    let named = serde_json::from_slice::<Refused>(body).ok();
    let known = named.and_then(|named| {
        let mut known = KNOWN_ERRORS.into_iter();
        known.find(|known| *known == named.error)
    });
    oauth(match known {
        Some(error) => format!("the token endpoint answered {status} ({error})"),
        None => format!("the token endpoint answered {status}"),
    })
}

fn oauth(detail: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(Outcome::Failed(FailureKind::OAuth), detail)
}

/// Whatever keeps a token away is one class, and never final: what is wrong gets mended.
fn as_oauth(failure: Failure) -> Failure {
    match failure.outcome {
        Outcome::Unsent | Outcome::Failed(FailureKind::OAuth) => failure,
        _ => oauth(format!("no access token: {}", failure.detail)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_until_shortly_before_its_end_within_bounds() {
        for (expires_in, used_s) in [
            (None, 300.0),
            (Some(-1.0), 5.0),
            (Some(0.0), 5.0),
            (Some(5.0), 5.0),
            (Some(100.0), 90.0),
            (Some(300.0), 270.0),
            (Some(600.0), 570.0),
            (Some(3_630.0), 3_600.0),
            (Some(1e300), 5.0),
            (Some(86_400.0), 3_600.0),
        ] {
            assert_eq!(lifetime(expires_in).as_secs_f64(), used_s, "{expires_in:?}");
        }
    }

    #[test]
    fn only_a_bearer_token_that_fits_into_a_header_is_taken() {
        let taken = |text: &str| issued(text.as_bytes(), Instant::now()).is_ok();
        assert!(taken(
            r#"{"access_token":"a.b-c","token_type":"Bearer","expires_in":60}"#
        ));
        assert!(taken(r#"{"access_token":"a","token_type":"bearer"}"#));
        assert!(taken(r#"{"access_token":"a","more":{"x":1}}"#));
        for bad in [
            "",
            "a",
            "{}",
            r#"{"access_token":""}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"a\r\nx: y"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
            r#"{"access_token":5}"#,
        ] {
            assert!(!taken(bad), "{bad}");
        }
    }

    #[test]
    fn a_refusal_repeats_only_what_the_standard_defines() {
        let detail = |body: &str| refusal(401, body.as_bytes()).detail.into_owned();
        assert_eq!(
            detail(r#"{"error":"invalid_client","error_description":"hunter2"}"#),
            "the token endpoint answered 401 (invalid_client)"
        );
        for body in [r#"{"error":"hunter2"}"#, "hunter2", ""] {
            assert_eq!(detail(body), "the token endpoint answered 401");
        }
    }
}
