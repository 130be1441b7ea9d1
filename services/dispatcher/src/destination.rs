//! An endpoint in ready form: everything about a request that is the same each time.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use zyven_domain::event::ContentType;
use zyven_domain::retry::RetryPolicy;
use zyven_domain::signature::{SigningKey, sign};
use zyven_domain::target::EndpointUrl;
use zyven_store::ClaimedDelivery;

use crate::authentication::Authentication;
use crate::client::Origin;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EVENT_TYPE: HeaderName = HeaderName::from_static("zyven-event-type");
const DELIVERY_ID: HeaderName = HeaderName::from_static("zyven-delivery-id");
const ATTEMPT: HeaderName = HeaderName::from_static("zyven-attempt");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const JSON: HeaderValue = HeaderValue::from_static(ContentType::Json.as_str());
const CLOUD_EVENT: HeaderValue = HeaderValue::from_static(ContentType::CloudEvent.as_str());
pub(crate) const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("Zyven/", env!("CARGO_PKG_VERSION")));

/// Room for the headers above and those hyper adds, so that the map is allocated once.
const HEADERS_EXPECTED: usize = 14;

/// Where deliveries of one endpoint go, and how.
pub(crate) struct Destination {
    pub(crate) origin: Arc<Origin>,
    pub(crate) policy: RetryPolicy,
    /// See [`zyven_store::EndpointForDelivery::updated_at`].
    pub(crate) updated_at: DateTime<Utc>,
    /// For the log, which never shows a whole URL.
    pub(crate) host: String,
    path_and_query: Uri,
    host_header: HeaderValue,
    /// The current secret's first, then those in their overlap.
    keys: Vec<SigningKey>,
    pub(crate) authentication: Authentication,
}

impl Destination {
    /// `None` if the URL has no place in a request head, which no stored URL should be.
    pub(crate) fn new(
        url: &EndpointUrl,
        origin: Arc<Origin>,
        policy: RetryPolicy,
        updated_at: DateTime<Utc>,
        keys: Vec<SigningKey>,
        authentication: Authentication,
    ) -> Option<Self> {
        Some(Self {
            origin,
            policy,
            updated_at,
            host: url.host().to_string(),
            path_and_query: url.path_and_query().parse().ok()?,
            host_header: HeaderValue::from_str(url.host_header()).ok()?,
            keys,
            authentication,
        })
    }

    /// The signed request for one attempt: Standard Webhooks, exactly the accepted bytes. `traceparent` is what the receiver
    /// is told: the attempt's span, or what came with the event.
    pub(crate) fn request(
        &self,
        delivery: &ClaimedDelivery,
        payload: &Bytes,
        now: DateTime<Utc>,
        token: Option<&HeaderValue>,
        traceparent: Option<&str>,
    ) -> Request<Full<Bytes>> {
        let timestamp_s = now.timestamp();
        let webhook_id = delivery.event_id.to_string();
        let signature = sign(&self.keys, &webhook_id, timestamp_s, payload);

        let added = self.authentication.header_count();
        let mut headers = HeaderMap::with_capacity(HEADERS_EXPECTED + added);
        self.authentication.apply(&mut headers, token);
        headers.insert(HOST, self.host_header.clone());
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, sent_as(delivery.content_type));
        headers.insert(WEBHOOK_ID, ascii(webhook_id));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp_s));
        headers.insert(WEBHOOK_SIGNATURE, ascii(signature));
        headers.insert(DELIVERY_ID, ascii(delivery.delivery_id.to_string()));
        headers.insert(ATTEMPT, HeaderValue::from(delivery.attempt));
        // Both were checked when the event was accepted; one written past that check is left out.
        if let Ok(event_type) = HeaderValue::from_str(&delivery.event_type) {
            headers.insert(EVENT_TYPE, event_type);
        }
        if let Some(Ok(traceparent)) = traceparent.map(HeaderValue::from_str) {
            headers.insert(TRACEPARENT, traceparent);
        }

        let mut request = Request::new(Full::new(payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path_and_query.clone();
        *request.headers_mut() = headers;
        request
    }
}

fn sent_as(content_type: ContentType) -> HeaderValue {
    match content_type {
        ContentType::Json => JSON,
        ContentType::CloudEvent => CLOUD_EVENT,
    }
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("ids and signatures are visible ASCII")
}
