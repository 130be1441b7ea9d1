//! Taking tickets out of lanes and handing them back.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Script, Value};

use crate::connection::Question;
use crate::keys::{LaneName, Shard, TicketName};
use crate::push::{BELL_LENGTH_MAX, whole_ms};
use crate::{
    Claimed, ClaimedTicket, Completion, Lane, LaneEvent, Learned, NEAR_WINDOW, Next, Queue,
    QueueError, SCRIPT_TICKETS_MAX,
};

static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("../lua/lanes.lua"),
        include_str!("../lua/claim.lua")
    ))
});

/// Most expired leases one claim puts back, which is a dispatcher's death in a few calls.
const EXPIRED_MAX: u32 = 100;

/// A lane gives at least this many tickets per visit, if it has them: a visit costs Redis about as much
/// as four tickets, and a turn of eight is over before anybody could notice the wait.
const SHARE_MIN: u32 = 8;

impl Queue {
    /// Hands back `completions`, then takes up to `tickets_max` tickets (at most
    /// [`SCRIPT_TICKETS_MAX`] per shard) for `lease`. A ticket that is neither completed nor claimed
    /// again before the lease ends goes back to the front of its lane; a lease a little longer than the
    /// one taken in Postgres spares a refused claim then. With `tickets_max` 0 it only hands back.
    ///
    /// Returns nothing while Redis has no epoch, that is, until the relay has noticed that Redis was
    /// emptied; completions are then forgotten, as there is nothing left to complete.
    ///
    /// A node of a cluster that does not answer, or refuses, keeps its completions back and gives no tickets; that is an
    /// error only if no other node answers either.
    ///
    /// Not cancel-safe: tickets claimed by a call that was dropped stay away until the lease ends.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]. Repeat the completions with the next claim: handing back twice is harmless.
    pub async fn claim(
        &self,
        tickets_max: usize,
        lease: Duration,
        completions: &[Completion],
    ) -> Result<Claimed, QueueError> {
        let mut returned: Vec<Vec<Completion>> = vec![Vec::new(); self.shards.len()];
        for completion in completions {
            returned[self.shard_of(completion.ticket.lane)].push(*completion);
        }
        for returned in &mut returned {
            returned.sort_by_key(|it| (it.ticket, it.next == Next::Done));
            // What is given back twice in one breath would free two slots.
            returned.dedup_by_key(|it| it.ticket);
        }
        let shares = self.shares(tickets_max);
        let mut questions = Vec::with_capacity(self.shards.len());
        let mut handed = Vec::with_capacity(self.shards.len());
        let mut decisive = Vec::with_capacity(self.shards.len());
        for (index, shard) in self.shards.iter().enumerate() {
            let mut returned = returned[index].as_slice();
            while returned.len() > SCRIPT_TICKETS_MAX {
                let (part, rest) = returned.split_at(SCRIPT_TICKETS_MAX);
                questions.push(self.claim_question(shard, 0, lease, part));
                handed.push(part);
                returned = rest;
            }
            decisive.push(questions.len());
            questions.push(self.claim_question(shard, shares[index], lease, returned));
            handed.push(returned);
        }

        let answers = self.connections.ask_each(&questions).await;
        if answers.iter().all(Result::is_err) {
            return Err((answers.into_iter().find_map(Result::err)).expect("there is a shard"));
        }
        let mut claimed = Claimed::default();
        let mut plenty = Vec::new();
        let mut decisive = decisive.into_iter().enumerate().peekable();
        for (question, answer) in answers.iter().enumerate() {
            let Ok(answer) = answer else {
                claimed.kept_back.extend_from_slice(handed[question]);
                decisive.next_if(|(_, decisive)| *decisive == question);
                continue;
            };
            // Those that only hand back may bring events.
            let next = read(answer, &mut claimed)?;
            let Some((index, _)) = decisive.next_if(|(_, decisive)| *decisive == question) else {
                continue;
            };
            if next == Some(Duration::ZERO) && shares[index] < SCRIPT_TICKETS_MAX {
                plenty.push(index);
            } else {
                claimed.next_due_in = sooner(claimed.next_due_in, next);
            }
        }
        self.claim_the_rest(tickets_max, lease, &plenty, &mut claimed)
            .await?;
        Ok(claimed)
    }

