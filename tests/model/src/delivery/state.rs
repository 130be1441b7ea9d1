//! What there is: rows, dispatchers, statements under way. No Redis (see the essay of [`super`]).

/// Most deliveries a model can have.
pub const DELIVERIES_MAX: usize = 3;
/// Most dispatchers.
pub const DISPATCHERS_MAX: usize = 3;
/// Each delivery can be replayed once, so it has two outbox rows in its life, and two generations.
pub const GENERATIONS_MAX: usize = 2;

/// One moment of the whole system. Small and copied freely: millions of them are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// PostgreSQL's rows, by delivery. What a model does not use stays as it began.
    pub deliveries: [Delivery; DELIVERIES_MAX],
    /// What each dispatcher is doing.
    pub dispatchers: [Hand; DISPATCHERS_MAX],
    /// A statement that PostgreSQL is still running although its connection is gone.
    pub orphan: Option<Statement>,
    /// Set by the step that broke a rule about steps; see [`super::invariants`].
    pub broken: Option<Broken>,
}

/// All that PostgreSQL has about one delivery: one event for one endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delivery {
    /// `zyven.outbox`, by sequence number: the first row, and the one that a replay makes.
    pub outbox: [Option<Row>; GENERATIONS_MAX],
    /// `zyven.finished_deliveries`, by generation.
    pub finished: [Option<Outcome>; GENERATIONS_MAX],
    /// `zyven.dead_letter_records`, by generation.
    pub dead_letters: [Option<DeadLetter>; GENERATIONS_MAX],
    /// Only a mutant's Redis remembers anything; what it was told of this delivery.
    pub told_done: bool,
}

/// An outbox row. Rows appear and disappear by synchronous commits only; a lease may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// 1 is 0 here.
    pub generation: u8,
    /// What a statement finds now.
    pub now: Lease,
    /// What it finds after a crash of PostgreSQL: the newest content whose commit is on disk.
    pub on_disk: Lease,
}

/// The columns of an outbox row that say who may attempt it. The third one, `state`, is left out: no guard
/// needs it, for a row has a token only while it is `DISPATCHING`, and T4, T5 and release compare both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// `lease_token`.
    pub token: Token,
    /// `leased_until`, in ticks from now on PostgreSQL's clock; 0: over.
    pub ends_in: u8,
}

/// Tokens are never repeated, so all that matters of one is who still knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// 0 in the column.
    None,
    /// The one this dispatcher drew for its present claim.
    Of(u8),
    /// One that only the statement still knows that runs without a client.
    OfOrphan,
    /// One that nobody knows any more.
    Nobodys,
}

/// A terminal state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// `DELIVERED`.
    Delivered,
    /// `DEAD_LETTERED`.
    DeadLettered,
}

/// What has become of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadLetter {
    /// It can be replayed.
    Open,
    /// A late success made it superfluous.
    Resolved,
    /// It lives on as the next generation.
    Replayed,
}

/// A dispatcher, one delivery at a time. A real one holds thousands; two attempts in one process know
/// as little of each other as two in different ones, so each is a dispatcher of its own here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hand {
    /// Free for a ticket.
    Idle,
    /// T2 is on its way to PostgreSQL.
    Asking(Work, Clock),
    /// Nobody knows whether T2 happened; it is taken back before anything else.
    Unclear(Work),
    /// PostgreSQL has confirmed the claim.
    Claimed(Work, Clock),
    /// The request is on the wire, for so many more ticks of the own clock at most.
    Sending(Work, Clock, u8),
    /// The verdict is to be put on record, if need be again and again.
    Settling(Work, Verdict),
}

/// Which row a dispatcher works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Work {
    /// The delivery.
    pub delivery: u8,
    /// Its sequence number: which of the delivery's rows.
    pub seq: u8,
    /// As the claim returned it.
    pub generation: u8,
}

/// A lease as the dispatcher's own clock sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clock {
    /// Ticks until the lease is over here. Below what an attempt needs it is 0: no step tells them apart.
    pub left: u8,
    /// The clock has fallen behind PostgreSQL's by a tick. It may once in the time of a lease.
    pub is_slow: bool,
    /// The dispatcher was silent for too long and declared dead. Its last beat is too old to send anything.
    pub is_dead: bool,
    /// For the proof only: a duplicate is allowed for. PostgreSQL crashed and has forgotten this claim, or
    /// the request was under way when its dispatcher was taken for dead.
    pub is_excused: bool,
}

/// What an attempt led to. A failure leads to T4 or T5; the model does not count attempts and takes
/// both ways each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// 2xx.
    Delivered,
    /// Anything else.
    Failed,
    /// Nothing was sent, or it does not count.
    Release,
}

/// A statement that changes rows, with all it was called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statement {
    /// Which one.
    pub kind: Kind,
    /// Its row.
    pub work: Work,
    /// Its token.
    pub token: Token,
}

