//! Taking tickets out of lanes and handing them back.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Script, Value};
use zyven_domain::id::EndpointId;

use crate::connection::Question;
use crate::keys::{LaneName, Shard};
use crate::push::{BELL_LENGTH_MAX, whole_ms};
use crate::{
    Claimed, ClaimedTicket, Completion, NEAR_WINDOW, Queue, QueueError, SCRIPT_TICKETS_MAX,
};

static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/claim.lua")));

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
            returned[self.shard_of(completion.endpoint_id())].push(*completion);
        }
        for returned in &mut returned {
            returned.sort_by_key(|it| (it.endpoint_id(), it.seq(), stays(it).is_none()));
            // What is given back twice in one breath would free two slots.
            returned.dedup_by_key(|it| (it.endpoint_id(), it.seq()));
        }
        let shares = self.shares(tickets_max);
        let mut questions = Vec::with_capacity(self.shards.len());
        let mut decisive = Vec::with_capacity(self.shards.len());
        for (index, shard) in self.shards.iter().enumerate() {
            let mut returned = returned[index].as_slice();
            while returned.len() > SCRIPT_TICKETS_MAX {
                let (part, rest) = returned.split_at(SCRIPT_TICKETS_MAX);
                questions.push(self.claim_question(shard, 0, lease, part));
                returned = rest;
            }
            decisive.push(questions.len());
            questions.push(self.claim_question(shard, shares[index], lease, returned));
        }

        let answers = self.connections.ask(&questions).await?;
        let mut claimed = Claimed::default();
        let mut plenty = Vec::new();
        for (index, question) in decisive.into_iter().enumerate() {
            let next = read(&answers[question], &mut claimed.tickets)?;
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
        for answer in self.connections.ask(&questions).await? {
            let next = read(&answer, &mut claimed.tickets)?;
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
        let arguments = 8 + 4 * completions.len();
        let mut question = Question::script(&CLAIM, &shard.script_keys(), arguments);
        question
            .arg(&shard.lane_prefix)
            .arg(tickets_max)
            .arg(whole_ms(lease))
            .arg(self.lane_in_flight_max)
            .arg(BELL_LENGTH_MAX)
            .arg(EXPIRED_MAX)
            .arg(SHARE_MIN);

        let lanes = || {
            completions
                .chunk_by(|one, other| one.endpoint_id() == other.endpoint_id())
                .map(|lane| (LaneName(lane[0].endpoint_id()).to_string(), lane))
        };
        question.arg(completions.len());
        let mut member = String::with_capacity(56);
        for (name, lane) in lanes() {
            for completion in lane {
                member.clear();
                write!(member, "{name}:{}", completion.seq())
                    .expect("a String takes all that is written to it");
                question.arg(&member);
            }
        }
        for (name, lane) in lanes() {
            question.arg(&name).arg(lane.len());
            question.arg(lane.iter().filter_map(stays).count());
            for (due_in, seq) in lane.iter().filter_map(stays) {
                question.arg(whole_ms(due_in)).arg(seq);
            }
        }
        question
    }
}

impl Completion {
    /// Sequence number of the outbox row.
    pub fn seq(&self) -> i64 {
        match self {
            Self::Done(seq, _) | Self::Later { seq, .. } => *seq,
        }
    }

    /// The lane the ticket came from.
    pub fn endpoint_id(&self) -> EndpointId {
        match self {
            Self::Done(_, endpoint_id) | Self::Later { endpoint_id, .. } => *endpoint_id,
        }
    }
}

fn stays(completion: &Completion) -> Option<(Duration, i64)> {
    match completion {
        Completion::Later { seq, due_in, .. } if *due_in <= NEAR_WINDOW => Some((*due_in, *seq)),
        Completion::Later { .. } | Completion::Done(..) => None,
    }
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Reads what `claim.lua` returned: adds the tickets, returns the time until there may be more.
fn read(answer: &Value, tickets: &mut Vec<ClaimedTicket>) -> Result<Option<Duration>, QueueError> {
    let Value::Array(items) = answer else {
        return Err(QueueError::Nonsense);
    };
    let mut items = items.iter();
    let next_us = match items.next() {
        None => return Ok(None), // no epoch
        Some(Value::Int(next_us)) => *next_us,
        Some(_) => return Err(QueueError::Nonsense),
    };
    while let Some(lane) = items.next() {
        let endpoint_id = text(lane)
            .and_then(LaneName::parse)
            .ok_or(QueueError::Nonsense)?;
        let Some(Value::Int(count)) = items.next() else {
            return Err(QueueError::Nonsense);
        };
        for _ in 0..*count {
            let seq = items
                .next()
                .and_then(text)
                .and_then(|text| str::from_utf8(text).ok())
                .and_then(|text| text.parse().ok())
                .ok_or(QueueError::Nonsense)?;
            tickets.push(ClaimedTicket { seq, endpoint_id });
        }
    }
    Ok(u64::try_from(next_us).ok().map(Duration::from_micros))
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}
