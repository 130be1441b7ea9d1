//! The members that say what requests carry besides signatures. What they hold is sealed at once; what
//! is shown later are kinds and names.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;
use zyven_domain::credential::{
    Auth, ClientAuth, ClientCredentials, CustomHeaders, HEADER_NAME_BYTES_MAX,
    HEADER_VALUE_BYTES_MAX, HEADERS_MAX, NAME_BYTES_MAX, SECRET_BYTES_MAX, parse_password,
    parse_token, parse_username,
};
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::secret_box::KeyRing;
use zyven_domain::target::{EndpointUrl, NamePolicy};
use zyven_store::{CredentialChange, CredentialKind, NewCredential, Safeguards, SealedCredential};

use super::client_certificate::{self, CheckedCertificate};
use super::safeguards;
use crate::app::{App, random};
use crate::fields::Members;
use crate::openapi::schema::{Schema, any_of, dictionary, object, one_of, text};
use crate::problem::Problem;

/// What is to become of a credential.
enum Wish<T> {
    Keep,
    Remove,
    Set(T),
}

/// What an owner wants requests to carry.
pub(super) struct Wanted {
    headers: Wish<CustomHeaders>,
    auth: Wish<Auth>,
    certificate: Wish<CheckedCertificate>,
}

/// An endpoint as it would be, as far as its parts can contradict each other.
#[derive(Default)]
struct Outcome {
    is_plain_http: bool,
    sets_authorization: bool,
    has_auth: bool,
    has_certificate: bool,
}

impl Wanted {
    /// Reads `headers`, `auth` and `client_certificate`; null removes.
    pub(super) fn read(members: &mut Members<'_>, names: &NamePolicy, now: DateTime<Utc>) -> Self {
        Self {
            headers: wish(members, "headers", |members, name| {
                let headers = members.object(name, headers)?;
                members.checked(name, CustomHeaders::new(headers))
            }),
            auth: wish(members, "auth", |members, name| {
                members.object(name, |members| auth(members, names))
            }),
            certificate: wish(members, "client_certificate", |members, name| {
                members.object(name, |members| client_certificate::read(members, now))
            }),
        }
    }

    /// Refuses what cannot be together in a new endpoint.
    pub(super) fn check_new(&self, url: &str) -> Result<(), Problem> {
        self.outcome(url, &Safeguards::default()).check()
    }

    /// Refuses a change whose outcome cannot be together. An endpoint that does not exist has none.
    pub(super) async fn check_change(
        &self,
        app: &Arc<App>,
        tenant: TenantId,
        endpoint: EndpointId,
        url: Option<&str>,
    ) -> Result<(), Problem> {
        let changes_nothing = matches!(
            self,
            Self {
                headers: Wish::Keep,
                auth: Wish::Keep,
                certificate: Wish::Keep
            }
        );
        if changes_nothing && url.is_none() {
            return Ok(());
        }
        let Some(stored) = app.store.endpoint_of(tenant, endpoint).await? else {
            return Ok(());
        };
        let known = safeguards::of_one(app, tenant, endpoint).await?;
        self.outcome(url.unwrap_or(&stored.url), &known).check()
    }

    fn outcome(&self, url: &str, known: &Safeguards) -> Outcome {
        let has = |kind: CredentialKind| known.credentials.contains_key(kind.as_str());
        Outcome {
            is_plain_http: url.starts_with("http:"),
            sets_authorization: match &self.headers {
                Wish::Keep => safeguards::header_names(known)
                    .iter()
                    .any(|name| name == AUTHORIZATION),
                Wish::Remove => false,
                Wish::Set(headers) => headers.iter().any(|(name, _)| name == AUTHORIZATION),
            },
            has_auth: self.auth.leaves(has(CredentialKind::Auth)),
            has_certificate: self
                .certificate
                .leaves(has(CredentialKind::ClientCertificate)),
        }
    }