    /// Gives tickets back whose holder has died, without waiting for their leases to end: the slots they
    /// took are free. Those that Redis does not take for leased, having lost its part of the lease, go where
    /// they are told all the same.
    ///
    /// Returns those that a node of a cluster has not taken: they are to be given back again.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]. Repeat it: giving back twice is harmless.
    pub async fn give_back(
        &self,
        tickets: &[(ClaimedTicket, Next)],
    ) -> Result<Vec<(ClaimedTicket, Next)>, QueueError> {
        let mut kept_back = Vec::new();
        for tickets in tickets.chunks(SCRIPT_TICKETS_MAX) {
            let back: Vec<Completion> = (tickets.iter())
                .map(|(ticket, next)| Completion {
                    ticket: *ticket,
                    learned: Learned::OwnerDied,
                    next: *next,
                })
                .collect();
            let claimed = self.claim(0, Duration::ZERO, &back).await?;
            kept_back.extend((claimed.kept_back.iter()).map(|back| (back.ticket, back.next)));
        }
        Ok(kept_back)
    }

    /// With several shards the first round asks each for an equal share. What one could not give, those
    /// with more than their share are asked for.
    async fn claim_the_rest(
        &self,
        tickets_max: usize,
        lease: Duration,
        plenty: &[usize],
        claimed: &mut Claimed,
    ) -> Result<(), QueueError> {
        let missing = tickets_max.saturating_sub(claimed.tickets.len());
        if plenty.is_empty() || missing == 0 || self.shards.len() == 1 {
            if !plenty.is_empty() {
                claimed.next_due_in = Some(Duration::ZERO);
            }
            return Ok(());
        }
        let share = missing.div_ceil(plenty.len()).min(SCRIPT_TICKETS_MAX);
        let mut left = missing;
        let mut questions = Vec::new();
        for shard in plenty {
            let share = share.min(left);
            left -= share;
            questions.push(self.claim_question(&self.shards[*shard], share, lease, &[]));
        }
        // What is claimed already is not to be lost for a node that fails now.
        let answers = self.connections.ask_each(&questions).await;
        for answer in answers.into_iter().filter_map(Result::ok) {
            let next = read(&answer, claimed)?;
            claimed.next_due_in = sooner(claimed.next_due_in, next);
        }
        Ok(())
    }

    /// Each shard's share of `tickets_max`. The odd ones go to another shard each time.
    fn shares(&self, tickets_max: usize) -> Vec<usize> {
        let shards = self.shards.len();
        let first = self.first_shard.fetch_add(1, Ordering::Relaxed) % shards;
        let odd = tickets_max % shards;
        (0..shards)
            .map(|shard| {
                let is_favoured = (shard + shards - first) % shards < odd;
                (tickets_max / shards + usize::from(is_favoured)).min(SCRIPT_TICKETS_MAX)
            })
            .collect()
    }

    fn claim_question(
        &self,
        shard: &Shard,
        tickets_max: usize,
        lease: Duration,
        completions: &[Completion], // sorted by lane
    ) -> Question {
        let mut question = self.script(&CLAIM, shard, 7 + 8 * completions.len());
        question
            .arg(tickets_max)
            .arg(whole_ms(lease))
            .arg(BELL_LENGTH_MAX)
            .arg(EXPIRED_MAX)
            .arg(SHARE_MIN)
            .arg(whole_ms(self.limits.breaker_open_min));
        for lane in completions.chunk_by(|one, other| one.ticket.lane == other.ticket.lane) {
            let is_plain = |it: &&Completion| it.is_plain();
            let plain = lane.iter().filter(is_plain).count();
            question
                .arg(LaneName(lane[0].ticket.lane).to_string())
                .arg(plain)
                .arg(lane.len() - plain);
            for completion in lane.iter().filter(is_plain) {
                name_ticket(&mut question, completion.ticket);
            }
            for completion in lane.iter().filter(|it| !it.is_plain()) {
                name_ticket(&mut question, completion.ticket);
                let (learned, learned_ms) = completion.learned.code();
                let (next, next_ms) = completion.next.code(completion.ticket);
                question.arg(learned).arg(learned_ms).arg(next).arg(next_ms);
            }
        }
        question
    }
}

