//! What there is: transactions that write outbox rows, numbers, the relay in the middle of a poll, and as
//! much of Redis as the relay believes in.

/// Most transactions a model can have.
pub const WRITERS_MAX: usize = 3;
/// Most sequence numbers: each transaction may draw anew after a crash.
pub const NUMBERS_MAX: usize = 8;

/// Smaller than any transaction id in a state; 0 stands for none.
pub const FIRST_XACT_ID: u8 = 2;

/// A set of sequence numbers, one bit each. The first number is 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Numbers(pub u16);

/// One moment of the whole system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// Events on their way into PostgreSQL, one transaction each.
    pub writers: [Writer; WRITERS_MAX],
    /// What statements find now.
    pub now: Database,
    /// What they find after a crash: everything up to the last commit that is on disk.
    pub on_disk: Database,
    /// The next transaction id. It does not go back in a crash: smaller ids would only keep gaps open longer.
    pub next_xact_id: u8,
    /// The relay's process.
    pub relay: Relay,
    /// What Redis holds.
    pub redis: Redis,
    /// Faults that may still happen.
    pub faults_left: u8,
}

/// The rows of `zyven.outbox` that are visible, and two counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Database {
    /// Which event has which number: the writer, counted from 1; 0 where there is no row.
    pub rows: [u8; NUMBERS_MAX + 1],
    /// The next sequence number. PostgreSQL may give a number out again that a crash made it forget.
    pub next_number: u8,
    /// `zyven.relay.watermark`.
    pub watermark: u8,
}

/// How far an event has come on its way into PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    /// Where its transaction is.
    pub stage: Stage,
    /// The publisher has got its 202.
    pub is_acknowledged: bool,
    /// For the proof only: when the relay that works now began, the number was drawn, not committed, and behind
    /// the watermark; and no walk has found its row since. That row is left to the scrubber.
    pub is_late: bool,
}

/// The stages of a transaction that writes an outbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Not begun; or to be run again, with the same ids, after an unknown outcome.
    Waiting,
    /// It has inserted its event, and so owns a transaction id.
    Begun(u8),
    /// It has drawn its sequence number, too. (The id is 0 if it owns none, which only a mutant does.)
    Drawn(u8, u8),
    /// Committed or rolled back, and the publisher told so, or gone.
    Ended,
}

/// The relay. Its two tasks, hand-over and sweep, take their steps independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relay {
    /// Whether the process runs.
    pub is_up: bool,
    /// Where the hand-over is within its poll.
    pub poll: Poll,
    /// The hand-over's position; `None`: to be read from the watermark.
    pub cursor: Option<u8>,
    /// The ledger: by number, the transaction id that must have ended; 0: no gap.
    pub gaps: [u8; NUMBERS_MAX + 1],
    /// What the sweep believes to be handed over; `None`: everything.
    pub handed_over: Option<u8>,
    /// The epoch that tickets are pushed under; 0: none is known.
    pub epoch: u8,
    /// The walk over the whole outbox that is under way.
    pub walk: Walk,
}

/// The steps of a poll, in their order, with what each has learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Poll {
    /// Between two polls.
    Resting,
    /// `xmin` is read.
    HasXmin(u8),
    /// The rows of the gaps are looked up.
    HasLookedUp(Evidence),
    /// The page behind the cursor is read, and shows new gaps.
    HasPage(Evidence, Numbers),
    /// The new gaps are dated, or there are none (0). Tickets are to be pushed.
    HasDate(Evidence, Numbers, u8),
    /// Redis has taken the tickets; the answer is on its way. The last is the epoch they went under.
    HasPushed(Evidence, Numbers, u8, u8),
}

/// What a look-up says about open gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Evidence {
    /// Transactions below it have ended.
    pub xmin: u8,
    /// The gaps that were asked for.
    pub looked_up: Numbers,
    /// Those that have a row now.
    pub found: Numbers,
}

/// A walk of the sweep. The outbox fits on one page here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Walk {
    /// None is under way.
    None,
    /// To be begun.
    Due,
    /// The page is read.
    HasPage(Numbers),
}

/// What the relay depends on in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Redis {
    /// 0: none, Redis was emptied.
    pub epoch: u8,
    /// Which numbers have a ticket, waiting or handed out.
    pub tickets: Numbers,
}

impl Numbers {
    /// One number.
    pub fn one(number: u8) -> Self {
        Self(1 << number)
    }

    /// All up to this one.
    pub fn up_to(number: u8) -> Self {
        Self((1_u16 << (number + 1)) - 1)
    }

    /// Whether it is in the set.
    pub fn has(self, number: u8) -> bool {
        self.0 & (1 << number) != 0
    }

    /// Both sets together.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// What is in both.
    #[must_use]
    pub fn within(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// What is in the first only.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The greatest.
    pub fn last(self) -> Option<u8> {
        (0..16).rev().find(|number| self.has(*number))
    }

    /// One by one.
    pub fn each(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |number| self.has(*number))
    }
}

impl State {
    /// Events that wait to be accepted, an empty database, a relay that starts, a Redis with nothing in it.
    pub fn new(faults: u8) -> Self {
        let database = Database {
            rows: [0; NUMBERS_MAX + 1],
            next_number: 1,
            watermark: 0,
        };
        Self {
            writers: [Writer {
                stage: Stage::Waiting,
                is_acknowledged: false,
                is_late: false,
            }; WRITERS_MAX],
            now: database,
            on_disk: database,
            next_xact_id: FIRST_XACT_ID,
            relay: Relay::started(),
            redis: Redis {
                epoch: 0,
                tickets: Numbers::default(),
            },
            faults_left: faults,
        }
    }

    /// `pg_snapshot_xmin(pg_current_snapshot())`: every transaction with a smaller id has ended.
    pub fn xmin(&self) -> u8 {
        let running = self.writers.iter().filter_map(|writer| match writer.stage {
            Stage::Begun(id) | Stage::Drawn(id, _) if id > 0 => Some(id),
            _ => None,
        });
        running.min().unwrap_or(self.next_xact_id)
    }
}

impl Relay {
    /// A process that has just taken the lead: it knows nothing.
    pub fn started() -> Self {
        Self {
            is_up: true,
            poll: Poll::Resting,
            cursor: None,
            gaps: [0; NUMBERS_MAX + 1],
            handed_over: None,
            epoch: 0,
            walk: Walk::None,
        }
    }

    /// The numbers in the ledger.
    pub fn open_gaps(&self) -> Numbers {
        let open = (0..).zip(self.gaps).filter(|(_, date)| *date > 0);
        open.fold(Numbers::default(), |all, (number, _)| {
            all.and(Numbers::one(number))
        })
    }
}

impl Database {
    /// The numbers that have a row.
    pub fn visible(&self) -> Numbers {
        let there = (0..).zip(self.rows).filter(|(_, event)| *event > 0);
        there.fold(Numbers::default(), |all, (number, _)| {
            all.and(Numbers::one(number))
        })
    }
}
