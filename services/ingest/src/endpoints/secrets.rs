//! Signing secrets: made, sealed, shown to their owner, rotated. A private key is never shown; its
//! public half is.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use zyven_domain::id::TenantId;
use zyven_domain::secret_box::KeyRing;
use zyven_domain::signature::{PrivateKey, SECRET_BYTES_MAX, SECRET_PREFIX, Scheme, SigningSecret};
use zyven_store::{OwnedSecret, SealedSecret};

use super::endpoint_id;
use crate::answer::{self, Answer};
use crate::app::{App, random};
use crate::auth::Caller;
use crate::fields::Members;
use crate::openapi::schema::{Schema, number, text};
use crate::openapi::values;
use crate::problem::{Code, Problem};

/// Random bytes of a generated secret; the specification asks for 24 to 64.
const SECRET_BYTES: usize = 32;
/// How long a rotated secret stays valid when nobody says, in seconds.
const OVERLAP_S_DEFAULT: u64 = 24 * 3600;
/// How long it may.
const OVERLAP_S: RangeInclusive<u64> = 0..=7 * 24 * 3600;

/// What an endpoint's requests are signed with.
pub(super) enum Signing {
    Hmac(SigningSecret),
    Ed25519(PrivateKey),
}

impl Signing {
    /// A fresh secret.
    pub(super) fn generate(scheme: Scheme) -> Result<Self, Problem> {
        Ok(match scheme {
            Scheme::Hmac => {
                let secret = SigningSecret::from_bytes(random::<SECRET_BYTES>()?.to_vec());
                Self::Hmac(secret.expect("the length is one of those allowed"))
            }
            Scheme::Ed25519 => Self::Ed25519(PrivateKey::from_bytes(random()?)),
        })
    }

    /// Seals it for a row of its own.
    pub(super) fn seal(&self, ring: &KeyRing, tenant: TenantId) -> Result<SealedSecret, Problem> {
        let id = Uuid::now_v7();
        let (scheme, bytes) = match self {
            Self::Hmac(secret) => (Scheme::Hmac, secret.bytes()),
            Self::Ed25519(key) => (Scheme::Ed25519, key.bytes()),
        };
        Ok(SealedSecret {
            id,
            scheme: scheme.as_str().to_owned(),
            envelope: ring.seal(bytes, &SealedSecret::place(tenant, id), random()?),
        })
    }

    /// What its owner may see of it.
    pub(super) fn shown(&self) -> ShownSecret {
        match self {
            Self::Hmac(secret) => ShownSecret {
                secret: Some(secret.expose()),
                public_key: None,
            },
            Self::Ed25519(key) => ShownSecret {
                secret: None,
                public_key: Some(key.public_key().to_string()),
            },
        }
    }

