//! Where single tickets are and what keeps them there: for explanations, and never for decisions.

use std::time::Duration;

use redis::Value;

use crate::connection::Question;
use crate::keys::{LaneName, Shard, TicketName};
use crate::lane::{State, clock_us};
use crate::upkeep::read;
use crate::{ClaimedTicket, LaneSettings, LaneStatus, Queue, QueueError};

/// Where a ticket lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketPlace {
    /// In its lane, among those that were not attempted before.
    Fresh {
        /// 1 for the one that is handed out next.
        position: u64,
    },
    /// In its lane, among those that were.
    Retries {
        /// Likewise.
        position: u64,
    },
    /// Behind others with its ordering key.
    Chained {
        /// How many come before it.
        behind: u64,
    },
    /// A dispatcher holds it.
    Leased,
    /// Nowhere: it is due later than [`crate::NEAR_WINDOW`], finished, not handed over yet, or lost, and is offered again.
    Nowhere,
}

/// A ticket's place, and what its lane may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// Where it lies.
    pub place: TicketPlace,
    /// What is going on in its lane.
    pub lane: LaneStatus,
    /// Tickets the lane may have out at the same time, its ramp left out.
    pub in_flight_max: u32,
    /// How long the lane's rate keeps it from handing out the next ticket.
    pub next_token_in: Option<Duration>,
    /// Whether the tenant has as many tickets out as it may.
    pub tenant_is_full: bool,
}

impl Whereabouts {
    /// Whether the lane has as many tickets out as it may.
    pub fn lane_is_full(&self) -> bool {
        let max = self.lane.ramp.unwrap_or(u32::MAX).min(self.in_flight_max);
        self.lane.in_flight >= u64::from(max)
    }
}

/// What is asked about one ticket.
const QUESTIONS: usize = 11;

impl Queue {
    /// Where these tickets are, in the same order; `None` for those whose node is [away](Queue::away). Not one moment's
    /// picture, and no more than hints: Postgres knows whether a delivery is finished. Asks eleven things about
    /// each, all at once, so for some hundreds at most.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn whereabouts(
        &self,
        tickets: &[ClaimedTicket],
    ) -> Result<Vec<Option<Whereabouts>>, QueueError> {
        let questions: Vec<Question> = (tickets.iter())
            .flat_map(|ticket| questions(&self.shards[self.shard_of(ticket.lane)], ticket))
            .collect();
        let mut answers = self.connections.ask(&questions).await?.into_iter();
        let mut found = Vec::with_capacity(tickets.len());
        for _ in tickets {
            let about_one: Vec<Option<Value>> = answers.by_ref().take(QUESTIONS).collect();
            let about_one: Option<Vec<Value>> = about_one.into_iter().collect();
            found.push(
                about_one
                    .map(|answers| self.read_whereabouts(answers))
                    .transpose()?,
            );
        }
        Ok(found)
    }

    fn read_whereabouts(&self, answers: Vec<Value>) -> Result<Whereabouts, QueueError> {
        let [
            fresh_rank,
            retries_rank,
            lease,
            chain_rank,
            fresh,
            retries,
            in_flight,
            tenant_in_flight,
            settings,
            state,
            time,
        ] = <[Value; QUESTIONS]>::try_from(answers).map_err(|_| QueueError::Nonsense)?;
        let number = |value| Ok::<u64, QueueError>(read::<Option<u64>>(value)?.unwrap_or_default());
        let text =
            |value| Ok::<String, QueueError>(read::<Option<String>>(value)?.unwrap_or_default());
        let is_leased = read::<Option<f64>>(lease)?.is_some();
        let ranks: (Option<u64>, Option<u64>, Option<u64>) =
            (read(fresh_rank)?, read(retries_rank)?, read(chain_rank)?);
        let place = match ranks {
            _ if is_leased => TicketPlace::Leased,
            (Some(before), ..) => TicketPlace::Fresh {
                position: before + 1,
            },
            (None, Some(before), _) => TicketPlace::Retries {
                position: before + 1,
            },
            (None, None, Some(behind @ 1..)) => TicketPlace::Chained { behind },
            (None, None, Some(0) | None) => TicketPlace::Nowhere,
        };
        let now_us = clock_us(time)?;
        let state = State::read(&text(state)?);
        let settings = LaneSettings::read(&text(settings)?).unwrap_or_default();
        Ok(Whereabouts {
            place,
            lane: LaneStatus {
                fresh: number(fresh)?,
                retries: number(retries)?,
                in_flight: number(in_flight)?,
                breaker: state.breaker(now_us),
                throttled_for: state.throttled_for(now_us),
                ramp: state.ramp(),
            },
            in_flight_max: settings.in_flight_max(self.limits.lane_in_flight_max),
            next_token_in: (settings.rate).and_then(|rate| state.next_token_in(rate, now_us)),
            tenant_is_full: number(tenant_in_flight)?
                >= u64::from(self.limits.tenant_in_flight_max),
        })
    }
}

/// In the order in which the answers are taken apart.
fn questions(shard: &Shard, ticket: &ClaimedTicket) -> [Question; QUESTIONS] {
    let lane = LaneName(ticket.lane).to_string();
    let tenant = ticket.lane.tenant_id.uuid().as_simple().to_string();
    let ClaimedTicket {
        seq, ordering_key, ..
    } = *ticket;
    let name = TicketName { seq, ordering_key }.to_string();
    let [fresh, retries] = shard.tickets(&lane);
    let ask = |command: &str, key: &str| {
        let mut question = Question::command(shard, command);
        question.arg(key);
        question
    };
    let of = |command: &str, key: &str, member: &str| {
        let mut question = ask(command, key);
        question.arg(member);
        question
    };
    [
        of("ZRANK", &fresh, &name),
        of("ZRANK", &retries, &name),
        of("ZSCORE", &shard.leased, &format!("{lane}:{name}")),
        // Without an ordering key there is no such chain.
        of("ZRANK", &shard.chain(&lane, ordering_key), &seq.to_string()),
        ask("ZCARD", &fresh),
        ask("ZCARD", &retries),
        of("HGET", &shard.in_flight, &lane),
        of("HGET", &shard.in_flight, &tenant),
        of("HGET", &shard.settings, &lane),
        ask("GET", &shard.state(&lane)),
        Question::command(shard, "TIME"),
    ]
}