/// The statements of `shared/store` that a dispatcher runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// T2.
    Claim,
    /// Takes T2 back.
    Unclaim,
    /// T3, and T6 if that finds no row.
    Deliver,
    /// T4.
    Retry,
    /// T5.
    Bury,
    /// Gives the lease back without an attempt.
    Release,
}

/// Which rule about steps was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// A generation was finished a second time: the statement meets the primary key.
    FinishedTwice,
    /// A delivered generation became something else, or unfinished again.
    SuccessUndone,
    /// A 2xx was put on record, and its generation is still to be attempted.
    SuccessDropped,
    /// A lease ended before its time by somebody who does not hold it.
    LeaseTaken,
}

impl State {
    /// `deliveries` acknowledged events, each with its outbox row; idle dispatchers.
    pub fn accepted(deliveries: usize) -> Self {
        let mut all = [Delivery::default(); DELIVERIES_MAX];
        for delivery in &mut all[..deliveries] {
            delivery.outbox[0] = Some(Row::new(0));
        }
        Self {
            deliveries: all,
            dispatchers: [Hand::Idle; DISPATCHERS_MAX],
            orphan: None,
            broken: None,
        }
    }

    /// The row a dispatcher works on, if it still exists.
    pub fn row(&self, work: Work) -> Option<&Row> {
        self.deliveries[usize::from(work.delivery)].outbox[usize::from(work.seq)].as_ref()
    }

    /// The same, to change it.
    pub fn row_mut(&mut self, work: Work) -> &mut Option<Row> {
        &mut self.deliveries[usize::from(work.delivery)].outbox[usize::from(work.seq)]
    }

    /// All rows, whosever they are.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        let deliveries = self.deliveries.iter_mut();
        deliveries.flat_map(|delivery| delivery.outbox.iter_mut().flatten())
    }

    /// The dispatcher is free, and nobody knows its token any more.
    pub fn let_go(&mut self, dispatcher: usize) {
        self.dispatchers[dispatcher] = Hand::Idle;
        let gone = token_of(dispatcher);
        let left = match self.orphan {
            Some(orphan) if orphan.token == gone => Token::OfOrphan,
            _ => Token::Nobodys,
        };
        self.rename_tokens(|token| if token == gone { left } else { token });
    }

    /// The statement without a client is over; nobody knows its token unless its dispatcher does.
    pub fn end_orphan(&mut self) {
        self.orphan = None;
        self.rename_tokens(|token| match token {
            Token::OfOrphan => Token::Nobodys,
            other => other,
        });
    }

    /// Writes every token that is somewhere anew.
    pub fn rename_tokens(&mut self, rename: impl Fn(Token) -> Token) {
        for row in self.rows_mut() {
            row.now.token = rename(row.now.token);
            row.on_disk.token = rename(row.on_disk.token);
        }
        if let Some(orphan) = &mut self.orphan {
            orphan.token = rename(orphan.token);
        }
    }
}

/// The token of this dispatcher's present claim.
pub fn token_of(dispatcher: usize) -> Token {
    Token::Of(u8::try_from(dispatcher).expect("a few"))
}

impl Row {
    /// As T0 or T7 inserts it.
    pub fn new(generation: u8) -> Self {
        Self {
            generation,
            now: Lease::NONE,
            on_disk: Lease::NONE,
        }
    }
}

impl Lease {
    /// Anybody may claim the row.
    pub const NONE: Self = Self {
        token: Token::None,
        ends_in: 0,
    };
}

impl Hand {
    /// What it works on.
    pub fn work(&self) -> Option<Work> {
        match *self {
            Self::Idle => None,
            Self::Asking(work, _)
            | Self::Unclear(work)
            | Self::Claimed(work, _)
            | Self::Sending(work, _, _)
            | Self::Settling(work, _) => Some(work),
        }
    }

    /// The same hand with other work.
    pub fn with_work(self, work: Work) -> Self {
        match self {
            Self::Idle => Self::Idle,
            Self::Asking(_, clock) => Self::Asking(work, clock),
            Self::Unclear(_) => Self::Unclear(work),
            Self::Claimed(_, clock) => Self::Claimed(work, clock),
            Self::Sending(_, clock, left) => Self::Sending(work, clock, left),
            Self::Settling(_, verdict) => Self::Settling(work, verdict),
        }
    }

    /// Its view of its lease, while that matters.
    pub fn clock_mut(&mut self) -> Option<&mut Clock> {
        match self {
            Self::Asking(_, clock) | Self::Claimed(_, clock) | Self::Sending(_, clock, _) => {
                Some(clock)
            }
            Self::Idle | Self::Unclear(_) | Self::Settling(..) => None,
        }
    }
}
