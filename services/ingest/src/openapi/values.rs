//! Kinds of text that members of answers have: `#[schemars(with = "values::EventId")]` on a member says which.
//!
//! Structures that are sent derive [`schemars::JsonSchema`], so the document has each member that is sent, its type, and its doc
//! comment. What a Rust type does not tell (the form of an id, the words there are) is told here.

use std::borrow::Cow;

use schemars::{JsonSchema, SchemaGenerator};
use zyven_domain::api_key::{API_KEY_PREFIX, Scope};
use zyven_domain::credential::{Auth, ClientAuth};
use zyven_domain::event::{self, CHANNEL_BYTES_MAX, EVENT_TYPE_BYTES_MAX};
use zyven_domain::id;
use zyven_domain::lifecycle::DeliveryState;
use zyven_domain::retry::DeadLetterReason;
use zyven_domain::signature::{PUBLIC_KEY_PREFIX, SECRET_PREFIX, Scheme};
use zyven_store::{EXPLANATION_CODES, SchemaMode};

use super::schema::{Schema, list, object, one_of, text, time};
use crate::problem::Code;

/// A type that is never made: a name for a schema.
macro_rules! value {
    ($(#[doc = $about:literal])+ $name:ident = $schema:expr) => {
        $(#[doc = $about])+
        pub(crate) enum $name {}

        impl $name {
            /// The same for a parameter, or a member of a request.
            pub(crate) fn schema() -> Schema {
                $schema.about([$($about),+].concat().trim())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
                Self::schema().into()
            }
        }
    };
}

value!(
    /// An event's id.
    EventId = of_kind(id::EventId::PREFIX)
);
value!(
    /// A delivery's id.
    DeliveryId = of_kind(id::DeliveryId::PREFIX)
);
value!(
    /// An endpoint's id.
    EndpointId = of_kind(id::EndpointId::PREFIX)
);
value!(
    /// An API key's id, which is not the key.
    ApiKeyId = of_kind(id::ApiKeyId::PREFIX)
);
value!(
    /// A tenant's id.
    TenantId = of_kind(id::TenantId::PREFIX)
);
value!(
    /// The id of an entry of the audit log.
    AuditId = of_kind(id::AuditId::PREFIX)
);
value!(
    /// What kind of fact an event is.
    EventTypeName = name(EVENT_TYPE_BYTES_MAX).example("invoice.paid")
);
value!(
    /// A label that narrows who gets an event.
    Channel = name(CHANNEL_BYTES_MAX).example("eu")
);
value!(
    /// What a payload is sent as.
    ContentType = one_of(event::ContentType::ALL.map(event::ContentType::as_str))
);
value!(
    /// Where a delivery, or an event with all its deliveries, stands.
    DeliveryStatus = one_of(DeliveryState::ALL.map(DeliveryState::as_str))
);
value!(
    /// Why a delivery was given up.
    DeadReason = one_of(DeadLetterReason::ALL.map(DeadLetterReason::as_str))
);
value!(
    /// Why an event has a delivery to an endpoint, or has none, for programs.
    ExplanationCode = one_of(EXPLANATION_CODES)
);
value!(
    /// Whether an endpoint gets requests: `paused` ones keep what is for them, `disabled` ones do not.
    EndpointStatus = one_of(["enabled", "paused", "disabled"])
);
value!(
    /// How requests are signed: with a secret that both sides have, or with a private key that only Zyven has.
    SigningScheme = one_of(Scheme::ALL.map(Scheme::as_str))
);
value!(
    /// What happens to an event whose payload does not fit its type's schema.
    SchemaModeName = one_of(SchemaMode::ALL.map(SchemaMode::as_str))
);
value!(
    /// What a key allows.
    ScopeName = one_of(Scope::ALL.map(Scope::as_str))
);
value!(
    /// What is wrong, for programs. A code that was published never changes.
    ProblemCode = one_of(Code::ALL.map(Code::as_str))
);
value!(
    /// A signing secret.
    Secret = prefixed(SECRET_PREFIX, "[A-Za-z0-9+/]+=*").example("whsec_c2VjcmV0IG9mIGFuIGV4YW1wbGUsIG5vdCBvZiBhIHVzZXI=")
);
value!(
    /// A public key (Ed25519), with which receivers verify.
    PublicKey = prefixed(PUBLIC_KEY_PREFIX, "[A-Za-z0-9+/]+=*").example("whpk_c2VjcmV0IG9mIGFuIGV4YW1wbGUsIG5vdCBvZiBhIHU=")
);
value!(
    /// A whole API key. It is shown this once.
    WholeApiKey = prefixed(API_KEY_PREFIX, "[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
        .example("zyk_00010203040506ff_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
);
value!(
    /// The part of an API key that may be shown.
    PublicKeyPart = text().pattern("^[0-9a-f]{16}$").example("00010203040506ff")
);
value!(
    /// How requests are authorised, without what is secret of it.
    ShownAuth = object()
        .required("type", one_of([Auth::BASIC, Auth::BEARER, Auth::OAUTH2]))
        .optional("token_url", text())
        .optional("client_id", text())
        .optional("scope", text().or_null())
        .optional("audience", text().or_null())
        .optional("client_auth", one_of([ClientAuth::Basic.as_str(), ClientAuth::Body.as_str()]))
        .example(serde_json::json!({ "type": "bearer" }))
);
value!(
    /// What a client certificate says of itself.
    ShownCertificate = object()
        .required("subject", text().example("CN=zyven"))
        .required("fingerprint_sha256", text().pattern("^[0-9a-f]{64}$").example("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"))
        .required("not_after", time())
);
value!(
    /// A header's name and value.
    HeaderLine = list(text(), 2..=2).example(["content-type", "text/plain"].map(serde_json::Value::from).to_vec())
);

/// An id. What is not written as one is the id of nothing (404).
fn of_kind(prefix: &str) -> Schema {
    text()
        .pattern(format!("^{prefix}[0-9a-f]{{32}}$"))
        .example(format!("{prefix}0199f2c6d1a87b3e9c5f2d4a6b8e0c1d"))
}

fn name(bytes_max: usize) -> Schema {
    text().pattern("^[a-zA-Z0-9_.-]+$").chars(1..=bytes_max)
}

fn prefixed(prefix: &str, rest: &str) -> Schema {
    text().pattern(format!("^{prefix}{rest}$"))
}
