//! What requests to an endpoint carry besides signatures, opened and in ready form.
//!
//! Everything is opened or nothing is used: a request without the header or the certificate that its
//! owner asked for would be refused, or worse, accepted by somebody else.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;
use zyven_domain::credential::{Auth, ClientCertificate, CustomHeaders};
use zyven_domain::id::TenantId;
use zyven_domain::secret_box::KeyRing;
use zyven_domain::target::NamePolicy;
use zyven_store::{CredentialKind, SealedCredential};

use crate::client::Client;
use crate::oauth::TokenSource;

/// What stands in a record where an endpoint has sent a secret back.
const CONCEALED: &[u8] = b"[concealed]";
/// Shorter secrets are not looked for in answers: they are found by chance.
const CONCEALED_BYTES_MIN: usize = 6;

/// Credentials of one endpoint, opened.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) authentication: Authentication,
    pub(crate) certificate: Option<(Uuid, ClientCertificate)>,
}

/// What each request carries.
#[derive(Default)]
pub(crate) struct Authentication {
    /// Custom headers, and `authorization` if it is the same each time. All marked as sensitive, which
    /// keeps them out of whatever prints headers.
    headers: Vec<(HeaderName, HeaderValue)>,
    tokens: Option<Arc<TokenSource>>,
    /// The end of the client certificate, in seconds since 1970.
    certificate_ends_s: Option<i64>,
}

/// What credentials are opened with.
pub(crate) struct Opener<'a> {
    pub(crate) key_ring: &'a KeyRing,
    pub(crate) names: &'a NamePolicy,
    pub(crate) client: &'a Client,
    /// What the endpoint had before: a token of the same credential is kept.
    pub(crate) known: Option<&'a Authentication>,
}

impl Opener<'_> {
    /// Opens all of `credentials`; the error says what is wrong with one, and contains no secret.
    pub(crate) fn open(
        &self,
        tenant: TenantId,
        credentials: &[SealedCredential],
    ) -> Result<Opened, String> {
        let mut opened = Opened::default();
        // In the order of their kinds' names: `auth` comes before `headers`.
        for credential in credentials {
            let kind: CredentialKind = credential
                .kind
                .parse()
                .map_err(|_| format!("credential {:?} is unknown", credential.kind))?;
            let place = SealedCredential::place(tenant, credential.id);
            let plain = self
                .key_ring
                .open(&credential.envelope, &place)
                .map_err(|error| error.to_string())?;
            let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", kind.as_str());
            match kind {
                CredentialKind::Headers => {
                    let headers =
                        CustomHeaders::from_bytes(&plain).map_err(|error| unreadable(&error))?;
                    opened.authentication.add(&headers)?;
                }
                CredentialKind::Auth => {
                    let auth = Auth::from_bytes(&plain).map_err(|error| unreadable(&error))?;
                    opened.authentication = self.authorize(credential.id, &auth)?;
                }
                CredentialKind::ClientCertificate => {
                    let certificate = ClientCertificate::from_bytes(&plain)
                        .map_err(|error| unreadable(&error))?;
                    opened.certificate = Some((credential.id, certificate));
                }
            }
        }
        let ends_s = opened.certificate.as_ref().map(|(_, c)| c.not_after_s);
        opened.authentication.certificate_ends_s = ends_s;
        Ok(opened)
    }

    fn authorize(&self, id: Uuid, auth: &Auth) -> Result<Authentication, String> {
        let mut authentication = Authentication::default();
        if let Some(value) = auth.authorization() {
            let value = sensitive(value.expose())?;
            authentication.headers.push((AUTHORIZATION, value));
        }
        if let Auth::OAuth2(client_credentials) = auth {
            let known = self
                .known
                .and_then(|known| known.tokens.as_ref())
                .filter(|known| known.id() == id);
            authentication.tokens = Some(match known {
                Some(known) => Arc::clone(known),
                None => {
                    let made = TokenSource::new(id, client_credentials, self.names, self.client);
                    Arc::new(made?)
                }
            });
        }
        Ok(authentication)
    }
}

impl Authentication {
    /// Adds what the owner adds. `authorization` of the credential `auth` wins over a header.
    fn add(&mut self, headers: &CustomHeaders) -> Result<(), String> {
        for (name, value) in headers.iter() {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| "headers: a name is malformed".to_owned())?;
            let is_taken = name == AUTHORIZATION
                && (self.tokens.is_some() || self.headers.iter().any(|(known, _)| *known == name));
            if !is_taken {
                self.headers.push((name, sensitive(value.expose())?));
            }
        }
        Ok(())
    }

    /// Where tokens come from, if a request needs one.
    pub(crate) fn tokens(&self) -> Option<&TokenSource> {
        self.tokens.as_deref()
    }

    /// When the client certificate ends; never, without one.
    pub(crate) fn certificate_ends(&self) -> DateTime<Utc> {
        self.certificate_ends_s
            .and_then(|ends_s| DateTime::from_timestamp(ends_s, 0))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// How many headers it adds.
    pub(crate) fn header_count(&self) -> usize {
        self.headers.len() + usize::from(self.tokens.is_some())
    }

    /// Adds them. To be called before Zyven's own, which win.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, token: Option<&HeaderValue>) {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.clone());
        }
    }

    /// Takes out of an answer what it repeats of the request's secrets: answers are kept and shown.
    pub(crate) fn conceal(
        &self,
        token: Option<&HeaderValue>,
        headers: &mut HeaderMap,
        body: &mut Bytes,
    ) {
        let values = self.headers.iter().map(|(name, value)| (name, value));
        let values = values.chain(token.map(|token| (&AUTHORIZATION, token)));
        for secret in values.flat_map(|(name, value)| secrets_of(name, value)) {
            if secret.len() < CONCEALED_BYTES_MIN {
                continue;
            }
            for value in headers.values_mut() {
                if let Some(clean) = replaced(value.as_bytes(), secret) {
                    *value = HeaderValue::from_bytes(&clean)
                        .unwrap_or(HeaderValue::from_static("[concealed]"));
                }
            }
            if let Some(clean) = replaced(body, secret) {
                *body = Bytes::from(clean);
            }
            // Only the beginning of a body is kept, and it may end within a secret.
            if let Some(rest) = without_beginning_at_end(body, secret) {
                *body = Bytes::from([rest, CONCEALED].concat());
            }
        }
    }
}

