//! What requests to an endpoint carry besides signatures: custom headers, authorization, a client
//! certificate. Parsed here once, and turned into the bytes that are sealed.
//!
//! None of these types has `Debug`, `Display` or `Serialize`: showing a secret is
//! [`SecretText::expose`], by intent.

mod headers;
mod oauth;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub use headers::{
    CustomHeaders, HEADER_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX,
};
pub use oauth::{ClientAuth, ClientCredentials, TokenRequest};

/// Longest secret text of an authorization: a password, a token, a client secret.
pub const SECRET_BYTES_MAX: usize = 4096;
/// Longest name: of a user or a client, a scope, an audience.
pub const NAME_BYTES_MAX: usize = 1024;

/// A rule that a text breaks. Says the rule, never the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialError(pub &'static str);

/// What was sealed is not what this version seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored credential is not one this version can read")]
pub struct UnreadableError;

/// A secret that is a text.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Takes over a text that has been checked.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whoever has to send or seal it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Who Zyven says it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// A name and a password, sent with each request (RFC 7617).
    Basic {
        /// Without a colon.
        username: SecretText,
        /// May be empty.
        password: SecretText,
    },
    /// A token that the owner has from elsewhere (RFC 6750).
    Bearer {
        /// As it is sent.
        token: SecretText,
    },
    /// A token that Zyven gets with the client credentials grant (RFC 6749, section 4.4).
    OAuth2(ClientCredentials),
}

impl Auth {
    /// The name of [`Auth::Basic`] in the API.
    pub const BASIC: &'static str = "basic";
    /// The name of [`Auth::Bearer`] in the API.
    pub const BEARER: &'static str = "bearer";
    /// The name of [`Auth::OAuth2`] in the API.
    pub const OAUTH2: &'static str = "oauth2_client_credentials";

    /// What may be sealed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = match self {
            Self::Basic { username, password } => json!({
                "type": Self::BASIC, "username": username.expose(), "password": password.expose(),
            }),
            Self::Bearer { token } => json!({ "type": Self::BEARER, "token": token.expose() }),
            Self::OAuth2(client) => client.to_value(Self::OAUTH2),
        };
        value.to_string().into_bytes()
    }

    /// Reads what [`Auth::to_bytes`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| UnreadableError)?;
        let secret = |name: &str| text(&value, name).map(SecretText::new);
        match value["type"].as_str() {
            Some(Self::BASIC) => Ok(Self::Basic {
                username: secret("username")?,
                password: secret("password")?,
            }),
            Some(Self::BEARER) => Ok(Self::Bearer {
                token: secret("token")?,
            }),
            Some(Self::OAUTH2) => ClientCredentials::from_value(&value).map(Self::OAuth2),
            _ => Err(UnreadableError),
        }
    }

    /// The value of the header `authorization`, if it is the same each time.
    pub fn authorization(&self) -> Option<SecretText> {
        match self {
            Self::Basic { username, password } => Some(basic(username.expose(), password.expose())),
            Self::Bearer { token } => Some(SecretText(format!("Bearer {}", token.expose()))),
            Self::OAuth2(_) => None,
        }
    }
}

/// A certificate that Zyven shows in the TLS handshake, with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, then those that lead to its authority.
    pub certificate_pem: String,
    /// Its private key.
    pub private_key_pem: SecretText,
    /// Its end, in seconds since 1970.
    pub not_after_s: i64,
}

impl ClientCertificate {
    /// What may be sealed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = json!({
            "certificate_pem": self.certificate_pem,
            "private_key_pem": self.private_key_pem.expose(),
            "not_after_s": self.not_after_s,
        });
        value.to_string().into_bytes()
    }

    /// Reads what [`ClientCertificate::to_bytes`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| UnreadableError)?;
        Ok(Self {
            certificate_pem: text(&value, "certificate_pem")?,
            private_key_pem: SecretText(text(&value, "private_key_pem")?),
            not_after_s: value["not_after_s"].as_i64().ok_or(UnreadableError)?,
        })
    }
}

