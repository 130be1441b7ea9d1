//! What can go wrong, which exit code that is, and what to do next.

use std::process::ExitCode;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zyven_runtime::config::{ConfigError, EXIT_CONFIG};
use zyven_runtime::supervisor::Chain;

use crate::output::{BAD, FAINT, Output, escaped, paint, shown};

/// The server refused, or what was asked for turned out badly.
const EXIT_REFUSED: u8 = 1;
/// Wrong arguments; clap's own code.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Nobody answers.
const EXIT_UNREACHABLE: u8 = 3;
/// The server failed, or has too much to do.
const EXIT_SERVER_FAILED: u8 = 4;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no key.
    #[error("ZYVEN_API_KEY must be set")]
    NoKey,
    /// An argument is wrong, or a file that it names.
    #[error("{0}")]
    Usage(String),
    /// No answer came: whether the request had an effect is unknown.
    #[error("{url} cannot be reached")]
    Unreachable {
        /// Where the server should be.
        url: String,
        /// Why it is not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// It turned out badly.
    #[error("{0}")]
    Failed(String),
    /// The command has said itself what is wrong.
    #[error("")]
    Said,
    /// Nobody can be told how it turned out.
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
    /// Another one, with a better next step than its own.
    #[error("{failure}")]
    Advised {
        /// What went wrong.
        failure: Box<Failure>,
        /// What to do about it.
        next_step: String,
    },
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refusal {
    method: Method,
    path: String,
    pub(crate) status: StatusCode,
    /// Seconds after which the server wants to be asked again.
    retry_after_s: Option<u64>,
    /// What the server's log calls the request (`x-request-id`).
    request_id: Option<String>,
    problem: Option<Problem>,
    /// The whole answer.
    body: Value,
}

/// What an answer's head says about a refusal.
#[derive(Debug, Default, Clone)]
pub struct RefusalHead {
    retry_after_s: Option<u64>,
    request_id: Option<String>,
}

impl RefusalHead {
    /// Reads it.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            retry_after_s: text(RETRY_AFTER).and_then(|text| text.parse().ok()),
            request_id: text(REQUEST_ID).map(str::to_owned),
        }
    }
}

/// A problem document (RFC 9457), as far as this version knows it.
#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    rule: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, path, .. } = self;
        let status = self.status.as_u16();
        match &self.problem {
            Some(problem) => {
                write!(
                    f,
                    "{method} {path} was answered {status} {}: {}",
                    problem.code, problem.detail
                )?;
                for FieldError { field, rule } in &problem.errors {
                    // Of a single one the server's sentence says it all.
                    if !problem.detail.contains(&format!("{field} {rule}")) {
                        write!(f, "\n  {field} {rule}")?;
                    }
                }
                Ok(())
            }
            None => write!(f, "{method} {path} was answered {status}"),
        }
    }
}

impl Refusal {
    /// An answer with this status, head and body.
    pub fn new(
        (method, path): (Method, &str),
        status: StatusCode,
        head: RefusalHead,
        body: &[u8],
    ) -> Self {
        let text = || Value::from(String::from_utf8_lossy(body).into_owned());
        Self {
            method,
            path: path.to_owned(),
            status,
            retry_after_s: head.retry_after_s,
            request_id: head.request_id,
            problem: serde_json::from_slice(body).ok(),
            body: serde_json::from_slice(body).unwrap_or_else(|_| text()),
        }
    }