    fn open(ring: &KeyRing, tenant: TenantId, owned: &OwnedSecret) -> Result<Self, Problem> {
        let unreadable = |error: &dyn std::fmt::Display| {
            tracing::error!(secret.id = %owned.secret.id, %error, "a signing secret cannot be opened");
            Problem::new(
                Code::Internal,
                "The stored secret cannot be opened; rotate it, or ask the operator for the master key.",
            )
        };
        let place = SealedSecret::place(tenant, owned.secret.id);
        let bytes = ring
            .open(&owned.secret.envelope, &place)
            .map_err(|error| unreadable(&error))?;
        match owned.secret.scheme.parse() {
            Ok(Scheme::Hmac) => SigningSecret::from_bytes(bytes)
                .map(Self::Hmac)
                .map_err(|error| unreadable(&error)),
            Ok(Scheme::Ed25519) => bytes
                .try_into()
                .map(|bytes| Self::Ed25519(PrivateKey::from_bytes(bytes)))
                .map_err(|_| unreadable(&"a private key has another length")),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

/// One of the two.
#[derive(Serialize, JsonSchema)]
pub(super) struct ShownSecret {
    /// What requests are signed with, if both sides have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<values::Secret>")]
    secret: Option<String>,
    /// What requests are verified with, if only Zyven can sign them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<values::PublicKey>")]
    public_key: Option<String>,
}

/// A secret in its overlap: requests carry a signature with it as well.
#[derive(Serialize, JsonSchema)]
struct PreviousSecret {
    #[serde(flatten)]
    shown: ShownSecret,
    /// When its overlap ends.
    expires_at: Option<DateTime<Utc>>,
}

/// An endpoint's secret, and those in their overlap.
#[derive(Serialize, JsonSchema)]
pub(super) struct CurrentSecret {
    #[serde(flatten)]
    shown: ShownSecret,
    /// The latest first.
    previous: Vec<PreviousSecret>,
}

/// What receivers verify with.
#[derive(Serialize, JsonSchema)]
pub(super) struct PublicKeys {
    /// The current one first, then those in their overlap. Empty if nothing is signed with a private key.
    data: Vec<ShownPublicKey>,
}

/// A public key and its time.
#[derive(Serialize, JsonSchema)]
struct ShownPublicKey {
    #[schemars(with = "values::PublicKey")]
    public_key: String,
    valid_from: DateTime<Utc>,
    /// When its overlap ends. Null: it is the current one.
    expires_at: Option<DateTime<Utc>>,
}

/// The new secret.
#[derive(Serialize, JsonSchema)]
pub(super) struct RotatedSecret {
    #[serde(flatten)]
    shown: ShownSecret,
    /// How many seconds the previous one goes on being used.
    overlap_s: u64,
}

/// `GET /v1/endpoints/{id}/secret`
pub(crate) async fn secret(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let mut opened = valid(&app, caller.tenant, &id).await?.into_iter();
    let (current, _) = opened
        .next()
        .ok_or_else(|| Problem::not_found("endpoint"))?;
    let body = CurrentSecret {
        shown: current.shown(),
        previous: opened
            .map(|(signing, owned)| PreviousSecret {
                shown: signing.shown(),
                expires_at: owned.expires_at,
            })
            .collect(),
    };
    app.store_of(&caller)
        .note_secret_reveal(caller.tenant, endpoint_id(&id)?)
        .await?;
    Ok(answer::value(StatusCode::OK, &body))
}

/// `GET /v1/endpoints/{id}/public-key`: what receivers verify with, the current one first.
pub(crate) async fn public_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let data = valid(&app, caller.tenant, &id)
        .await?
        .into_iter()
        .filter_map(|(signing, owned)| {
            signing.shown().public_key.map(|public_key| ShownPublicKey {
                public_key,
                valid_from: owned.created_at,
                expires_at: owned.expires_at,
            })
        })
        .collect();
    Ok(answer::value(StatusCode::OK, &PublicKeys { data }))
}

/// `POST /v1/endpoints/{id}/rotate-secret`. The body is optional.
pub(crate) async fn rotate_secret(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let (mut overlap_s, mut scheme, mut given) = (OVERLAP_S_DEFAULT, None, None);
    let (head, body) = request.into_parts();
    if let Some(received) = app.receive_perhaps(&head.headers, body).await? {
        let mut members = Members::parse(received.text()?)?;
        overlap_s = members.number("overlap_s", OVERLAP_S).unwrap_or(overlap_s);
        (scheme, given) = wanted(&mut members);
        members.finish()?;
    }
    let signing = match (given, scheme) {
        (Some(secret), _) => Signing::Hmac(secret),
        (None, Some(scheme)) => Signing::generate(scheme)?,
        (None, None) => Signing::generate(current_scheme(&app, caller.tenant, &id).await?)?,
    };
    let rotated = app
        .store_of(&caller)
        .rotate_secret(
            caller.tenant,
            endpoint_id(&id)?,
            &signing.seal(&app.ring, caller.tenant)?,
            Duration::from_secs(overlap_s),
        )
        .await?;
    if !rotated {
        return Err(Problem::not_found("endpoint"));
    }
    let body = RotatedSecret {
        shown: signing.shown(),
        overlap_s,
    };
    Ok(answer::value(StatusCode::OK, &body))
}

/// How the owner wants requests signed, and the secret brought along, which is a shared one.
pub(super) fn wanted(members: &mut Members<'_>) -> (Option<Scheme>, Option<SigningSecret>) {
    let scheme = members.text("signing", str::parse::<Scheme>);
    let secret = members.text("secret", SigningSecret::parse);
    if scheme == Some(Scheme::Ed25519) && secret.is_some() {
        members.mistake(
            "secret",
            "must be left out with \"signing\": \"ed25519\": Zyven makes the private key and shows the public one",
        );
    }
    (scheme, secret)
}

/// The members that [`wanted`] reads.
pub(super) fn described(members: Schema) -> Schema {
    let longest = SECRET_PREFIX.len() + SECRET_BYTES_MAX.div_ceil(3) * 4;
    let secret = text()
        .pattern(format!("^{SECRET_PREFIX}[A-Za-z0-9+/]+={{0,2}}$"))
        .chars(1..=longest)
        .write_only()
        .about("Your own: `whsec_` and the base64 of 24 to 64 bytes; not with `ed25519`.");
    let signing = values::SigningScheme::schema();
    members
        .optional("signing", signing)
        .optional("secret", secret)
}

/// The member that says how long a rotated secret stays valid.
pub(super) fn overlap() -> Schema {
    number(OVERLAP_S)
        .default(OVERLAP_S_DEFAULT)
        .about("How many seconds the previous secret stays valid.")
}

/// Every valid secret, the current one first; none if there is no such endpoint.
async fn valid(
    app: &App,
    tenant: TenantId,
    id: &str,
) -> Result<Vec<(Signing, OwnedSecret)>, Problem> {
    let secrets = app.store.secrets_of(tenant, endpoint_id(id)?).await?;
    if secrets.is_empty() {
        return Err(Problem::not_found("endpoint"));
    }
    secrets
        .into_iter()
        .map(|owned| Ok((Signing::open(&app.ring, tenant, &owned)?, owned)))
        .collect()
}

/// A rotation that does not say otherwise keeps the scheme. Nothing is opened: rotating is what helps
/// when a secret cannot be.
async fn current_scheme(app: &App, tenant: TenantId, id: &str) -> Result<Scheme, Problem> {
    let secrets = app.store.secrets_of(tenant, endpoint_id(id)?).await?;
    let current = secrets
        .first()
        .ok_or_else(|| Problem::not_found("endpoint"))?;
    Ok(current.secret.scheme.parse().unwrap_or_default())
}
