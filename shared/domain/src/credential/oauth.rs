//! The client credentials grant of OAuth 2.0 (RFC 6749, section 4.4): what Zyven asks a token endpoint.

use std::str::FromStr;

use serde_json::{Value, json};
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{CredentialError, NAME_BYTES_MAX, SECRET_BYTES_MAX, SecretText, UnreadableError};
use super::{basic, text};

/// How the client says who it is (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// In the header `authorization`, which every server must support.
    #[default]
    Basic,
    /// In the body, for servers that know nothing else.
    Body,
}

impl ClientAuth {
    /// The name used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Body => "body",
        }
    }
}

impl FromStr for ClientAuth {
    type Err = CredentialError;

    fn from_str(text: &str) -> Result<Self, CredentialError> {
        match text {
            "basic" => Ok(Self::Basic),
            "body" => Ok(Self::Body),
            _ => Err(CredentialError("must be \"basic\" or \"body\"")),
        }
    }
}

/// What Zyven needs to get a token.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    /// A normalised [`crate::target::EndpointUrl`].
    pub token_url: String,
    /// The client's name.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretText,
    /// What the token is to allow, separated by blanks.
    pub scope: Option<String>,
    /// Whom it is for; a widespread extension.
    pub audience: Option<String>,
    /// How the client says who it is.
    pub client_auth: ClientAuth,
}

/// The request for a token: a POST of `application/x-www-form-urlencoded`.
pub struct TokenRequest {
    /// The header `authorization`.
    pub authorization: Option<SecretText>,
    /// The body.
    pub body: SecretText,
}

impl ClientCredentials {
    /// A client's name or a scope: `VSCHAR` of RFC 6749, appendix A, which is printable ASCII.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse_name(text: &str) -> Result<String, CredentialError> {
        let rule = "must have 1 to 1,024 printable ASCII characters";
        printable(text, NAME_BYTES_MAX)
            .then(|| text.to_owned())
            .ok_or(CredentialError(rule))
    }

    /// A client's secret: printable ASCII.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse_secret(text: &str) -> Result<SecretText, CredentialError> {
        let rule = "must have 1 to 4,096 printable ASCII characters";
        printable(text, SECRET_BYTES_MAX)
            .then(|| SecretText::new(text))
            .ok_or(CredentialError(rule))
    }

    /// What to send to the token endpoint.
    pub fn token_request(&self) -> TokenRequest {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let secret = self.client_secret.expose();
        let authorization = match self.client_auth {
            // Both are encoded before they are joined, so that a colon in either is no boundary.
            ClientAuth::Basic => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                Some(basic(&encoded(&self.client_id), &encoded(secret)))
            }
            ClientAuth::Body => {
                form.append_pair("client_id", &self.client_id)
                    .append_pair("client_secret", secret);
                None
            }
        };
        TokenRequest {
            authorization,
            body: SecretText::new(form.finish()),
        }
    }

    pub(super) fn to_value(&self, kind: &str) -> Value {
        json!({
            "type": kind,
            "token_url": self.token_url,
            "client_id": self.client_id,
            "client_secret": self.client_secret.expose(),
            "scope": self.scope,
            "audience": self.audience,
            "client_auth": self.client_auth.as_str(),
        })
    }

    pub(super) fn from_value(value: &Value) -> Result<Self, UnreadableError> {
        let optional = |name: &str| value[name].as_str().map(str::to_owned);
        Ok(Self {
            token_url: text(value, "token_url")?,
            client_id: text(value, "client_id")?,
            client_secret: SecretText::new(text(value, "client_secret")?),
            scope: optional("scope"),
            audience: optional("audience"),
            client_auth: text(value, "client_auth")?
                .parse()
                .map_err(|_| UnreadableError)?,
        })
    }
}

fn printable(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn client(client_auth: ClientAuth) -> ClientCredentials {
        ClientCredentials {
            token_url: "https://id.example.com/token".to_owned(),
            client_id: "s6BhdRkqt3".to_owned(),
            client_secret: SecretText::new("7Fjfp0ZBr1KtDRbnfVdmIw"),
            scope: Some("read write".to_owned()),
            audience: None,
            client_auth,
        }
    }

    /// The header of RFC 6749, section 2.3.1; the same client and secret as there.
    #[test]
    fn the_request_is_what_the_standard_shows() {
        let request = client(ClientAuth::Basic).token_request();
        assert_eq!(
            request.authorization.as_ref().map(SecretText::expose),
            Some("Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3")
        );
        assert_eq!(
            request.body.expose(),
            "grant_type=client_credentials&scope=read+write"
        );
        let request = client(ClientAuth::Body).token_request();
        assert!(request.authorization.is_none());
        assert_eq!(
            request.body.expose(),
            "grant_type=client_credentials&scope=read+write&client_id=s6BhdRkqt3&client_secret=7Fjfp0ZBr1KtDRbnfVdmIw"
        );
    }

    /// `a%3Ab` and `c%25+d`, joined by a colon, in base64.
    #[test]
    fn name_and_secret_are_encoded_before_they_are_joined() {
        let odd = ClientCredentials {
            client_id: "a:b".to_owned(),
            client_secret: SecretText::new("c% d"),
            ..client(ClientAuth::Basic)
        };
        let request = odd.token_request();
        assert_eq!(
            request.authorization.as_ref().map(SecretText::expose),
            Some("Basic YSUzQWI6YyUyNStk")
        );
    }
}
