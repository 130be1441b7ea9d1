//! Epochs, repair and counting: what is asked for now and then.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use redis::{FromRedisValue, Script, Value};
use uuid::Uuid;

use crate::connection::Question;
use crate::keys::Shard;
use crate::{Epoch, Queue, QueueError, SCRIPT_TICKETS_MAX};

static MEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/mend.lua")));

/// How much lies in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Tickets in lanes, due or not.
    pub waiting: u64,
    /// Tickets dispatchers hold.
    pub leased: u64,
    /// Lanes with a ticket in them.
    pub lanes: u64,
}

impl Queue {
    /// The epoch all shards agree on; `None` if one has lost it, or they differ.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn epoch(&self) -> Result<Option<Epoch>, QueueError> {
        let questions = self.of_each_shard(|shard| {
            let mut get = Question::command("GET");
            get.arg(&shard.epoch);
            get
        });
        let mut epochs = Vec::new();
        for answer in self.connections.ask(&questions).await? {
            epochs.push(read::<Option<String>>(answer)?);
        }
        let is_agreed = epochs.iter().all(|epoch| *epoch == epochs[0]);
        Ok(epochs.swap_remove(0).filter(|_| is_agreed).map(Epoch))
    }

    /// Begins a new epoch on every shard: claims are served and pushes under it accepted from now on.
    /// The caller now owes Redis a ticket for every outbox row. Tickets that are still there stay.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]. Some shards may have begun it; begin another one.
    pub async fn begin_epoch(&self) -> Result<Epoch, QueueError> {
        let epoch = Epoch(Uuid::now_v7().simple().to_string());
        let questions = self.of_each_shard(|shard| {
            let mut set = Question::command("SET");
            set.arg(&shard.epoch).arg(&epoch.0);
            set
        });
        self.connections.ask(&questions).await?;
        Ok(epoch)
    }

    /// Makes the number of tickets each lane has out agree with the tickets that are really out. They
    /// differ only after Redis has lost some of its keys and kept others; a lane would then stay closed
    /// for ever. Returns the number of lanes put right. Costs next to nothing if all is well.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn mend(&self) -> Result<u64, QueueError> {
        let questions = self.of_each_shard(|shard| {
            let mut mend = Question::script(&MEND, &shard.script_keys(), 2);
            mend.arg(&shard.lane_prefix).arg(self.lane_in_flight_max);
            mend
        });
        let mut mended = 0;
        for answer in self.connections.ask(&questions).await? {
            mended += read::<u64>(answer)?;
        }
        Ok(mended)
    }

    /// Counts tickets and lanes, for gauges and operators. Not one moment's picture: other work goes on
    /// between its steps. Asks one question per lane, so not more often than every few seconds.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn depth(&self) -> Result<Depth, QueueError> {
        let mut depth = Depth::default();
        for shard in self.shards.iter() {
            let mut leased = Question::command("ZCARD");
            leased.arg(&shard.leased);
            // A lane with a ticket is on the ring, or has all its slots taken, hence something in flight.
            let mut ringed = Question::command("ZRANGE");
            ringed.arg(&shard.ring).arg(0).arg(-1);
            let mut busy = Question::command("HKEYS");
            busy.arg(&shard.in_flight);
            let answers = self.connections.ask(&[leased, ringed, busy]).await?;
            let [leased, ringed, busy] =
                <[Value; 3]>::try_from(answers).map_err(|_| QueueError::Nonsense)?;
            depth.leased += read::<u64>(leased)?;
            let mut lanes: BTreeSet<String> = read(ringed)?;
            lanes.extend(read::<Vec<String>>(busy)?);
            self.add_lanes(shard, &lanes, &mut depth).await?;
        }
        Ok(depth)
    }

    async fn add_lanes(
        &self,
        shard: &Shard,
        lanes: &BTreeSet<String>,
        depth: &mut Depth,
    ) -> Result<(), QueueError> {
        let lanes: Vec<&String> = lanes.iter().collect();
        for part in lanes.chunks(SCRIPT_TICKETS_MAX) {
            let questions: Vec<Question> = part
                .iter()
                .map(|lane| {
                    let mut count = Question::command("ZCARD");
                    count.arg(format!("{}{lane}", shard.lane_prefix));
                    count
                })
                .collect();
            for answer in self.connections.ask(&questions).await? {
                let tickets = read::<u64>(answer)?;
                depth.waiting += tickets;
                depth.lanes += u64::from(tickets > 0);
            }
        }
        Ok(())
    }

    fn of_each_shard(&self, question: impl FnMut(&Shard) -> Question) -> Vec<Question> {
        self.shards.iter().map(question).collect()
    }
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, QueueError> {
    T::from_redis_value(value).map_err(|_| QueueError::Nonsense)
}