    /// True if the answer has this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.problem.as_ref().is_some_and(|p| p.code == code)
    }

    /// True if the answer names this field as wrong.
    pub(crate) fn names(&self, field: &str) -> bool {
        let problem = self.problem.as_ref();
        problem.is_some_and(|problem| problem.errors.iter().any(|error| error.field == field))
    }

    fn is_transient(&self) -> bool {
        self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS
    }

    fn next_step(&self) -> Option<String> {
        let Some(problem) = &self.problem else {
            return Some(
                "no Zyven answers like this; ZYVEN_API_URL or --api-url must lead to its API"
                    .to_owned(),
            );
        };
        let step = match (self.status.as_u16(), problem.code.as_str()) {
            (401, _) => {
                "set ZYVEN_API_KEY to a key of this server: `make up` prints one, `zyven admin create-key TENANT` makes one"
            }
            (403, _) => {
                "use a key with that scope: `zyven keys create NAME --scope SCOPE`, called with a key that has it and \"manage\""
            }
            (404, _) => "look at the id, and whether ZYVEN_API_KEY is of the right tenant",
            (409, "being_attempted") => "run the same command again in a few seconds",
            (409, "idempotency_conflict") => "take another --idempotency-key for another event",
            (409, "endpoint_disabled") => "enable it first: zyven endpoints enable ID",
            (412, _) => {
                "`zyven endpoints get ID` shows what it is now, and that version; then decide anew"
            }
            (422, _) => "mend what is named; docs/api.md has the rules",
            (500, _) => "tell the operator; the server's log has the reason under the request's id",
            (429 | 503, _) => {
                let seconds = self.retry_after_s.unwrap_or(1);
                return Some(format!("wait {seconds} s and run the same command again"));
            }
            _ => return None,
        };
        Some(step.to_owned())
    }
}

/// What a program is told on standard error.
#[derive(Serialize)]
struct Report<'a> {
    error: &'a str,
    exit_code: u8,
    next_step: Option<&'a str>,
    /// What the server's log calls the request.
    request_id: Option<&'a str>,
    /// The server's answer, whole.
    problem: Option<&'a Value>,
}

impl Failure {
    /// The same with another next step.
    #[must_use = "it is another failure"]
    pub fn advised(self, next_step: impl Into<String>) -> Self {
        Self::Advised {
            failure: Box::new(self),
            next_step: next_step.into(),
        }
    }

    /// What went wrong, without what is advised.
    fn plain(&self) -> &Self {
        match self {
            Self::Advised { failure, .. } => failure.plain(),
            plain => plain,
        }
    }

    fn refusal(&self) -> Option<&Refusal> {
        match self.plain() {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// True if the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => refusal.is_transient(),
            Self::Advised { failure, .. } => failure.is_transient(),
            Self::Config(_)
            | Self::NoKey
            | Self::Usage(_)
            | Self::Failed(_)
            | Self::Said
            | Self::Output(_) => false,
        }
    }

