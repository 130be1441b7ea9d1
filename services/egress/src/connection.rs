//! One connection from a caller: asked, decided, answered, and if all is well relayed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zyven_domain::handshake::WORKING;
use zyven_domain::target::{Authority, EgressReason, NamePolicy, Objection};
use zyven_runtime::shutdown::Shutdown;

use crate::credential::Credential;
use crate::decision::Decision;
use crate::dial::{Dialer, Dialled};
use crate::head;
use crate::refusal::{self, Refusal};
use crate::slots::{Slot, Slots};
use crate::statistics::Statistics;
use crate::tunnel::{self, TunnelLimits};

const OPENED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// How long a caller that wants the answer within a time hears nothing. Nearly every decision is faster,
/// so that the interim answer usually costs no packet.
const WORKING_AFTER: Duration = Duration::from_millis(500);
/// How long a caller may take to fetch those few bytes.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// What all connections share.
pub(crate) struct Proxy {
    pub(crate) credential: Credential,
    pub(crate) names: NamePolicy,
    pub(crate) dialer: Dialer,
    pub(crate) slots: Arc<Slots>,
    pub(crate) head_timeout: Duration,
    pub(crate) tunnel_limits: TunnelLimits,
    pub(crate) statistics: Statistics,
}

/// An open way to the endpoint, and the place it takes.
struct Opened {
    endpoint: Dialled,
    slot: Slot,
}

impl Proxy {
    /// Serves a connection to its end. Dropping the future closes it.
    pub(crate) async fn serve(&self, mut caller: TcpStream, stop: Shutdown) {
        let mut decision = Decision::begin();
        let opened = match self.decide(&mut caller, &mut decision).await {
            Ok(Some(opened)) => opened,
            Ok(None) => return,
            Err(refusal) => {
                decision.refused(&refusal, &self.statistics);
                refusal::send(&refusal, &mut caller).await;
                return;
            }
        };
        decision.opened(opened.endpoint.class, &self.statistics);
        self.relay(caller, opened, stop).await;
    }

    /// The policy, in order. Each step costs more than the one before, and a stranger gets no further
    /// than the second: no name server hears of a target whose caller has no credential. `None` if the
    /// caller left without asking.
    async fn decide(
        &self,
        caller: &mut TcpStream,
        decision: &mut Decision,
    ) -> Result<Option<Opened>, Refusal> {
        let Some(request) = head::read(caller, self.head_timeout).await? else {
            return Ok(None);
        };
        if request.method != "CONNECT" {
            return Err(Refusal::new(
                EgressReason::MethodNotAllowed,
                "this proxy speaks CONNECT only",
            ));
        }
        if !self.credential.is_presented_by(&request) {
            return Err(Refusal::new(
                EgressReason::CredentialInvalid,
                "the proxy credential is missing or wrong",
            ));
        }
        let target =
            Authority::parse_with(&request.target, &self.names).inspect_err(|error| match error
                .objection()
            {
                Objection::Malformed => {}
                Objection::Host | Objection::Port => decision.about_denied(&request.target),
            })?;
        decision.about(&target);
        let slot = self
            .slots
            .take(target.host())
            .map_err(|reason| Refusal::new(reason, "too many tunnels are open"))?;
        let endpoint = self.dial(caller, &target, request.within).await?;
        Ok(Some(Opened { endpoint, slot }))
    }

    /// Dials, and tells a caller who asked for it that this takes a while.
    async fn dial(
        &self,
        caller: &mut TcpStream,
        target: &Authority,
        within: Option<Duration>,
    ) -> Result<Dialled, Refusal> {
        let mut dialling = pin!(self.dialer.dial(target, within));
        if within.is_none() {
            return dialling.await;
        }
        if let Ok(dialled) = timeout(WORKING_AFTER, dialling.as_mut()).await {
            return dialled;
        }
        // A few bytes for an empty buffer. Should they not fit, the caller has not read for long, and
        // will miss the final answer as well.
        if let Err(error) = caller.try_write(WORKING.as_bytes()) {
            tracing::debug!(%error, "could not say that the decision takes a while");
        }
        dialling.await
    }

    async fn relay(&self, mut caller: TcpStream, opened: Opened, stop: Shutdown) {
        let Opened { endpoint, slot } = opened;
        let answered = async {
            caller.set_nodelay(true)?;
            caller.write_all(OPENED).await
        };
        match timeout(OPENED_WITHIN, answered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "the caller left before its tunnel was open");
                return;
            }
            Err(_elapsed) => return,
        }
        let relayed = tunnel::relay(
            caller,
            endpoint.stream,
            &self.tunnel_limits,
            stop.requested(),
        )
        .await;
        drop(slot);
        self.statistics.tunnel_ended(&relayed);
        tracing::debug!(
            end = relayed.end.as_str(),
            to_endpoint_bytes = relayed.to_endpoint_bytes,
            to_caller_bytes = relayed.to_caller_bytes,
            "tunnel ended"
        );
    }
}
