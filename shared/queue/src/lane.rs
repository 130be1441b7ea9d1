//! A lane's limits, and what is going on in it.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis::{Script, Value};
use zyven_domain::id::{EndpointId, TenantId};

use crate::connection::Question;
use crate::keys::LaneName;
use crate::upkeep::read;
use crate::{Epoch, Pushed, Queue, QueueError, SCRIPT_TICKETS_MAX};

static CONFIGURE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("../lua/lanes.lua"),
        include_str!("../lua/configure.lua")
    ))
});

/// An endpoint's own queue of tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Whose it is: tenants take turns, and each has a share of what may be in flight.
    pub tenant_id: TenantId,
    /// Where its deliveries go.
    pub endpoint_id: EndpointId,
}

/// What an endpoint may be asked to bear.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LaneSettings {
    /// Tickets out at the same time; `None`: [`crate::QueueConfig::lane_in_flight_max`], which is also the
    /// most there can be.
    pub in_flight_max: Option<u32>,
    /// A bucket of tokens, of which each ticket that is handed out takes one.
    pub rate: Option<Rate>,
    /// Whether its tickets stay where they are.
    pub is_paused: bool,
}

/// A bucket of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens that come in a second.
    pub per_s: f64,
    /// Tokens it holds.
    pub burst: u32,
}

/// Where a lane's breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Deliveries flow.
    Closed,
    /// Nothing is sent for this long.
    Open(Duration),
    /// One probe may be sent, or is under way.
    HalfOpen,
}

/// What is going on in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStatus {
    /// Tickets in the lane that were not attempted before, due or not.
    pub fresh: u64,
    /// Tickets in the lane that were.
    pub retries: u64,
    /// Tickets that dispatchers hold.
    pub in_flight: u64,
    /// The breaker.
    pub breaker: BreakerState,
    /// How long the endpoint has asked to be left alone.
    pub throttled_for: Option<Duration>,
    /// Tickets that may be out at the same time, while that grows from little to the limit.
    pub ramp: Option<u32>,
}

/// Scripts of [`Queue::configure`] that are sent together.
const PARTS_AT_ONCE: usize = 4;
/// Settings that [`Queue::configured`] reads together, roughly.
const SETTINGS_AT_ONCE: usize = 1_000;

impl LaneSettings {
    /// How many tickets may be out at the same time, where `most` is what the deployment allows.
    pub(crate) fn in_flight_max(&self, most: u32) -> u32 {
        self.in_flight_max.map_or(most, |max| max.min(most))
    }

    /// Nothing that the deployment's limits do not say already.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What [`LaneSettings::text`] has written.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let [max, per_s, burst, paused] =
            <[&str; 4]>::try_from(text.split(' ').collect::<Vec<_>>()).ok()?;
        Some(Self {
            in_flight_max: max.parse().ok(),
            rate: (per_s.parse().ok().zip(burst.parse().ok()))
                .map(|(per_s, burst)| Rate { per_s, burst }),
            is_paused: paused == "1",
        })
    }

    /// As `lanes.lua` reads it.
    fn text(&self) -> String {
        if self.is_default() {
            return String::new();
        }
        let or_none = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
        format!(
            "{} {} {} {}",
            or_none(self.in_flight_max.map(|max| max.to_string())),
            or_none(self.rate.map(|rate| rate.per_s.to_string())),
            or_none(self.rate.map(|rate| rate.burst.to_string())),
            u8::from(self.is_paused)
        )
    }
}

impl Queue {
    /// Tells lanes their limits, and lets go what a pause has held back. Idempotent. An emptied Redis has
    /// forgotten them: whoever begins an epoch tells them first.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]. Some lanes may have been told; tell them again.
    pub async fn configure(
        &self,
        lanes: &[(Lane, LaneSettings)],
        epoch: &Epoch,
    ) -> Result<Pushed, QueueError> {
        let mut by_shard: Vec<Vec<&(Lane, LaneSettings)>> = vec![Vec::new(); self.shards.len()];
        for lane in lanes {
            by_shard[self.shard_of(lane.0)].push(lane);
        }
        let mut questions = Vec::new();
        for (shard, lanes) in self.shards.iter().zip(by_shard) {
            for part in lanes.chunks(SCRIPT_TICKETS_MAX) {
                let mut question = self.script(&CONFIGURE, shard, 1 + 2 * part.len());
                question.arg(&epoch.0);
                for (lane, settings) in part {
                    question
                        .arg(LaneName(*lane).to_string())
                        .arg(settings.text());
                }
                questions.push(question);
            }
        }
        // A few at a time: an answer is waited for no longer than that of any other operation.
        for questions in questions.chunks(PARTS_AT_ONCE) {
            for answer in self.connections.ask(questions).await?.into_iter().flatten() {
                match answer {
                    Value::Int(-1) => return Ok(Pushed::EpochLost),
                    Value::Int(_) => {}
                    _ => return Err(QueueError::Nonsense),
                }
            }
        }
        Ok(Pushed::Accepted { added: lanes.len() })
    }

