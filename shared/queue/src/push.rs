//! Putting tickets into lanes.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis::{Script, Value};

use crate::connection::Question;
use crate::keys::{LaneName, Shard, TicketName};
use crate::{Epoch, NEAR_WINDOW, Pushed, Queue, QueueError, SCRIPT_TICKETS_MAX, Ticket};

static PUSH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("../lua/lanes.lua"),
        include_str!("../lua/push.lua")
    ))
});

/// Longest the bell's list grows. Each entry wakes one dispatcher, if only to find nothing.
pub(crate) const BELL_LENGTH_MAX: u32 = 4;

/// A dispatcher sleeps no longer than this without looking, so a ticket due later needs no bell.
const RING_WITHIN: Duration = Duration::from_secs(1);

impl Queue {
    /// Offers tickets. Idempotent: a ticket that lies in its lane already stays where it is, unless it
    /// is now due earlier; one that a dispatcher holds is left out; one due beyond [`NEAR_WINDOW`] is
    /// left out too. Wakes a dispatcher if something new is due within a second.
    ///
    /// The *earlier* due time wins, because a ticket that is too early costs a refused claim and a ticket that is
    /// too late costs a delivery its time. Nobody has to know which of two pushes was the newer one.
    ///
    /// # Errors
    ///
    /// See [`QueueError`]. Some of the tickets may have been written; push them again. Those for a node that is
    /// [away](Queue::away) are left out without an error.
    pub async fn push(&self, tickets: &[Ticket], epoch: &Epoch) -> Result<Pushed, QueueError> {
        let mut by_shard: BTreeMap<usize, Vec<Ticket>> = BTreeMap::new();
        for ticket in tickets {
            if ticket.due_in <= NEAR_WINDOW {
                by_shard
                    .entry(self.shard_of(ticket.lane))
                    .or_default()
                    .push(*ticket);
            }
        }
        let mut questions = Vec::new();
        for (shard, mut tickets) in by_shard {
            for part in tickets.chunks_mut(SCRIPT_TICKETS_MAX) {
                // Stable, so a lane's tickets stay in the caller's order.
                part.sort_by_key(|ticket| ticket.lane);
                questions.push(self.question(&self.shards[shard], part, epoch));
            }
        }
        if questions.is_empty() {
            return Ok(Pushed::Accepted { added: 0 });
        }

        let mut added = 0;
        let mut is_epoch_lost = false;
        for answer in self
            .connections
            .ask(&questions)
            .await?
            .into_iter()
            .flatten()
        {
            match answer {
                Value::Int(-1) => is_epoch_lost = true,
                Value::Int(count) => {
                    added += usize::try_from(count).map_err(|_| QueueError::Nonsense)?;
                }
                _ => return Err(QueueError::Nonsense),
            }
        }
        Ok(if is_epoch_lost {
            Pushed::EpochLost
        } else {
            Pushed::Accepted { added }
        })
    }

    fn question(&self, shard: &Shard, tickets: &[Ticket], epoch: &Epoch) -> Question {
        let mut question = self.script(&PUSH, shard, 5 + 4 * tickets.len());
        question
            .arg(&epoch.0)
            .arg(BELL_LENGTH_MAX)
            .arg(whole_ms(RING_WITHIN));
        for lane in tickets.chunk_by(|one, other| one.lane == other.lane) {
            question
                .arg(LaneName(lane[0].lane).to_string())
                .arg(lane.len());
            for ticket in lane {
                let class = 1 + u8::from(ticket.is_retry) + 2 * u8::from(ticket.is_first);
                question.arg(whole_ms(ticket.due_in)).arg(class);
                match ticket.ordering_key {
                    0 => question.arg(ticket.seq),
                    ordering_key => question.arg(
                        TicketName {
                            seq: ticket.seq,
                            ordering_key,
                        }
                        .to_string(),
                    ),
                };
            }
        }
        question
    }
}

/// Whole milliseconds, rounded up: a ticket offered too early would be refused and come back.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_millisecond_counts_as_a_whole_one() {
        assert_eq!(whole_ms(Duration::ZERO), 0);
        assert_eq!(whole_ms(Duration::from_nanos(1)), 1);
        assert_eq!(whole_ms(Duration::from_millis(1)), 1);
        assert_eq!(whole_ms(Duration::from_micros(1_001)), 2);
    }
}