fn name_ticket(question: &mut Question, ticket: ClaimedTicket) {
    let ClaimedTicket {
        seq, ordering_key, ..
    } = ticket;
    match ordering_key {
        0 => question.arg(seq),
        _ => question.arg(TicketName { seq, ordering_key }.to_string()),
    };
}

impl Completion {
    /// Delivered and done, like most.
    fn is_plain(&self) -> bool {
        self.learned == Learned::Succeeded && self.next == Next::Done
    }
}

impl Learned {
    /// As `claim.lua` has it.
    fn code(self) -> (&'static str, u64) {
        match self {
            Self::Succeeded => ("s", 0),
            Self::Failed => ("f", 0),
            Self::Throttled(wait) => ("t", whole_ms(wait)),
            Self::Answered => ("n", 0),
            Self::NothingSent => ("u", 0),
            Self::OwnerDied => ("x", 0),
        }
    }
}

impl Next {
    /// As `claim.lua` has it. What is far away is left to Postgres; in a chain it keeps its place.
    fn code(self, ticket: ClaimedTicket) -> (&'static str, u64) {
        match self {
            Self::Later(wait) | Self::Retry(wait) if wait > NEAR_WINDOW => {
                match ticket.ordering_key {
                    0 => ("d", 0),
                    _ => ("k", 0),
                }
            }
            Self::Done => ("d", 0),
            Self::Later(wait) => ("f", whole_ms(wait)),
            Self::Retry(wait) => ("r", whole_ms(wait)),
            Self::First => ("e", 0),
            Self::Back => ("p", 0),
            Self::Blocked(wait) => ("b", whole_ms(wait.min(NEAR_WINDOW))),
        }
    }
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Reads what `claim.lua` returned: adds tickets and events, returns the time until there may be more.
fn read(answer: &Value, claimed: &mut Claimed) -> Result<Option<Duration>, QueueError> {
    let Value::Array(items) = answer else {
        return Err(QueueError::Nonsense);
    };
    let mut items = items.iter();
    let Some(next_us) = items.next() else {
        return Ok(None); // no epoch
    };
    let next_us = number(Some(next_us))?;
    for _ in 0..number(items.next())? {
        let lane = lane(items.next())?;
        let event = items.next().and_then(text);
        let wait_ms = number(items.next())?.unsigned_abs();
        claimed.events.push(match event {
            Some(b"o") => LaneEvent::Opened(lane, Duration::from_millis(wait_ms)),
            Some(b"p") => LaneEvent::ProbeFailed(lane, Duration::from_millis(wait_ms)),
            Some(b"c") => LaneEvent::Closed(lane),
            _ => return Err(QueueError::Nonsense),
        });
    }
    while let Some(name) = items.next() {
        let lane = lane(Some(name))?;
        for _ in 0..number(items.next())? {
            let name = items.next().and_then(text).and_then(TicketName::parse);
            let TicketName { seq, ordering_key } = name.ok_or(QueueError::Nonsense)?;
            claimed.tickets.push(ClaimedTicket {
                lane,
                seq,
                ordering_key,
            });
        }
    }
    Ok(u64::try_from(next_us).ok().map(Duration::from_micros))
}

fn lane(value: Option<&Value>) -> Result<Lane, QueueError> {
    value
        .and_then(text)
        .and_then(LaneName::parse)
        .ok_or(QueueError::Nonsense)
}

fn number(value: Option<&Value>) -> Result<i64, QueueError> {
    match value {
        Some(Value::Int(number)) => Ok(*number),
        _ => Err(QueueError::Nonsense),
    }
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}
