//! What every handler works with.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use http::HeaderMap;
use zyven_domain::secret_box::KeyRing;
use zyven_queue::Queue;
use zyven_runtime::doorbell::Bell;
use zyven_runtime::traces::Tracer;
use zyven_store::{Actor, Store};

use crate::aside::Aside;
use crate::auth::{Caller, Keys};
use crate::batcher::Batcher;
use crate::body::{self, Allowed, Received, Room, Takes};
use crate::config::Config;
use crate::fields::Members;
use crate::openapi::Description;
use crate::places::Places;
use crate::problem::{Code, Problem};
use crate::rates::Rates;
use crate::schemas::Schemas;
use crate::statistics::Statistics;

pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) store: Store,
    /// For explanations only; nobody else may wait for Redis.
    pub(crate) queue: Option<Queue>,
    pub(crate) ring: KeyRing,
    pub(crate) keys: Arc<Keys>,
    pub(crate) schemas: Schemas,
    pub(crate) batcher: Batcher,
    pub(crate) aside: Aside,
    pub(crate) room: Room,
    pub(crate) rates: Rates,
    pub(crate) bell: Bell,
    pub(crate) statistics: Arc<Statistics>,
    /// What the API says of itself.
    pub(crate) description: Description,
    pub(crate) tracer: Tracer,
    /// A place for each request whose answer is counted from many rows.
    pub(crate) overviews: Places,
    /// A place for each request about many dead letters.
    pub(crate) replays: Places,
}

impl App {
    /// The store for whatever the caller changes: the audit log then says who did it.
    pub(crate) fn store_of(&self, caller: &Caller) -> Store {
        self.store.by(Actor::Key(caller.key))
    }

    /// The body of a request, as most of them have one.
    pub(crate) async fn receive(&self, request: Request) -> Result<Received, Problem> {
        let (head, body) = request.into_parts();
        let allowed = self.event_allowed(Takes::Json);
        body::receive(&head.headers, body, allowed, &self.room).await
    }

    /// The body of a request that need not have one.
    pub(crate) async fn receive_perhaps(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Option<Received>, Problem> {
        let allowed = self.event_allowed(Takes::Json);
        body::receive_perhaps(headers, body, allowed, &self.room).await
    }

    /// A request that has nothing in its body, or an object without members.
    pub(crate) async fn receive_nothing(&self, request: Request) -> Result<Request, Problem> {
        let (head, body) = request.into_parts();
        if let Some(received) = self.receive_perhaps(&head.headers, body).await? {
            Members::parse(received.text()?)?.finish()?;
        }
        Ok(Request::from_parts(head, Body::empty()))
    }

    /// What the body of a request with one event may be.
    pub(crate) fn event_allowed(&self, takes: Takes) -> Allowed {
        Allowed {
            takes,
            bytes_max: self.config.limits.body_bytes_max,
            deadline: self.config.deadlines.body,
        }
    }

    /// What a batch may be.
    pub(crate) fn batch_allowed(&self) -> Allowed {
        Allowed {
            takes: Takes::Batch,
            bytes_max: self.config.limits.batch_bytes_max,
            deadline: self.config.deadlines.body,
        }
    }
}

/// Fresh random bytes for keys, secrets and nonces.
pub(crate) fn random<const BYTES: usize>() -> Result<[u8; BYTES], Problem> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the operating system has no random bytes");
        Problem::new(
            Code::Internal,
            "The failure is in the log under this request's id.",
        )
    })?;
    Ok(bytes)
}