/// A user's name: text without control characters, and without a colon, which ends it (RFC 7617).
///
/// # Errors
/// The rule it breaks.
pub fn parse_username(text: &str) -> Result<SecretText, CredentialError> {
    let is_good = (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text.contains(':')
        && !text.contains(char::is_control);
    let rule = "must have 1 to 1,024 bytes, no colon and no control characters";
    is_good
        .then(|| SecretText::new(text))
        .ok_or(CredentialError(rule))
}

/// A password: text without control characters, which may be empty.
///
/// # Errors
/// The rule it breaks.
pub fn parse_password(text: &str) -> Result<SecretText, CredentialError> {
    let is_good = text.len() <= SECRET_BYTES_MAX && !text.contains(char::is_control);
    let rule = "must have at most 4,096 bytes and no control characters";
    is_good
        .then(|| SecretText::new(text))
        .ok_or(CredentialError(rule))
}

/// A bearer token, which has no blanks (RFC 6750).
///
/// # Errors
/// The rule it breaks.
pub fn parse_token(text: &str) -> Result<SecretText, CredentialError> {
    let is_good =
        (1..=SECRET_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let rule = "must have 1 to 4,096 visible ASCII characters and no blanks";
    is_good
        .then(|| SecretText::new(text))
        .ok_or(CredentialError(rule))
}

fn basic(username: &str, password: &str) -> SecretText {
    SecretText(format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    ))
}

fn text(value: &Value, name: &str) -> Result<String, UnreadableError> {
    value[name]
        .as_str()
        .map(str::to_owned)
        .ok_or(UnreadableError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretText {
        SecretText::new(text)
    }

    /// The example of RFC 7617, section 2, and that of RFC 6750, section 2.1.
    #[test]
    fn authorization_is_written_as_the_standards_have_it() {
        let basic = Auth::Basic {
            username: secret("Aladdin"),
            password: secret("open sesame"),
        };
        let authorization = basic.authorization().map(|text| text.expose().to_owned());
        assert_eq!(
            authorization.as_deref(),
            Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        );
        let bearer = Auth::Bearer {
            token: secret("mF_9.B5f-4.1JqM"),
        };
        let authorization = bearer.authorization().map(|text| text.expose().to_owned());
        assert_eq!(authorization.as_deref(), Some("Bearer mF_9.B5f-4.1JqM"));
    }

    #[test]
    fn what_is_sealed_is_read_back() {
        let auths = [
            Auth::Basic {
                username: secret("ü \"q\""),
                password: secret(""),
            },
            Auth::Bearer { token: secret("t") },
            Auth::OAuth2(oauth::tests::client(ClientAuth::Body)),
        ];
        for auth in auths {
            assert!(Auth::from_bytes(&auth.to_bytes()) == Ok(auth));
        }
        let certificate = ClientCertificate {
            certificate_pem: "a\nb".to_owned(),
            private_key_pem: secret("c"),
            not_after_s: 1,
        };
        assert!(ClientCertificate::from_bytes(&certificate.to_bytes()) == Ok(certificate));
        for other in [
            "",
            "{}",
            "[]",
            r#"{"type":"digest"}"#,
            r#"{"type":"basic"}"#,
        ] {
            assert!(
                Auth::from_bytes(other.as_bytes()) == Err(UnreadableError),
                "{other}"
            );
            assert!(
                ClientCertificate::from_bytes(other.as_bytes()).is_err(),
                "{other}"
            );
        }
    }

    #[test]
    fn names_and_secrets_are_bounded() {
        for (bytes, username, password, token) in [
            (0, false, true, false),
            (1, true, true, true),
            (1024, true, true, true),
            (1025, false, true, true),
            (4096, false, true, true),
            (4097, false, false, false),
        ] {
            let text = "x".repeat(bytes);
            assert_eq!(parse_username(&text).is_ok(), username, "{bytes}");
            assert_eq!(parse_password(&text).is_ok(), password, "{bytes}");
            assert_eq!(parse_token(&text).is_ok(), token, "{bytes}");
        }
        for (text, username, password, token) in [
            ("a:b", false, true, true),
            ("a b", true, true, false),
            ("a\nb", false, false, false),
            ("ä", true, true, false),
        ] {
            assert_eq!(parse_username(text).is_ok(), username, "{text:?}");
            assert_eq!(parse_password(text).is_ok(), password, "{text:?}");
            assert_eq!(parse_token(text).is_ok(), token, "{text:?}");
        }
    }

    /// Whether a type can be printed or serialised: an inherent constant is found before a trait's.
    macro_rules! shows {
        ($type:ty, $trait:path) => {{
            #[allow(dead_code, reason = "not asked for types that show something")]
            trait Otherwise {
                const SHOWS: bool = false;
            }
            impl<T> Otherwise for T {}
            struct Probe<T>(std::marker::PhantomData<T>);
            #[allow(dead_code, reason = "not there for types that show nothing")]
            impl<T: $trait> Probe<T> {
                const SHOWS: bool = true;
            }
            Probe::<$type>::SHOWS
        }};
    }

    macro_rules! shows_nothing {
        ($($type:ty),*) => {
            [$((stringify!($type), shows!($type, std::fmt::Debug) | shows!($type, std::fmt::Display) | shows!($type, serde::Serialize))),*]
        };
    }

    #[test]
    fn no_secret_can_be_printed_or_serialised() {
        use crate::api_key::ApiKey;
        use crate::secret_box::KeyRing;
        use crate::signature::{PrivateKey, SigningKey, SigningSecret};
        use crate::view_link::ViewLink;
        let secrets = shows_nothing![
            SecretText,
            Auth,
            ClientCredentials,
            TokenRequest,
            ClientCertificate,
            CustomHeaders,
            SigningSecret,
            SigningKey,
            PrivateKey,
            KeyRing,
            ApiKey,
            ViewLink
        ];
        for (name, shows) in secrets {
            assert!(!shows, "{name}");
        }
        let ids = shows_nothing![crate::id::TenantId];
        assert!(ids[0].1, "the question is asked rightly");
    }
}
