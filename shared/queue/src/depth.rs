//! How much lies in Redis, and how lanes stand: for gauges and operators, and never for decisions.

use std::collections::{BTreeMap, BTreeSet};

use redis::Value;

use crate::connection::Question;
use crate::keys::{ID_LENGTH, Shard};
use crate::lane::{State, clock_us};
use crate::upkeep::{read, whole};
use crate::{BreakerState, LaneSettings, Queue, QueueError, SCRIPT_TICKETS_MAX};

/// How much lies in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Tickets in lanes, due or not.
    pub waiting: u64,
    /// Tickets dispatchers hold.
    pub leased: u64,
    /// Lanes with a ticket in them.
    pub lanes: u64,
    /// How the lanes stand that have a ticket in them or out.
    pub standings: Standings,
}

/// What keeps a lane from handing out all it has; of several things the first one in this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneStanding {
    /// Its owner has paused it.
    Paused,
    /// Its breaker is open: nothing is handed out.
    BreakerOpen,
    /// Its breaker lets one probe through, or has.
    BreakerHalfOpen,
    /// The endpoint has asked to be left alone for a while.
    Throttled,
    /// Its bucket of tokens is empty.
    RateLimited,
    /// It starts gently, after one of the above.
    Ramping,
    /// It has as many tickets out as it may.
    Full,
    /// Nothing does.
    Flowing,
}

impl LaneStanding {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Paused,
        Self::BreakerOpen,
        Self::BreakerHalfOpen,
        Self::Throttled,
        Self::RateLimited,
        Self::Ramping,
        Self::Full,
        Self::Flowing,
    ];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::BreakerOpen => "breaker_open",
            Self::BreakerHalfOpen => "breaker_half_open",
            Self::Throttled => "throttled",
            Self::RateLimited => "rate_limited",
            Self::Ramping => "ramping",
            Self::Full => "full",
            Self::Flowing => "flowing",
        }
    }
}

/// Lanes that stand alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alike {
    /// How many there are.
    pub lanes: u64,
    /// Tickets that wait in them.
    pub tickets: u64,
}

/// Lanes by how they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standings([Alike; LaneStanding::ALL.len()]);

impl Standings {
    /// Those that stand so.
    pub const fn of(&self, standing: LaneStanding) -> Alike {
        // The order of declaration is that of ALL.
        self.0[standing as usize]
    }

    const fn add(&mut self, standing: LaneStanding, tickets: u64) {
        let alike = &mut self.0[standing as usize];
        alike.lanes += 1;
        alike.tickets += tickets;
    }
}

/// Questions about each lane in [`Queue::depth`]: how many fresh tickets, how many retries.
const COUNTS: usize = 2;

