//! Where the API is, and what opens it.

use std::fmt;
use std::str::FromStr;

use url::Url;
use zyven_domain::api_key::{ApiKey, ParseApiKeyError};
use zyven_domain::signature::{ParseSecretError, SigningSecret};
use zyven_runtime::config::Source;

use crate::Program;
use crate::failure::Failure;

/// The API's base, `http://` or `https://`, perhaps with a path.
#[derive(Debug, Clone)]
pub(crate) struct ApiUrl(pub(crate) Url);

impl FromStr for ApiUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be written as http://host:port or https://host";
        let url = Url::parse(text).map_err(|_| RULE)?;
        let is_right = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if is_right { Ok(Self(url)) } else { Err(RULE) }
    }
}

/// A key as it is sent. No `Debug`, no `Display`.
pub(crate) struct Key(ApiKey);

impl FromStr for Key {
    type Err = ParseApiKeyError;

    fn from_str(text: &str) -> Result<Self, ParseApiKeyError> {
        ApiKey::parse(text).map(Self)
    }
}

/// An endpoint's secret, for `verify` and `listen`.
pub(crate) struct Secret(pub(crate) SigningSecret);

impl FromStr for Secret {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        SigningSecret::parse(text).map(Self)
    }
}

/// A server and a key for it.
pub(crate) struct Access {
    pub(crate) url: Url,
    pub(crate) key: String,
}

/// The settings that these commands read themselves.
#[derive(Default)]
pub struct Settings {
    key: Option<Key>,
    pub(crate) secret: Option<Secret>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// Reads the settings of these commands; mistakes are recorded in `source`.
pub fn read(source: &mut Source) -> Settings {
    Settings {
        key: source
            .optional_secret(
                "ZYVEN_API_KEY",
                "API key for commands that use the API, as zyk_…",
            )
            .flatten(),
        secret: source
            .optional_secret(
                "ZYVEN_SECRET",
                "an endpoint's signing secret for zyven verify and zyven listen, as whsec_…",
            )
            .flatten(),
    }
}

/// The server that the command line or the settings name, and the key.
pub(crate) fn find(given: Option<ApiUrl>, program: &Program) -> Result<Access, Failure> {
    let mut source = Source::from_environment();
    let settings = read(&mut source);
    let url = match given {
        Some(url) => Some(url),
        None => (program.api_url)(&mut source).and_then(|text| match text.parse() {
            Ok(url) => Some(url),
            Err(rule) => {
                source.mistake("ZYVEN_API_URL", rule);
                None
            }
        }),
    };
    source.finish()?;
    let (Some(url), key) = (url, settings.key) else {
        return Err(Failure::Failed("the API's address is unknown".to_owned()));
    };
    let key = key.ok_or(Failure::NoKey)?;
    Ok(Access {
        url: url.0,
        key: key.0.expose(),
    })
}

/// The secret that ZYVEN_SECRET has, if it is set.
pub(crate) fn secret() -> Result<Option<SigningSecret>, Failure> {
    let mut source = Source::from_environment();
    let settings = read(&mut source);
    source.finish()?;
    Ok(settings.secret.map(|secret| secret.0))
}
