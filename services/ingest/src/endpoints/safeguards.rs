//! How requests to an endpoint are authenticated, as its owner sees it: kinds and names, no secret.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::signature::Scheme;
use zyven_store::{CredentialKind, Safeguards};

use crate::app::App;
use crate::openapi::values;
use crate::problem::Problem;

/// The members of an endpoint that tell of its credentials.
#[derive(Serialize, JsonSchema)]
pub(super) struct ShownSafeguards<'a> {
    #[schemars(with = "values::SigningScheme")]
    signing: &'a str,
    /// The names of custom headers.
    #[schemars(with = "Vec<String>", example = ["x-api-key"])]
    headers: &'a RawValue,
    #[schemars(with = "Option<values::ShownAuth>")]
    auth: Option<&'a RawValue>,
    #[schemars(with = "Option<values::ShownCertificate>")]
    client_certificate: Option<&'a RawValue>,
}

impl<'a> ShownSafeguards<'a> {
    pub(super) fn of(safeguards: &'a Safeguards) -> Self {
        let shown = |kind: CredentialKind| {
            let text = safeguards.credentials.get(kind.as_str())?;
            serde_json::from_str::<&RawValue>(text).ok()
        };
        Self {
            signing: safeguards
                .signing
                .as_deref()
                .unwrap_or(Scheme::default().as_str()),
            headers: shown(CredentialKind::Headers).unwrap_or(no_names()),
            auth: shown(CredentialKind::Auth),
            client_certificate: shown(CredentialKind::ClientCertificate),
        }
    }
}

/// What is known of one endpoint that exists.
pub(super) async fn of_one(
    app: &App,
    tenant: TenantId,
    endpoint: EndpointId,
) -> Result<Safeguards, Problem> {
    let mut found = of_many(app, tenant, &[endpoint]).await?;
    Ok(found.remove(&endpoint).unwrap_or_default())
}

pub(super) async fn of_many(
    app: &App,
    tenant: TenantId,
    endpoints: &[EndpointId],
) -> Result<HashMap<EndpointId, Safeguards>, Problem> {
    Ok(app.store.safeguards_of(tenant, endpoints).await?)
}

/// The names of an endpoint's custom headers, in lower case.
pub(super) fn header_names(safeguards: &Safeguards) -> Vec<String> {
    let shown = safeguards.credentials.get(CredentialKind::Headers.as_str());
    shown
        .and_then(|names| serde_json::from_str(names).ok())
        .unwrap_or_default()
}

fn no_names() -> &'static RawValue {
    serde_json::from_str("[]").expect("the constant is JSON")
}
