//! Signing secrets: made, sealed, shown to their owner, rotated.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use hyper::body::Body as _;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;
use zyven_domain::secret_box::KeyRing;
use zyven_domain::signature::SigningSecret;
use zyven_store::{OwnedSecret, SealedSecret};

use super::endpoint_id;
use crate::answer::{self, Answer};
use crate::app::{App, random};
use crate::auth::Caller;
use crate::body;
use crate::fields::Members;
use crate::problem::{Code, Problem};

/// Random bytes of a generated secret; the specification asks for 24 to 64.
const SECRET_BYTES: usize = 32;
/// How long a rotated secret stays valid when nobody says, in seconds.
const OVERLAP_S_DEFAULT: u64 = 24 * 3600;
/// How long it may.
const OVERLAP_S: RangeInclusive<u64> = 0..=7 * 24 * 3600;

#[derive(Serialize)]
struct PreviousSecret {
    secret: String,
    expires_at: Option<DateTime<Utc>>,
}

/// `GET /v1/endpoints/{id}/secret`
pub(crate) async fn secret(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let secrets = app
        .store
        .secrets_of(caller.tenant, endpoint_id(&id)?)
        .await?;
    let mut opened = secrets
        .iter()
        .map(|owned| open(&app.ring, owned))
        .collect::<Result<Vec<_>, Problem>>()?
        .into_iter();
    let current = opened
        .next()
        .ok_or_else(|| Problem::not_found("endpoint"))?;
    let previous: Vec<PreviousSecret> = opened.collect();
    let body = json!({ "secret": current.secret, "previous": previous });
    Ok(answer::value(StatusCode::OK, &body))
}

/// `POST /v1/endpoints/{id}/rotate-secret`. The body is optional.
pub(crate) async fn rotate_secret(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    let (mut overlap_s, mut chosen) = (OVERLAP_S_DEFAULT, None);
    if !body.is_end_stream() {
        let received = body::receive(&head.headers, body, app.body_allowed(), &app.room).await?;
        let mut members = Members::parse(received.text()?)?;
        overlap_s = members.number("overlap_s", OVERLAP_S).unwrap_or(overlap_s);
        chosen = given(&mut members);
        members.finish()?;
    }
    let secret = match chosen {
        Some(secret) => secret,
        None => generate()?,
    };
    let rotated = app
        .store
        .rotate_secret(
            caller.tenant,
            endpoint_id(&id)?,
            &seal(&app.ring, &secret)?,
            Duration::from_secs(overlap_s),
        )
        .await?;
    if !rotated {
        return Err(Problem::not_found("endpoint"));
    }
    let body = json!({ "secret": secret.expose(), "overlap_s": overlap_s });
    Ok(answer::value(StatusCode::OK, &body))
}

/// A secret the owner brings along.
pub(super) fn given(members: &mut Members<'_>) -> Option<SigningSecret> {
    members.text("secret", SigningSecret::parse)
}

pub(super) fn generate() -> Result<SigningSecret, Problem> {
    let bytes = random::<SECRET_BYTES>()?;
    Ok(SigningSecret::from_bytes(bytes.to_vec()).expect("the length is one of those allowed"))
}

/// Seals a secret for a row of its own.
pub(super) fn seal(ring: &KeyRing, secret: &SigningSecret) -> Result<SealedSecret, Problem> {
    let id = Uuid::now_v7();
    let associated = SealedSecret::associated_data(id);
    Ok(SealedSecret {
        id,
        envelope: ring.seal(secret.bytes(), associated.as_bytes(), random()?),
    })
}

fn open(ring: &KeyRing, owned: &OwnedSecret) -> Result<PreviousSecret, Problem> {
    let associated = SealedSecret::associated_data(owned.secret.id);
    let unreadable = |error: &dyn std::fmt::Display| {
        tracing::error!(secret.id = %owned.secret.id, %error, "a signing secret cannot be opened");
        Problem::new(
            Code::Internal,
            "The stored secret cannot be opened; rotate it, or ask the operator for the master key.",
        )
    };
    let bytes = ring
        .open(&owned.secret.envelope, associated.as_bytes())
        .map_err(|error| unreadable(&error))?;
    let secret = SigningSecret::from_bytes(bytes).map_err(|error| unreadable(&error))?;
    Ok(PreviousSecret {
        secret: secret.expose(),
        expires_at: owned.expires_at,
    })
}