    /// Seals each for a row of its own.
    pub(super) fn seal(
        self,
        ring: &KeyRing,
        tenant: TenantId,
    ) -> Result<CredentialChange, Problem> {
        let mut change = CredentialChange::default();
        let mut sort = |kind, wish: Wish<(Vec<u8>, String)>| {
            match wish {
                Wish::Keep => {}
                Wish::Remove => change.removed.push(kind),
                Wish::Set((plain, shown)) => {
                    let id = Uuid::now_v7();
                    let place = SealedCredential::place(tenant, id);
                    change.set.push(NewCredential {
                        id,
                        kind,
                        envelope: ring.seal(&plain, &place, random()?),
                        shown,
                    });
                }
            }
            Ok::<_, Problem>(())
        };
        let headers = self.headers.map(|headers| {
            let names: Vec<&str> = headers.iter().map(|(name, _)| name).collect();
            (headers.to_bytes(), json!(names).to_string())
        });
        let auth = self.auth.map(|auth| (auth.to_bytes(), shown(&auth)));
        let certificate = self
            .certificate
            .map(|checked| (checked.certificate.to_bytes(), checked.shown));
        sort(CredentialKind::Headers, headers)?;
        sort(CredentialKind::Auth, auth)?;
        sort(CredentialKind::ClientCertificate, certificate)?;
        Ok(change)
    }
}

const AUTHORIZATION: &str = "authorization";

impl Outcome {
    fn check(&self) -> Result<(), Problem> {
        if self.has_auth && self.sets_authorization {
            return Err(Problem::one_invalid(
                "headers.authorization",
                "must not be set together with auth, which sets it",
            ));
        }
        if self.has_certificate && self.is_plain_http {
            return Err(Problem::one_invalid(
                "client_certificate",
                "needs an https URL: over http it would not be shown to anybody",
            ));
        }
        Ok(())
    }
}

impl<T> Wish<T> {
    /// Whether there is one afterwards.
    fn leaves(&self, before: bool) -> bool {
        match self {
            Self::Keep => before,
            Self::Remove => false,
            Self::Set(_) => true,
        }
    }

    fn map<U>(self, make: impl FnOnce(T) -> U) -> Wish<U> {
        match self {
            Self::Keep => Wish::Keep,
            Self::Remove => Wish::Remove,
            Self::Set(value) => Wish::Set(make(value)),
        }
    }
}

fn wish<'a, T>(
    members: &mut Members<'a>,
    name: &str,
    read: impl FnOnce(&mut Members<'a>, &str) -> Option<T>,
) -> Wish<T> {
    if members.take_null(name) {
        return Wish::Remove;
    }
    // After a mistake nothing is kept either: the request is refused.
    read(members, name).map_or(Wish::Keep, Wish::Set)
}

/// The members that [`Wanted::read`] reads.
pub(super) fn described(members: Schema) -> Schema {
    let name = text()
        .pattern("^[!#$%&'*+.^_`|~0-9a-zA-Z-]+$")
        .chars(1..=HEADER_NAME_BYTES_MAX);
    let value = text()
        .pattern("^[!-~]([\\t -~]*[!-~])?$")
        .chars(1..=HEADER_VALUE_BYTES_MAX);
    let headers = dictionary(name, value, HEADERS_MAX)
        .example(json!({ "X-Api-Key": "opensesame" }))
        .write_only()
        .or_null()
        .about("Custom headers of each request, by their names; not those of the connection, the body or Zyven. \
             `null` removes them.");
    let auth = any_of([basic(), bearer(), oauth2_client()])
        .write_only()
        .or_null()
        .about("How requests are authorised. Not together with a custom header `Authorization`. `null` removes it.");
    members
        .optional("headers", headers)
        .optional("auth", auth)
        .optional(
            "client_certificate",
            client_certificate::described().write_only().or_null(),
        )
}

