//! Where the API is, and what opens it.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use url::Url;
use zyven_domain::api_key::ApiKey;
use zyven_domain::signature::{ParseSecretError, SigningSecret};
use zyven_domain::view_link::ViewLink;
use zyven_runtime::config::Source;

use crate::Program;
use crate::failure::Failure;

/// The API's base, `http://` or `https://`, perhaps with a path.
#[derive(Debug, Clone)]
pub struct ApiUrl(pub(crate) Url);

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

/// The text opens nothing. Says nothing about what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is neither an API key (zyk_…) nor a view link (zyv_…)")]
pub struct ParseKeyError;

/// What is sent to show who asks: an API key, or a view link, which is used like one. No `Debug`, no `Display`.
pub struct Key(String);

impl Key {
    /// The key for a key of an installation that this program has made itself.
    pub fn of(key: &ApiKey) -> Self {
        Self(key.expose())
    }

    /// As it is sent.
    pub fn authorization(&self) -> HeaderValue {
        let text = format!("Bearer {}", self.0);
        let mut value = HeaderValue::try_from(text).expect("keys are visible ASCII");
        value.set_sensitive(true);
        value
    }
}

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        if ApiKey::parse(text).is_ok() || ViewLink::parse(text).is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseKeyError)
        }
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
pub struct Access {
    /// Its base, without a query.
    pub url: Url,
    /// `None` if no setting has one.
    pub key: Option<Key>,
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
                "API key for commands that use the API, as zyk_…, or a view link, zyv_…",
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

/// The server that the command line or the settings name, and the key that the settings have.
///
/// # Errors
/// A setting is wrong.
pub fn find(given: Option<ApiUrl>, program: &Program) -> Result<Access, Failure> {
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
    let unknown = || {
        Failure::Failed("the API's address is unknown".to_owned())
            .advised("say where it is in ZYVEN_API_URL or --api-url")
    };
    Ok(Access {
        url: url.ok_or_else(unknown)?.0,
        key: settings.key,
    })
}

/// The secret that ZYVEN_SECRET has, if it is set.
pub(crate) fn secret() -> Result<Option<SigningSecret>, Failure> {
    let mut source = Source::from_environment();
    let settings = read(&mut source);
    source.finish()?;
    Ok(settings.secret.map(|secret| secret.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_a_view_link_are_taken_and_nothing_else() {
        let key = "zyk_00010203040506ff_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let link = "zyv_00010203040506ff_AAAA";
        for good in [key, link] {
            let read: Key = good.parse().unwrap_or_else(|rule| panic!("{good}: {rule}"));
            assert_eq!(read.authorization(), format!("Bearer {good}"));
            assert!(read.authorization().is_sensitive());
        }
        for bad in [
            "",
            "zyk_",
            "zyv_",
            "zyx_00010203040506ff_AAAA",
            &format!("{key} "),
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}
