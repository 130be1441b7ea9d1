//! What Redis knows of deliveries that are not finished, and what follows from it.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;
use zyven_domain::id::{DeliveryId, TenantId};
use zyven_queue::{BreakerState, ClaimedTicket, Lane, Queue, QueueError, TicketPlace, Whereabouts};
use zyven_store::{ExplainedDelivery, Explanation};

/// How long Redis may take to tell what it knows. An explanation without that is better than one that is late.
pub(super) const LANES_TIME_MAX: Duration = Duration::from_millis(500);

/// What Redis has told.
pub(super) struct Lanes {
    known: Known,
    found: HashMap<DeliveryId, Whereabouts>,
    /// Waits that Redis tells count from here.
    pub(super) asked_at: DateTime<Utc>,
}

/// Whether it was asked, and has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has.
    Yes,
    /// Nothing waits that it could know of.
    NotNeeded,
    /// It has not, or not about all.
    Away,
    /// Nobody has told this process where Redis is.
    NotConfigured,
}

impl Lanes {
    /// Asks about every delivery among these that is not finished. Never fails.
    pub(super) async fn ask(
        queue: Option<&Queue>,
        tenant: TenantId,
        explanations: &[Explanation],
    ) -> Self {
        let (waiting, tickets): (Vec<DeliveryId>, Vec<ClaimedTicket>) = explanations
            .iter()
            .filter_map(|explanation| {
                Some((explanation.endpoint_id, explanation.delivery.as_ref()?))
            })
            .filter(|(_, delivery)| !delivery.state.is_finished())
            .map(|(endpoint_id, delivery)| {
                let ticket = ClaimedTicket {
                    lane: Lane {
                        tenant_id: tenant,
                        endpoint_id,
                    },
                    seq: delivery.seq,
                    ordering_key: delivery.ordering_key,
                };
                (delivery.id, ticket)
            })
            .unzip();
        let (known, found) = match queue {
            _ if tickets.is_empty() => (Known::NotNeeded, Vec::new()),
            None => (Known::NotConfigured, Vec::new()),
            Some(queue) => match asked(queue, &tickets).await {
                Ok(found) if found.iter().all(Option::is_some) => (Known::Yes, found),
                Ok(found) => (Known::Away, found),
                Err(error) => {
                    tracing::debug!(%error, "Redis was not there for an explanation");
                    (Known::Away, Vec::new())
                }
            },
        };
        let found = waiting.into_iter().zip(found);
        Self {
            known,
            found: found.filter_map(|(id, found)| Some((id, found?))).collect(),
            asked_at: Utc::now(),
        }
    }

    /// As the API says it.
    pub(super) fn known(&self) -> &'static str {
        match self.known {
            Known::Yes => "known",
            Known::NotNeeded => "not_needed",
            Known::Away => "away",
            Known::NotConfigured => "not_configured",
        }
    }

    pub(super) fn of(&self, delivery: &ExplainedDelivery) -> Option<&Whereabouts> {
        self.found.get(&delivery.id)
    }
}

/// Dropped amid the question, the connection it used is not used again.
async fn asked(
    queue: &Queue,
    tickets: &[ClaimedTicket],
) -> Result<Vec<Option<Whereabouts>>, QueueError> {
    timeout(LANES_TIME_MAX, queue.whereabouts(tickets))
        .await
        .unwrap_or(Err(QueueError::NoAnswer))
}

/// What a delivery waits for, with what Redis knows taken into account.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waits<'a> {
    pub(super) code: &'a str,
    pub(super) sentence: &'a str,
    pub(super) next_attempt_at: Option<DateTime<Utc>>,
}

/// A lane's reason to hold a ticket back, and for how long as far as it is known.
type Hold = (&'static str, &'static str, Option<Duration>);

impl<'a> Waits<'a> {
    /// PostgreSQL's reason, unless the lane has one that holds for longer. What somebody has decided (a pause, an
    /// order, a status of the endpoint) and what is under way keeps its own.
    pub(super) fn of(
        delivery: &'a ExplainedDelivery,
        lane: Option<&Whereabouts>,
        now: DateTime<Utc>,
    ) -> Self {
        let own = Self {
            code: &delivery.code,
            sentence: &delivery.sentence,
            next_attempt_at: delivery.next_attempt_at,
        };
        let is_due = match own.code {
            "in_lane" => true,
            // Of a lease that has ended Redis may not know yet.
            "backoff" | "retry_after" | "deliver_at" | "replay_turn" | "released"
            | "lease_ended" => false,
            _ => return own,
        };
        let Some((code, sentence, wait)) = lane.and_then(|lane| hold(lane, is_due)) else {
            return own;
        };
        let until = wait.and_then(|wait| moment(now, wait));
        if !is_due && until <= own.next_attempt_at {
            return own;
        }
        Self {
            code,
            sentence,
            next_attempt_at: until,
        }
    }
}

