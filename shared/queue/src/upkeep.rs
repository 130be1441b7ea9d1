//! Epochs, repair and memory: what is asked for now and then.

use std::sync::LazyLock;

use redis::{FromRedisValue, Script, Value};
use uuid::Uuid;

use crate::connection::Question;
use crate::keys::{LaneName, Shard, TicketName};
use crate::{ClaimedTicket, Epoch, Queue, QueueError};

static MEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("../lua/lanes.lua"),
        include_str!("../lua/mend.lua")
    ))
});

/// How full a Redis server is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What it uses.
    pub used_bytes: u64,
    /// What it may use, 0 for no limit.
    pub max_bytes: u64,
    /// Whether it throws keys away when it is full. Tickets would have to be found again all the time.
    pub evicts: bool,
}

impl Memory {
    /// Reads `INFO memory`. What a server does not tell is 0.
    fn read(info: &str) -> Self {
        let value = |name: &str| {
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim()
        };
        let number = |name| value(name).parse().unwrap_or_default();
        let max_bytes = number("maxmemory");
        Self {
            used_bytes: number("used_memory"),
            max_bytes,
            evicts: max_bytes > 0 && !matches!(value("maxmemory_policy"), "noeviction" | ""),
        }
    }

    /// Of a thousand.
    fn share(&self) -> u64 {
        match self.max_bytes {
            0 => 0,
            max => self.used_bytes.saturating_mul(1_000) / max,
        }
    }
}

impl Queue {
    /// The epoch all shards agree on whose node is not [away](Queue::away); `None` if one has lost it, or
    /// they differ.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn epoch(&self) -> Result<Option<Epoch>, QueueError> {
        let get = |shard: &Shard| {
            let mut get = Question::command(shard, "GET");
            get.arg(&shard.epoch);
            get
        };
        let epochs: Vec<Option<String>> = self.ask_each_shard(get).await?;
        // Without a first one the nodes have gone and come back amid the question.
        let first = epochs.first().cloned().ok_or(QueueError::NoAnswer)?;
        let is_agreed = epochs.iter().all(|epoch| *epoch == first);
        Ok(first.filter(|_| is_agreed).map(Epoch))
    }

    /// Begins a new epoch on every shard whose node is not [away](Queue::away): claims are served and pushes
    /// under it accepted from now on. The caller now owes Redis a ticket for every outbox row. Tickets that
    /// are still there stay.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]. Some shards may have begun it; begin another one.
    pub async fn begin_epoch(&self) -> Result<Epoch, QueueError> {
        let epoch = Epoch(Uuid::now_v7().simple().to_string());
        let set = |shard: &Shard| {
            let mut set = Question::command(shard, "SET");
            set.arg(&shard.epoch).arg(&epoch.0);
            set
        };
        let _: Vec<Value> = self.ask_each_shard(set).await?;
        Ok(epoch)
    }

    /// Makes the number of tickets each lane and each tenant has out agree with the tickets that are really
    /// out. They differ only after Redis has lost some of its keys and kept others; a lane would then stay
    /// closed for ever. Returns the number of lanes and tenants put right. Costs next to nothing if all is
    /// well.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn mend(&self) -> Result<u64, QueueError> {
        let mend = |shard: &Shard| self.script(&MEND, shard, 0);
        let mended: Vec<u64> = self.ask_each_shard(mend).await?;
        Ok(mended.iter().sum())
    }

    /// The tickets that dispatchers hold, whoever they are. Not one moment's picture.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn held(&self) -> Result<Vec<ClaimedTicket>, QueueError> {
        let leased = |shard: &Shard| whole(shard, &shard.leased);
        let members: Vec<Vec<String>> = self.ask_each_shard(leased).await?;
        Ok((members.iter().flatten())
            .filter_map(|member| ticket(member))
            .collect())
    }

    /// How full Redis is, and what it does then; of several nodes the fullest one.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]; among others, the user may not be allowed to ask.
    pub async fn memory(&self) -> Result<Memory, QueueError> {
        let info = |shard: &Shard| {
            let mut info = Question::command(shard, "INFO");
            info.arg("memory");
            info
        };
        let mut fullest = Memory::default();
        for answer in self.ask_each_shard::<String>(info).await? {
            let memory = Memory::read(&answer);
            let evicts = fullest.evicts || memory.evicts;
            if memory.share() >= fullest.share() {
                fullest = memory;
            }
            fullest.evicts = evicts;
        }
        Ok(fullest)
    }

    /// The answers of those shards whose node is not away.
    async fn ask_each_shard<T: FromRedisValue>(
        &self,
        question: impl FnMut(&Shard) -> Question,
    ) -> Result<Vec<T>, QueueError> {
        let questions: Vec<Question> = self.shards.iter().map(question).collect();
        let answers = self.connections.ask(&questions).await?;
        answers.into_iter().flatten().map(read).collect()
    }
}

/// Reads `<lane>:<ticket>`; `None` for what this crate did not write.
fn ticket(member: &str) -> Option<ClaimedTicket> {
    let (lane, ticket) = member.split_once(':')?;
    let TicketName { seq, ordering_key } = TicketName::parse(ticket.as_bytes())?;
    Some(ClaimedTicket {
        lane: LaneName::parse(lane.as_bytes())?,
        seq,
        ordering_key,
    })
}

pub(crate) fn whole(shard: &Shard, sorted_set: &str) -> Question {
    let mut range = Question::command(shard, "ZRANGE");
    range.arg(sorted_set).arg(0).arg(-1);
    range
}

pub(crate) fn read<T: FromRedisValue>(value: Value) -> Result<T, QueueError> {
    T::from_redis_value(value).map_err(|_| QueueError::Nonsense)
}