/// What is looked for: a header's value, and what follows its first blank, which in `authorization` is
/// the secret behind the scheme.
fn secrets_of<'a>(name: &HeaderName, value: &'a HeaderValue) -> [&'a [u8]; 2] {
    let whole = value.as_bytes();
    let behind = match whole.iter().position(|byte| *byte == b' ') {
        Some(blank) => &whole[blank + 1..],
        None => whole,
    };
    if *name == AUTHORIZATION {
        [behind, behind]
    } else {
        [whole, behind]
    }
}

/// `text` without `secret`; none if it is not in there.
fn replaced(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let find = |text: &[u8]| text.windows(secret.len()).position(|part| part == secret);
    let mut rest = text;
    let mut clean = Vec::new();
    while let Some(at) = find(rest) {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(CONCEALED);
        rest = &rest[at + secret.len()..];
    }
    if rest.len() == text.len() {
        return None;
    }
    clean.extend_from_slice(rest);
    Some(clean)
}

/// What stands before the beginning of `secret` that `text` ends with; none if it ends otherwise.
fn without_beginning_at_end<'a>(text: &'a [u8], secret: &[u8]) -> Option<&'a [u8]> {
    (CONCEALED_BYTES_MIN..secret.len())
        .rev()
        .find_map(|length| text.strip_suffix(&secret[..length]))
}

/// A value that nothing prints.
pub(crate) fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "a secret is not one that fits into a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carrying(values: &[(&'static str, &str)]) -> Authentication {
        let headers = values
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), sensitive(value).unwrap()));
        Authentication {
            headers: headers.collect(),
            ..Authentication::default()
        }
    }

    #[test]
    fn what_an_answer_repeats_of_the_secrets_is_concealed() {
        let authentication =
            carrying(&[("authorization", "Bearer abcdefgh"), ("x-key", "ZYXWVUT")]);
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", HeaderValue::from_static("Bearer abcdefgh"));
        headers.insert("x-other", HeaderValue::from_static("fine"));
        let mut body = Bytes::from_static(b"<abcdefgh> and abcdefgh, ZYXWVUT; TOKEN12");
        let token = sensitive("Bearer TOKEN12").unwrap();
        authentication.conceal(Some(&token), &mut headers, &mut body);
        assert_eq!(headers["x-echo"], "Bearer [concealed]");
        assert_eq!(headers["x-other"], "fine");
        let expected = "<[concealed]> and [concealed], [concealed]; [concealed]";
        assert_eq!(body, expected.as_bytes());
    }

    #[test]
    fn a_value_with_blanks_is_concealed_as_a_whole_and_by_what_follows_the_first() {
        let authentication = carrying(&[("x-key", "secret of mine")]);
        let mut body = Bytes::from_static(b"<secret of mine> <of me>");
        authentication.conceal(None, &mut HeaderMap::new(), &mut body);
        assert_eq!(body, "<[concealed]> <of me>");
        let mut body = Bytes::from_static(b"Token abcdefgh, abcdefgh");
        carrying(&[("x-key", "Token abcdefgh")]).conceal(None, &mut HeaderMap::new(), &mut body);
        assert_eq!(body, "[concealed], [concealed]");
    }

    #[test]
    fn a_short_value_is_no_secret_worth_hiding() {
        let mut body = Bytes::from_static(b"12345 123456");
        carrying(&[("x-a", "12345")]).conceal(None, &mut HeaderMap::new(), &mut body);
        assert_eq!(body, "12345 123456");
        carrying(&[("x-a", "123456")]).conceal(None, &mut HeaderMap::new(), &mut body);
        assert_eq!(body, "12345 [concealed]");
    }

    #[test]
    fn a_secret_that_the_end_of_what_is_kept_cuts_in_two_is_concealed() {
        let carrying = carrying(&[("authorization", "Bearer abcdefgh")]);
        for (kept, shown) in [
            ("token: abcdefg", "token: [concealed]"),
            ("token: abcdef", "token: [concealed]"),
            ("token: abcde", "token: abcde"),
            ("abcdefgh abcdefg", "[concealed] [concealed]"),
            ("token: abcdef.", "token: abcdef."),
        ] {
            let mut body = Bytes::from_static(kept.as_bytes());
            carrying.conceal(None, &mut HeaderMap::new(), &mut body);
            assert_eq!(body, shown, "{kept}");
        }
    }

    #[test]
    fn nothing_prints_a_header_that_is_a_secret() {
        let mut headers = HeaderMap::new();
        carrying(&[("x-key", "ZYXWVUT")]).apply(&mut headers, None);
        assert!(!format!("{headers:?}").contains("ZYXWVUT"));
    }
}