/// What keeps the lane, or this ticket, from being served. Of a ticket that is not due, only the lane matters.
fn hold(lane: &Whereabouts, is_due: bool) -> Option<Hold> {
    let breaker_wait = match lane.lane.breaker {
        BreakerState::Open(wait) => Some(wait),
        BreakerState::Closed | BreakerState::HalfOpen => None,
    };
    let throttled_for = lane.lane.throttled_for;
    if breaker_wait.is_some() && breaker_wait >= throttled_for {
        return Some((
            "breaker_open",
            "Its endpoint has failed too often and is left alone; then one probe decides.",
            breaker_wait,
        ));
    }
    if throttled_for.is_some() {
        return Some((
            "throttled",
            "Its endpoint has answered 429 and is left alone for as long as it asked.",
            throttled_for,
        ));
    }
    if !is_due {
        return None;
    }
    let (code, sentence) = match lane.place {
        TicketPlace::Leased => (
            "being_claimed",
            "A dispatcher has taken it from its lane and is about to confirm that.",
        ),
        TicketPlace::Nowhere => (
            "ticket_missing",
            "A moment later there was no ticket for it: it has just been taken to its end, or the ticket is lost, and the relay's next walk replaces it.",
        ),
        TicketPlace::Chained { .. } => (
            "ticket_chained",
            "A moment later its ticket stood behind others with its ordering key, which are finished by now; its turn comes.",
        ),
        TicketPlace::Fresh { .. } | TicketPlace::Retries { .. } => match lane.lane.breaker {
            BreakerState::HalfOpen => (
                "breaker_probing",
                "Its endpoint has failed too often; one probe is to decide whether it is well again.",
            ),
            BreakerState::Open(_) | BreakerState::Closed => {
                if let Some(wait) = lane.next_token_in {
                    return Some((
                        "rate_limited",
                        "Its endpoint's rate_per_minute is used up for the moment.",
                        Some(wait),
                    ));
                }
                if lane.lane_is_full() {
                    (
                        "lane_full",
                        "Its endpoint has as many requests in flight as it may have now.",
                    )
                } else if lane.tenant_is_full {
                    (
                        "tenant_full",
                        "Its tenant has as many requests in flight as one tenant may have.",
                    )
                } else {
                    return None;
                }
            }
        },
    };
    Some((code, sentence, None))
}

/// `None` for what no calendar holds.
fn moment(now: DateTime<Utc>, wait: Duration) -> Option<DateTime<Utc>> {
    now.checked_add_signed(TimeDelta::from_std(wait).ok()?)
}

/// An endpoint's queue, and the delivery's place in it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Lane")]
pub(super) struct LaneView {
    /// `fresh`, `retries`, `in_order`, `leased` or `none`.
    #[schemars(example = &"fresh")]
    place: &'static str,
    /// 1 for what is handed out next of its place; null where there is no line.
    position: Option<u64>,
    /// Tickets that were not attempted yet.
    fresh: u64,
    /// Tickets that were.
    retries: u64,
    /// Requests under way.
    in_flight: u64,
    /// How many there may be.
    in_flight_max: u32,
    /// `closed`, `open` or `half_open`.
    #[schemars(example = &"closed")]
    breaker: &'static str,
    breaker_until: Option<DateTime<Utc>>,
    throttled_until: Option<DateTime<Utc>>,
    next_token_at: Option<DateTime<Utc>>,
}

impl LaneView {
    pub(super) fn of(found: &Whereabouts, now: DateTime<Utc>) -> Self {
        let at = |wait: Duration| moment(now, wait);
        let (place, position) = match found.place {
            TicketPlace::Fresh { position } => ("fresh", Some(position)),
            TicketPlace::Retries { position } => ("retries", Some(position)),
            TicketPlace::Chained { behind } => ("in_order", Some(behind + 1)),
            TicketPlace::Leased => ("leased", None),
            TicketPlace::Nowhere => ("none", None),
        };
        let (breaker, breaker_wait) = match found.lane.breaker {
            BreakerState::Closed => ("closed", None),
            BreakerState::Open(wait) => ("open", Some(wait)),
            BreakerState::HalfOpen => ("half_open", None),
        };
        Self {
            place,
            position,
            fresh: found.lane.fresh,
            retries: found.lane.retries,
            in_flight: found.lane.in_flight,
            in_flight_max: found.in_flight_max.min(found.lane.ramp.unwrap_or(u32::MAX)),
            breaker,
            breaker_until: breaker_wait.and_then(at),
            throttled_until: found.lane.throttled_for.and_then(at),
            next_token_at: found.next_token_in.and_then(at),
        }
    }
}
