//! API keys as a tenant manages them.

pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::api_key::{ApiKey, Scope, Scopes};
use zyven_domain::id::{ApiKeyId, TenantId};
use zyven_store::{API_KEYS_PER_TENANT_MAX, ApiKeyRecord, NewApiKey};

use crate::answer::{self, Answer};
use crate::app::{App, random};
use crate::auth::Caller;
use crate::fields::Members;
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::problem::{Code, Problem};

/// Longest name of a key, in characters.
const NAME_CHARS_MAX: usize = 200;

/// An API key as its tenant sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApiKey")]
struct ApiKeyView<'a> {
    #[schemars(with = "values::ApiKeyId")]
    id: ApiKeyId,
    #[schemars(with = "values::PublicKeyPart")]
    public_id: String,
    /// What its owner calls it.
    #[schemars(example = &"billing service")]
    name: &'a str,
    #[schemars(with = "Vec<values::ScopeName>")]
    scopes: Vec<&'static str>,
    created_at: DateTime<Utc>,
    /// Null: never.
    expires_at: Option<DateTime<Utc>>,
    /// Null: it was not.
    revoked_at: Option<DateTime<Utc>>,
    /// Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<values::WholeApiKey>")]
    key: Option<String>,
}

impl<'a> ApiKeyView<'a> {
    fn of(record: &'a ApiKeyRecord) -> Self {
        Self {
            id: record.id,
            public_id: record.public_id.to_string(),
            name: &record.name,
            scopes: record.scopes.iter().map(Scope::as_str).collect(),
            created_at: record.created_at,
            expires_at: record.expires_at,
            revoked_at: record.revoked_at,
            key: None,
        }
    }
}

/// A fresh key, and the row that recognises it. Also for the command line, which makes a tenant's
/// first key with [`zyven_store::Store::create_tenant`].
///
/// # Errors
/// The operating system has no random bytes.
pub fn new_api_key(
    tenant: TenantId,
    name: &str,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(ApiKey, NewApiKey), getrandom::Error> {
    let (mut public_id, mut secret) = ([0; 8], [0; zyven_domain::api_key::SECRET_BYTES]);
    getrandom::fill(&mut public_id)?;
    getrandom::fill(&mut secret)?;
    Ok(row_for(
        ApiKey::from_random(public_id, secret),
        tenant,
        name,
        scopes,
        expires_at,
    ))
}

fn row_for(
    key: ApiKey,
    tenant: TenantId,
    name: &str,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> (ApiKey, NewApiKey) {
    let row = NewApiKey {
        id: ApiKeyId::new(),
        tenant_id: tenant,
        public_id: key.public_id(),
        secret_hash: key.secret_hash(),
        name: name.to_owned(),
        scopes,
        expires_at,
    };
    (key, row)
}

/// `POST /v1/api-keys`: a key may only be given scopes that the caller's key has.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let name = members.text("name", name);
    if name.is_none() {
        members.missing("name");
    }
    let scopes = members.texts("scopes", 1..=Scope::ALL.len(), str::parse::<Scope>);
    if scopes.is_none() {
        members.missing("scopes");
    }
    let expires_at = members.text("expires_at", future);
    members.finish()?;
    let scopes: Scopes = scopes.into_iter().flatten().collect();
    if let Some(scope) = caller.scopes.first_missing_of(scopes) {
        return Err(Problem::scope_missing(scope));
    }
    let (key, row) = row_for(
        ApiKey::from_random(random()?, random()?),
        caller.tenant,
        &name.unwrap_or_default(),
        scopes,
        expires_at,
    );
    let record = app
        .store_of(&caller)
        .add_api_key(&row)
        .await?
        .ok_or_else(too_many)?;
    let view = ApiKeyView {
        key: Some(key.expose()),
        ..ApiKeyView::of(&record)
    };
    Ok(answer::value(StatusCode::CREATED, &view))
}

/// `GET /v1/api-keys`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let after = query.value::<ApiKeyId>("cursor");
    query.finish()?;
    let keys = app
        .store
        .api_keys_of(caller.tenant, after, pages::asked(limit))
        .await?;
    let (shown, next) = pages::cut(keys, limit, |key| key.id.to_string());
    let views: Vec<ApiKeyView<'_>> = shown.iter().map(ApiKeyView::of).collect();
    Ok(pages::page(&views, next))
}

/// `DELETE /v1/api-keys/{id}`: takes effect within [`crate::REVOCATION_MAX`].
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let id = id
        .parse::<ApiKeyId>()
        .map_err(|_| Problem::not_found("API key"))?;
    if app
        .store_of(&caller)
        .revoke_api_key(caller.tenant, id)
        .await?
    {
        Ok(answer::nothing())
    } else {
        Err(Problem::not_found("API key"))
    }
}

fn too_many() -> Problem {
    Problem::new(
        Code::ApiKeyLimit,
        format!(
            "A tenant may have {API_KEYS_PER_TENANT_MAX} keys that are neither revoked nor expired."
        ),
    )
}

fn name(text: &str) -> Result<String, String> {
    let trimmed = text.trim();
    if (1..=NAME_CHARS_MAX).contains(&trimmed.chars().count()) && !trimmed.contains('\0') {
        Ok(trimmed.to_owned())
    } else {
        Err(format!(
            "must have 1 to {NAME_CHARS_MAX} characters, without U+0000"
        ))
    }
}

fn future(text: &str) -> Result<DateTime<Utc>, &'static str> {
    const RULE: &str = "must be a time in the future, such as 2030-01-31T12:00:00Z";
    let moment = DateTime::parse_from_rfc3339(text).map_err(|_| RULE)?;
    let moment = moment.to_utc();
    if moment > Utc::now() {
        Ok(moment)
    } else {
        Err(RULE)
    }
}