impl Queue {
    /// Counts tickets and lanes, for gauges and operators. Not one moment's picture: other work goes on
    /// between its steps. Asks some questions per lane, so not more often than every few seconds. Tickets
    /// that wait for others of their chain are not among them.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn depth(&self) -> Result<Depth, QueueError> {
        let mut depth = Depth::default();
        for shard in self.shards.iter() {
            let mut leased = Question::command(shard, "ZCARD");
            leased.arg(&shard.leased);
            // Who has a ticket stands in line, or has all slots taken, hence something in flight.
            let mut in_flight = Question::command(shard, "HGETALL");
            in_flight.arg(&shard.in_flight);
            let mut questions = vec![leased, in_flight];
            questions.extend(shard.tenants.iter().map(|ring| whole(shard, ring)));
            let Some(answers) = self.connections.ask_one(&questions).await? else {
                continue;
            };
            let [leased, in_flight, fresh, retries] =
                <[Value; 4]>::try_from(answers).map_err(|_| QueueError::Nonsense)?;
            depth.leased += read::<u64>(leased)?;
            let (tenants, mut lanes): (BTreeMap<String, i64>, BTreeMap<String, i64>) =
                (read::<BTreeMap<String, i64>>(in_flight)?.into_iter())
                    .partition(|(name, _)| name.len() == ID_LENGTH);
            let mut tenants: BTreeSet<String> = tenants.into_keys().collect();
            tenants.extend(read::<Vec<String>>(fresh)?);
            tenants.extend(read::<Vec<String>>(retries)?);
            let tenants: Vec<String> = tenants.into_iter().collect();
            for part in tenants.chunks(SCRIPT_TICKETS_MAX) {
                let rings = part.iter().flat_map(|tenant| shard.lanes(tenant));
                let questions: Vec<Question> = rings.map(|ring| whole(shard, &ring)).collect();
                let answers = self.connections.ask_one(&questions).await?;
                for answer in answers.into_iter().flatten() {
                    for lane in read::<Vec<String>>(answer)? {
                        lanes.entry(lane).or_default();
                    }
                }
            }
            self.add_lanes(shard, &lanes, &mut depth).await?;
        }
        Ok(depth)
    }

    /// Adds these lanes, which have so many tickets out.
    async fn add_lanes(
        &self,
        shard: &Shard,
        lanes: &BTreeMap<String, i64>,
        depth: &mut Depth,
    ) -> Result<(), QueueError> {
        let lanes: Vec<(&String, u64)> = (lanes.iter())
            .map(|(lane, in_flight)| (lane, u64::try_from(*in_flight).unwrap_or_default()))
            .collect();
        for part in lanes.chunks(SCRIPT_TICKETS_MAX) {
            let Some(mut answers) = self.connections.ask_one(&questions(shard, part)).await? else {
                continue;
            };
            let nonsense = || QueueError::Nonsense;
            let now_us = clock_us(answers.pop().ok_or_else(nonsense)?)?;
            let states: Vec<Option<String>> = read(answers.pop().ok_or_else(nonsense)?)?;
            let settings: Vec<Option<String>> = read(answers.pop().ok_or_else(nonsense)?)?;
            let counts: Vec<u64> = answers.into_iter().map(read).collect::<Result<_, _>>()?;
            if [states.len(), settings.len(), counts.len() / COUNTS] != [part.len(); 3] {
                return Err(QueueError::Nonsense);
            }
            for (index, (_, in_flight)) in part.iter().enumerate() {
                let tickets: u64 = counts[COUNTS * index..][..COUNTS].iter().sum();
                depth.waiting += tickets;
                depth.lanes += u64::from(tickets > 0);
                if tickets > 0 || *in_flight > 0 {
                    let settings = settings[index].as_deref().and_then(LaneSettings::read);
                    let state = State::read(states[index].as_deref().unwrap_or_default());
                    let settings = settings.unwrap_or_default();
                    let standing = self.standing(&settings, &state, *in_flight, now_us);
                    depth.standings.add(standing, tickets);
                }
            }
        }
        Ok(())
    }

    fn standing(
        &self,
        settings: &LaneSettings,
        state: &State,
        in_flight: u64,
        now_us: u64,
    ) -> LaneStanding {
        let has_no_token =
            || (settings.rate).is_some_and(|rate| state.next_token_in(rate, now_us).is_some());
        let max = settings.in_flight_max(self.limits.lane_in_flight_max);
        match state.breaker(now_us) {
            _ if settings.is_paused => LaneStanding::Paused,
            BreakerState::Open(_) => LaneStanding::BreakerOpen,
            BreakerState::HalfOpen => LaneStanding::BreakerHalfOpen,
            BreakerState::Closed if state.throttled_for(now_us).is_some() => {
                LaneStanding::Throttled
            }
            BreakerState::Closed if has_no_token() => LaneStanding::RateLimited,
            BreakerState::Closed if state.ramp().is_some() => LaneStanding::Ramping,
            BreakerState::Closed if in_flight >= u64::from(max) => LaneStanding::Full,
            BreakerState::Closed => LaneStanding::Flowing,
        }
    }
}

/// How many tickets each lane has, then the settings of all, what all have learned, and Redis' clock.
fn questions(shard: &Shard, lanes: &[(&String, u64)]) -> Vec<Question> {
    let mut questions: Vec<Question> = (lanes.iter().flat_map(|(lane, _)| shard.tickets(lane)))
        .map(|key| {
            let mut count = Question::command(shard, "ZCARD");
            count.arg(key);
            count
        })
        .collect();
    let mut settings = Question::command(shard, "HMGET");
    settings.arg(&shard.settings);
    let mut states = Question::command(shard, "MGET");
    for (lane, _) in lanes {
        settings.arg(*lane);
        states.arg(shard.state(lane));
    }
    questions.extend([settings, states, Question::command(shard, "TIME")]);
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_standing_has_a_place_and_a_name_of_its_own() {
        let names: BTreeSet<&str> = LaneStanding::ALL.map(LaneStanding::as_str).into();
        assert_eq!(names.len(), LaneStanding::ALL.len());
        let mut standings = Standings::default();
        for (index, standing) in LaneStanding::ALL.into_iter().enumerate() {
            standings.add(standing, index as u64);
        }
        for (index, standing) in LaneStanding::ALL.into_iter().enumerate() {
            let alike = Alike {
                lanes: 1,
                tickets: index as u64,
            };
            assert_eq!(standings.of(standing), alike);
        }
    }
}
