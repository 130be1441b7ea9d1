//! An example of a good request to every route there is, taken from the router's own table: a route
//! without an example fails the tests that walk over all of them.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use zyven_domain::id::EventId;
use zyven_domain::retry::DeadLetterReason;
use zyven_ingest::Route;
use zyven_store::Settlement;

use crate::deliveries::settle;
use crate::support::{Answer, Api, Tenant};

/// One tenant's things, by the collection in whose paths their ids stand.
pub(crate) struct Things(BTreeMap<&'static str, String>);

impl Things {
    /// One of everything. The delivery of the event is a dead letter; that of `pending` waits.
    pub(crate) async fn of(tenant: &Tenant<'_>) -> Self {
        let endpoint = tenant.endpoint(&json!({})).await;
        let event = tenant.publish("a").await;
        let delivery = delivery_of(tenant, &event).await;
        bury(tenant.api, &event).await;
        let named = json!({ "name": "its_own" });
        tenant.post("/v1/event-types", &named).await.expect(201);
        let keys = tenant.get("/v1/api-keys").await.json();
        let key = keys["data"][0]["id"].as_str().expect("an id").to_owned();
        let another = tenant.publish("replayed").await;
        bury(tenant.api, &another).await;
        let all_of_it = json!({ "event_type": "replayed", "reason": "r" });
        let replay = tenant.post("/v1/replays", &all_of_it).await.expect(202);
        Self(BTreeMap::from([
            ("endpoints", endpoint),
            ("events", event),
            ("deliveries", delivery),
            ("api-keys", key),
            ("event-types", "its_own".to_owned()),
            ("replays", replay.json()["id"].to_string()),
        ]))
    }

    /// Ids in the right form of things that never were.
    pub(crate) fn unknown() -> Self {
        let id = |prefix: &str| format!("{prefix}_{}", "0".repeat(32));
        Self(BTreeMap::from([
            ("endpoints", id("ep")),
            ("events", id("evt")),
            ("deliveries", id("dlv")),
            ("api-keys", id("key")),
            ("event-types", "never_was".to_owned()),
            ("replays", "0".to_owned()),
        ]))
    }

    /// Whatever no other tenant may see. The number of a replay says nothing, and may stand in any text.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        let typed = self.0.iter().filter(|(kind, _)| **kind != "replays");
        typed.map(|(_, id)| id.as_str())
    }

    pub(crate) fn get(&self, collection: &str) -> &str {
        self.0
            .get(collection)
            .unwrap_or_else(|| panic!("Things::of() makes nothing for /v1/{collection}/{{…}}"))
    }

    pub(crate) fn set(&mut self, collection: &'static str, id: String) {
        self.0.insert(collection, id);
    }

    /// The route's path with the ids of these things.
    pub(crate) fn path(&self, route: &Route) -> String {
        let mut parts = route.path.split('/').collect::<Vec<_>>();
        if let Some(at) = parts.iter().position(|part| part.starts_with('{')) {
            parts[at] = self.get(parts[at - 1]);
        }
        parts.join("/")
    }
}

/// The body of a good request; `None` if there is none.
pub(crate) fn body_of(route: &Route) -> Option<Value> {
    let reason = || Some(json!({ "reason": "r" }));
    match (route.method.as_str(), route.path) {
        ("POST", "/v1/events") => Some(json!({ "type": "a", "payload": 1 })),
        ("POST", "/v1/events/batch") => Some(json!([{ "type": "a", "payload": 1 }])),
        (
            "POST",
            "/v1/events/{id}/cancel" | "/v1/deliveries/{id}/cancel" | "/v1/deliveries/{id}/replay",
        ) => reason(),
        ("POST", "/v1/replays") => reason(),
        ("POST", "/v1/endpoints") => Some(json!({ "url": "https://example.com" })),
        ("PATCH", "/v1/endpoints/{id}") => Some(json!({ "description": "another" })),
        ("POST", "/v1/endpoints/{id}/rotate-secret") => Some(json!({ "overlap_s": 60 })),
        (
            "POST",
            "/v1/endpoints/{id}/enable"
            | "/v1/endpoints/{id}/disable"
            | "/v1/endpoints/{id}/pause"
            | "/v1/endpoints/{id}/resume"
            | "/v1/endpoints/{id}/test",
        ) => None,
        ("POST", "/v1/event-types") => Some(json!({ "name": EventId::new().to_string() })),
        ("PATCH", "/v1/event-types/{name}") => Some(json!({ "description": "another" })),
        ("POST", "/v1/api-keys") => Some(json!({ "name": "n", "scopes": ["manage"] })),
        ("POST", "/v1/view-links") => Some(json!({ "scopes": ["read"], "expires_in_s": 60 })),
        ("GET" | "DELETE", _) => None,
        _ => panic!(
            "say in body_of() what {} {} takes",
            route.method, route.path
        ),
    }
}

/// Brings things into the state in which the route has an effect.
pub(crate) async fn prepare(route: &Route, tenant: &Tenant<'_>, things: &mut Things) {
    match route.path {
        "/v1/endpoints/{id}/enable" => {
            let endpoint = things.get("endpoints");
            let path = format!("/v1/endpoints/{endpoint}/disable");
            tenant.push(&path).await.expect(200);
        }
        "/v1/endpoints/{id}/resume" => {
            let endpoint = things.get("endpoints");
            let path = format!("/v1/endpoints/{endpoint}/pause");
            tenant.push(&path).await.expect(200);
        }
        "/v1/events/{id}/cancel" | "/v1/deliveries/{id}/cancel" => {
            let event = tenant.publish("a").await;
            things.set("deliveries", delivery_of(tenant, &event).await);
            things.set("events", event);
        }
        _ => {}
    }
}

pub(crate) async fn send(
    api: &Api,
    key: Option<&str>,
    route: &Route,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let method = Method::from_bytes(route.method.as_str().as_bytes()).expect("a method");
    let mut request = api.http.request(method, api.url(path));
    if let Some(body) = body {
        request = request.json(body);
    }
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    Answer::of(request).await
}

async fn delivery_of(tenant: &Tenant<'_>, event: &str) -> String {
    let deliveries = tenant.get(&format!("/v1/events/{event}/deliveries")).await;
    let id = &deliveries.json()["data"][0]["id"];
    id.as_str().expect("an id").to_owned()
}

/// Makes a dead letter of an event's delivery, as a dispatcher does when the endpoint is disabled.
async fn bury(api: &Api, event: &str) {
    let settlement = || Settlement::DeadLetter {
        record: None,
        reason: DeadLetterReason::EndpointDisabled,
    };
    settle(api, event, settlement).await;
}