    /// All lanes that were told limits, and which.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn configured(&self) -> Result<HashMap<Lane, LaneSettings>, QueueError> {
        let mut configured = HashMap::new();
        for shard in self.shards.iter() {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = Question::command(shard, "HSCAN");
                scan.arg(&shard.settings).arg(&cursor);
                scan.arg("COUNT").arg(SETTINGS_AT_ONCE);
                let Some(answer) = self.connections.ask_one(&[scan]).await? else {
                    break;
                };
                let [answer] = <[Value; 1]>::try_from(answer).map_err(|_| QueueError::Nonsense)?;
                let (next, page): (String, Vec<(String, String)>) = read(answer)?;
                for (name, text) in page {
                    // What nobody here has written is overwritten as soon as its lane has a limit.
                    let lane = LaneName::parse(name.as_bytes());
                    if let (Some(lane), Some(settings)) = (lane, LaneSettings::read(&text)) {
                        configured.insert(lane, settings);
                    }
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(configured)
    }

    /// What is going on in a lane, for operators and explanations.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn lane(&self, lane: Lane) -> Result<LaneStatus, QueueError> {
        let shard = &self.shards[self.shard_of(lane)];
        let name = LaneName(lane).to_string();
        let mut questions: Vec<Question> = (shard.tickets(&name).iter())
            .map(|key| {
                let mut count = Question::command(shard, "ZCARD");
                count.arg(key);
                count
            })
            .collect();
        let mut in_flight = Question::command(shard, "HGET");
        in_flight.arg(&shard.in_flight).arg(&name);
        let mut state = Question::command(shard, "GET");
        state.arg(shard.state(&name));
        questions.extend([in_flight, state]);
        questions.push(Question::command(shard, "TIME"));
        let answers = self.connections.ask_one(&questions).await?;
        let answers = answers.ok_or_else(|| self.away().unwrap_or(QueueError::NoAnswer))?;
        let [fresh, retries, in_flight, state, time] =
            <[Value; 5]>::try_from(answers).map_err(|_| QueueError::Nonsense)?;
        let now_us = clock_us(time)?;
        let state = State::read(&read::<Option<String>>(state)?.unwrap_or_default());
        Ok(LaneStatus {
            fresh: read(fresh)?,
            retries: read(retries)?,
            in_flight: read::<Option<u64>>(in_flight)?.unwrap_or_default(),
            breaker: state.breaker(now_us),
            throttled_for: state.throttled_for(now_us),
            ramp: state.ramp(),
        })
    }
}

/// What `lanes.lua` writes of a lane's state, as far as anybody asks.
#[derive(Default)]
pub(crate) struct State {
    opens_at_ms: u64,
    ramp: u32,
    throttled_ms: u64,
    tokens: Option<(f64, u64)>,
}

impl State {
    pub(crate) fn read(text: &str) -> Self {
        let fields: Vec<&str> = text.split(' ').collect();
        let number = |index: usize| {
            let field = fields.get(index).and_then(|field| field.parse().ok());
            field.unwrap_or_default()
        };
        let tokens = fields.get(10).and_then(|field| field.parse().ok());
        Self {
            opens_at_ms: number(4),
            ramp: u32::try_from(number(8)).unwrap_or(u32::MAX),
            throttled_ms: number(9),
            tokens: tokens.map(|tokens| (tokens, number(11))),
        }
    }

    pub(crate) fn breaker(&self, now_us: u64) -> BreakerState {
        match self.opens_at_ms {
            0 => BreakerState::Closed,
            opens_at_ms => match left(opens_at_ms, now_us) {
                Some(wait) => BreakerState::Open(wait),
                None => BreakerState::HalfOpen,
            },
        }
    }

    pub(crate) fn throttled_for(&self, now_us: u64) -> Option<Duration> {
        left(self.throttled_ms, now_us)
    }

    pub(crate) fn ramp(&self) -> Option<u32> {
        (self.ramp > 0).then_some(self.ramp)
    }

    /// How long until the bucket holds a whole token; `None` if it does. As `lanes.lua` counts.
    pub(crate) fn next_token_in(&self, rate: Rate, now_us: u64) -> Option<Duration> {
        let (tokens, counted_us) = self.tokens?;
        let since = Duration::from_micros(now_us.saturating_sub(counted_us));
        let tokens = tokens + since.as_secs_f64() * rate.per_s;
        let wait = Duration::try_from_secs_f64((1.0 - tokens) / rate.per_s).ok()?;
        (!wait.is_zero()).then_some(wait)
    }
}

/// The time left until a millisecond of Redis' clock; `None` if it has passed.
fn left(until_ms: u64, now_us: u64) -> Option<Duration> {
    let left = until_ms.saturating_sub(now_us / 1_000);
    (left > 0).then(|| Duration::from_millis(left))
}

/// Redis' clock, as `TIME` tells it.
pub(crate) fn clock_us(time: Value) -> Result<u64, QueueError> {
    let (seconds, us): (u64, u64) = read(time)?;
    Ok(seconds * 1_000_000 + us)
}