fn basic() -> Schema {
    object()
        .required("type", one_of([Auth::BASIC]))
        .required(
            "username",
            text()
                .pattern("^[^:\\u0000-\\u001f\\u007f-\\u009f]+$")
                .chars(1..=NAME_BYTES_MAX),
        )
        .required(
            "password",
            text()
                .pattern("^[^\\u0000-\\u001f\\u007f-\\u009f]*$")
                .chars(0..=SECRET_BYTES_MAX),
        )
        .about("RFC 7617.")
}

fn bearer() -> Schema {
    object()
        .required("type", one_of([Auth::BEARER]))
        .required(
            "token",
            text().pattern("^[!-~]+$").chars(1..=SECRET_BYTES_MAX),
        )
        .about("RFC 6750.")
}

fn oauth2_client() -> Schema {
    let printable = |bytes_max| text().pattern("^[ -~]+$").chars(1..=bytes_max);
    object()
        .required("type", one_of([Auth::OAUTH2]))
        .required("token_url", super::form::url())
        .required("client_id", printable(NAME_BYTES_MAX))
        .required("client_secret", printable(SECRET_BYTES_MAX))
        .optional("scope", printable(NAME_BYTES_MAX))
        .optional("audience", printable(NAME_BYTES_MAX))
        .optional(
            "client_auth",
            one_of([ClientAuth::Basic.as_str(), ClientAuth::Body.as_str()])
                .default(ClientAuth::default().as_str()),
        )
        .about("A token that Zyven gets from `token_url` (RFC 6749, section 4.4).")
}

fn headers(
    members: &mut Members<'_>,
) -> Option<Vec<(String, zyven_domain::credential::SecretText)>> {
    let read = members.names().into_iter().map(|given| {
        let value = members.text(&given, CustomHeaders::parse_value);
        let name = members.checked(&given, CustomHeaders::parse_name(&given));
        name.zip(value)
    });
    // All of them are looked at before one that is wrong ends it.
    read.collect::<Vec<_>>().into_iter().collect()
}

fn auth(members: &mut Members<'_>, names: &NamePolicy) -> Option<Auth> {
    let known = [Auth::BASIC, Auth::BEARER, Auth::OAUTH2];
    let kind = members.required("type", |text| {
        let found = known.into_iter().find(|known| *known == text);
        found.ok_or("must be \"basic\", \"bearer\" or \"oauth2_client_credentials\"")
    });
    match kind? {
        Auth::BASIC => {
            let username = members.required("username", parse_username);
            let password = members.required("password", parse_password);
            Some(Auth::Basic {
                username: username?,
                password: password?,
            })
        }
        Auth::BEARER => Some(Auth::Bearer {
            token: members.required("token", parse_token)?,
        }),
        _ => oauth2(members, names).map(Auth::OAuth2),
    }
}

fn oauth2(members: &mut Members<'_>, names: &NamePolicy) -> Option<ClientCredentials> {
    let token_url = members.required("token_url", |text| {
        EndpointUrl::parse_with(text, names).map(|url| url.to_string())
    });
    let client_id = members.required("client_id", ClientCredentials::parse_name);
    let client_secret = members.required("client_secret", ClientCredentials::parse_secret);
    let scope = members.text("scope", ClientCredentials::parse_name);
    let audience = members.text("audience", ClientCredentials::parse_name);
    let client_auth = members.text("client_auth", str::parse::<ClientAuth>);
    Some(ClientCredentials {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        scope,
        audience,
        client_auth: client_auth.unwrap_or_default(),
    })
}

/// What may be read of it. A user's name is left out: some services put their key there.
fn shown(auth: &Auth) -> String {
    let shown = match auth {
        Auth::Basic { .. } => json!({ "type": Auth::BASIC }),
        Auth::Bearer { .. } => json!({ "type": Auth::BEARER }),
        Auth::OAuth2(client) => json!({
            "type": Auth::OAUTH2,
            "token_url": client.token_url,
            "client_id": client.client_id,
            "scope": client.scope,
            "audience": client.audience,
            "client_auth": client.client_auth.as_str(),
        }),
    };
    shown.to_string()
}