    /// True if the server has said that the request had no effect.
    pub(crate) fn did_nothing(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is("rate_limited") || refusal.is("overloaded"),
            _ => false,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoKey => EXIT_CONFIG,
            Self::Usage(_) => EXIT_USAGE,
            Self::Unreachable { .. } => EXIT_UNREACHABLE,
            Self::Refused(refusal) if refusal.status.is_server_error() => EXIT_SERVER_FAILED,
            Self::Refused(_) | Self::Failed(_) | Self::Said | Self::Output(_) => EXIT_REFUSED,
            Self::Advised { failure, .. } => failure.exit_code(),
        }
    }

    pub(crate) fn next_step(&self) -> Option<String> {
        let step = match self {
            Self::Config(_) => {
                "mend what is named, in the environment or in the file that ZYVEN_CONFIG_FILE names; `zyven config` lists every setting"
            }
            Self::NoKey => {
                "export ZYVEN_API_KEY=zyk_…; `make up` prints a key, `zyven admin create-key TENANT` makes one"
            }
            Self::Usage(_) => {
                "mend what is named; the command's --help says what each argument may be"
            }
            Self::Unreachable { .. } => {
                "if no server runs there, `make up` starts one; if it is elsewhere, say where in ZYVEN_API_URL or --api-url"
            }
            Self::Refused(refusal) => return refusal.next_step(),
            Self::Advised { next_step, .. } => return Some(next_step.clone()),
            Self::Failed(_) | Self::Said | Self::Output(_) => return None,
        };
        Some(step.to_owned())
    }

    /// Says on standard error what went wrong, as JSON or for people, and with which code to end.
    pub fn report(&self, is_json: bool) -> ExitCode {
        let plain = self.plain();
        if let Self::Output(error) = plain
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            // Whoever read has read enough.
            return ExitCode::SUCCESS;
        }
        if !matches!(plain, Self::Said) {
            let output = Output::new(is_json);
            let error = Chain(plain).to_string();
            if is_json {
                self.report_as_json(&error, &output);
            } else {
                self.report_to_people(&error, &output);
            }
        }
        ExitCode::from(self.exit_code())
    }

    fn report_as_json(&self, error: &str, output: &Output) {
        let next_step = self.next_step();
        let refusal = self.refusal();
        let report = Report {
            error,
            exit_code: self.exit_code(),
            next_step: next_step.as_deref(),
            request_id: refusal.and_then(|refusal| refusal.request_id.as_deref()),
            problem: refusal.map(|refusal| &refusal.body),
        };
        output.note(&escaped(&serde_json::json!(report).to_string()));
    }

    fn report_to_people(&self, error: &str, output: &Output) {
        output.note(&format!("{} {}", paint(BAD, "error:"), shown(error)));
        let request = self
            .refusal()
            .and_then(|refusal| refusal.request_id.as_ref());
        if let Some(request) = request {
            output.note(&paint(FAINT, format!("request: {}", shown(request))));
        }
        if let Some(step) = self.next_step() {
            output.note(&format!("{} {}", paint(FAINT, "next:"), shown(&step)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(status: u16, problem: &Value) -> Refusal {
        let status = StatusCode::from_u16(status).expect("a status");
        let head = RefusalHead::default();
        Refusal::new(
            (Method::POST, "/v1/x"),
            status,
            head,
            problem.to_string().as_bytes(),
        )
    }

    #[test]
    fn one_field_is_named_once_and_several_each_on_a_line() {
        let url = json!({ "field": "url", "rule": "must be short" });
        let one = json!({ "code": "invalid", "detail": "url must be short.", "errors": [url] });
        assert_eq!(
            refusal(422, &one).to_string(),
            "POST /v1/x was answered 422 invalid: url must be short."
        );
        let name = json!({ "field": "name", "rule": "is missing" });
        let two = json!({ "code": "invalid", "detail": "2 fields break a rule; see errors.", "errors": [url, name] });
        assert_eq!(
            refusal(422, &two).to_string(),
            "POST /v1/x was answered 422 invalid: 2 fields break a rule; see errors.\n  url must be short\n  name is missing"
        );
        // A single one that the sentence does not name.
        let place = json!({ "field": "payload.a", "rule": "is not a string" });
        let schema =
            json!({ "code": "schema_mismatch", "detail": "It does not fit.", "errors": [place] });
        let said = refusal(422, &schema).to_string();
        assert!(said.ends_with("\n  payload.a is not a string"), "{said}");
    }

    #[test]
    fn what_is_advised_changes_the_next_step_and_nothing_else() {
        let problem = json!({ "code": "unavailable", "detail": "Later." });
        let plain = Failure::Refused(Box::new(refusal(503, &problem)));
        let code = plain.exit_code();
        let advised = plain.advised("first").advised("second");
        assert_eq!(advised.next_step().as_deref(), Some("second"));
        assert_eq!(advised.exit_code(), code);
        assert!(advised.is_transient() && advised.refusal().is_some());
        assert!(advised.to_string().contains("503 unavailable"));
    }

    #[test]
    fn every_failure_of_this_machine_has_a_next_step() {
        let mistakes = vec!["ZYVEN_API_KEY is no key".to_owned()];
        for failure in [
            Failure::Config(ConfigError { mistakes }),
            Failure::NoKey,
            Failure::Usage("the payload is not JSON".to_owned()),
        ] {
            assert!(failure.next_step().is_some(), "{failure}");
        }
    }
}
