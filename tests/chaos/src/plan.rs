//! What is done to a fleet, and when: a pure function of the seed.
//!
//! Every kind of fault is a card of a deck that is shuffled, dealt one card after the other, and shuffled anew. So
//! the first deck holds each kind once, and a run of [`Plan::DECK_TIME`] has seen them all. They come in bursts, in which
//! they last longer than the distance between two of them, so that they overlap; but nothing is done to a part that has its
//! trouble already. After each burst everything is well for a moment, as a stack that never works has nothing to lose; and
//! each burst begins with a blow, which hits a stack at work.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::fleet::RedisKind;
use crate::ledger::Mood;
use crate::service::{Link, Service};

/// Something to do to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and another start later.
    Kill(Service, usize),
    /// SIGTERM, and another start once it has ended.
    Terminate(Service, usize),
    /// SIGSTOP for a while.
    Freeze(Service, usize),
    /// PostgreSQL is stopped at once, and started later.
    CrashPostgres,
    /// Redis is killed, and started later.
    KillRedis,
    /// SIGSTOP for Redis.
    FreezeRedis,
    /// FLUSHALL.
    FlushRedis,
    /// No connection of a link works.
    Cut(Link),
    /// The connections of a link end; new ones work.
    CutOnce(Link),
    /// Connections stay open, and nothing passes.
    Pause(Link),
    /// Everything takes this much longer, in each direction.
    Delay(Link, Duration),
    /// Requests arrive, replies do not.
    LoseReplies(Link),
    /// The receiver answers like this.
    Receiver(Mood),
    /// The receiver takes no connection.
    CloseReceiver,
}

/// A fault and its time, counted from the beginning of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it begins.
    pub at: Duration,
    /// How long it lasts; nothing for what takes no time.
    pub lasts: Duration,
    /// What is done.
    pub fault: Fault,
}

/// Everything that a seed determines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many of each service, in the order of [`Service::ALL`].
    pub processes: [usize; 4],
    /// How Redis keeps things.
    pub redis: RedisKind,
    /// In order of time.
    pub faults: Vec<Planned>,
}

/// A part that can have one trouble at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Process(Service, usize),
    Postgres,
    Redis,
    Link(Link),
    Receiver,
}

impl Fault {
    /// Whether something is gone in a moment, rather than held up for a while.
    fn is_blow(&self) -> bool {
        matches!(
            self,
            Self::Kill(..)
                | Self::Terminate(..)
                | Self::CrashPostgres
                | Self::KillRedis
                | Self::FlushRedis
        )
    }

    fn part(self) -> Part {
        match self {
            Self::Kill(service, index)
            | Self::Terminate(service, index)
            | Self::Freeze(service, index) => Part::Process(service, index),
            Self::CrashPostgres => Part::Postgres,
            Self::KillRedis | Self::FreezeRedis | Self::FlushRedis => Part::Redis,
            Self::Cut(link)
            | Self::CutOnce(link)
            | Self::Pause(link)
            | Self::Delay(link, _)
            | Self::LoseReplies(link) => Part::Link(link),
            Self::Receiver(_) | Self::CloseReceiver => Part::Receiver,
        }
    }
}

impl Plan {
    /// Within this time each kind of fault has come once; a test tries a thousand seeds.
    pub const DECK_TIME: Duration = Duration::from_secs(150);
    /// So long nothing is wrong, at first and after each burst.
    const CALM: Duration = Duration::from_secs(3);
    /// Between two faults, in milliseconds.
    const DISTANCE_MS: (u64, u64) = (100, 1_300);
    /// Faults of one burst.
    const BURST: usize = 6;
    /// Between two troubles of one part.
    const REST: Duration = Duration::from_secs(1);

    /// The plan for a run in which faults begin for this long.
    #[must_use]
    pub fn new(seed: u64, length: Duration) -> Self {
        let mut dice = Dice::new(seed);
        let processes = [(); 4].map(|()| dice.between(1, 2) as usize);
        let redis = *dice.pick(&[RedisKind::InMemory, RedisKind::AppendOnly]);
        let mut faults: Vec<Planned> = Vec::new();
        let (mut blows, mut troubles) = (Vec::new(), Vec::new());
        let mut at = Self::CALM;
        loop {
            at += Duration::from_millis(dice.between(Self::DISTANCE_MS.0, Self::DISTANCE_MS.1));
            if at >= length {
                break;
            }
            if blows.is_empty() && troubles.is_empty() {
                let deck = shuffled_deck(&mut dice, processes);
                (blows, troubles) = deck.into_iter().partition(Fault::is_blow);
            }
            let begins_burst = faults.len().is_multiple_of(Self::BURST);
            let deck = match (begins_burst, blows.is_empty(), troubles.is_empty()) {
                (true, false, _) | (_, false, true) => &mut blows,
                _ => &mut troubles,
            };
            // The first card whose part is well at this moment; the others keep their places.
            let is_well = |card: &Fault| {
                let mut troubles = faults.iter().filter(|one| one.fault.part() == card.part());
                troubles.all(|one| one.at + one.lasts + Self::REST <= at)
            };
            if let Some(place) = deck.iter().position(is_well) {
                let fault = deck.remove(place);
                let lasts = length_of(fault, &mut dice);
                faults.push(Planned { at, lasts, fault });
                if faults.len().is_multiple_of(Self::BURST) {
                    let ends = faults.iter().map(|one| one.at + one.lasts);
                    at = ends.max().unwrap_or(at) + Self::CALM;
                }
            }
        }
        Self {
            seed,
            processes,
            redis,
            faults,
        }
    }
}

/// Each kind of fault once.
fn shuffled_deck(dice: &mut Dice, processes: [usize; 4]) -> Vec<Fault> {
    let mut deck = vec![
        Fault::CrashPostgres,
        Fault::KillRedis,
        Fault::FreezeRedis,
        Fault::FlushRedis,
        Fault::CloseReceiver,
    ];
    for service in Service::ALL {
        let mut one = || dice.below(processes[service as usize] as u64) as usize;
        deck.extend([
            Fault::Kill(service, one()),
            Fault::Terminate(service, one()),
            Fault::Freeze(service, one()),
        ]);
    }
    for link in Link::ALL {
        let delay = Duration::from_millis(dice.between(20, 400));
        deck.extend([
            Fault::Cut(link),
            Fault::CutOnce(link),
            Fault::Pause(link),
            Fault::Delay(link, delay),
            Fault::LoseReplies(link),
        ]);
    }
    let late = Duration::from_millis(dice.between(500, 3_000));
    deck.extend(
        [
            Mood::Failing(503),
            Mood::Hanging,
            Mood::Resetting,
            Mood::Closing,
            Mood::Late(late),
            Mood::Mixed(late),
        ]
        .map(Fault::Receiver),
    );
    // Fisher and Yates.
    for place in (1..deck.len()).rev() {
        deck.swap(place, dice.below(place as u64 + 1) as usize);
    }
    deck
}

/// Leases of a run last some 7 s, those of tickets 2 s more: some pauses are shorter and some are longer.
fn length_of(fault: Fault, dice: &mut Dice) -> Duration {
    let (shortest_ms, longest_ms) = match fault {
        Fault::Freeze(..) => (1_000, 10_000),
        Fault::Kill(..) | Fault::Terminate(..) => (0, 4_000),
        Fault::CrashPostgres | Fault::KillRedis | Fault::CloseReceiver => (0, 5_000),
        Fault::FreezeRedis | Fault::Pause(_) => (500, 5_000),
        Fault::Cut(_) | Fault::Delay(..) | Fault::LoseReplies(_) => (300, 4_000),
        Fault::Receiver(_) => (1_000, 4_000),
        Fault::FlushRedis | Fault::CutOnce(_) => (0, 0),
    };
    Duration::from_millis(dice.between(shortest_ms, longest_ms))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(service, index) => write!(f, "kill {service} {index}"),
            Self::Terminate(service, index) => write!(f, "terminate {service} {index}"),
            Self::Freeze(service, index) => write!(f, "freeze {service} {index}"),
            Self::CrashPostgres => f.write_str("crash PostgreSQL"),
            Self::KillRedis => f.write_str("kill Redis"),
            Self::FreezeRedis => f.write_str("freeze Redis"),
            Self::FlushRedis => f.write_str("empty Redis"),
            Self::Cut(link) => write!(f, "cut {link}"),
            Self::CutOnce(link) => write!(f, "cut {link} once"),
            Self::Pause(link) => write!(f, "pause {link}"),
            Self::Delay(link, delay) => write!(f, "delay {link} by {delay:?}"),
            Self::LoseReplies(link) => write!(f, "lose replies of {link}"),
            Self::Receiver(mood) => write!(f, "receiver is {mood:?}"),
            Self::CloseReceiver => f.write_str("receiver refuses connections"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ingests, relays, dispatchers, egresses] = self.processes;
        writeln!(
            f,
            "{ingests} ingest, {relays} relay, {dispatchers} dispatcher, {egresses} egress, Redis {:?}",
            self.redis
        )?;
        for Planned { at, lasts, fault } in &self.faults {
            let (at, lasts) = (at.as_secs_f64(), lasts.as_secs_f64());
            writeln!(f, "{at:>8.1} s  for {lasts:>4.1} s  {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(Plan::new(7, hour), Plan::new(7, hour));
        assert_ne!(Plan::new(7, hour).faults, Plan::new(8, hour).faults);
        // A shorter run is the beginning of a longer one.
        let minute = Plan::new(7, Duration::from_secs(60));
        let whole = Plan::new(7, hour);
        assert_eq!(minute.faults, whole.faults[..minute.faults.len()]);
    }

    #[test]
    fn within_the_time_of_one_deck_every_kind_of_fault_has_come() {
        for seed in 0..1_000 {
            let plan = Plan::new(seed, Plan::DECK_TIME);
            let has =
                |wanted: &dyn Fn(&Fault) -> bool| plan.faults.iter().any(|one| wanted(&one.fault));
            let cards = shuffled_deck(&mut Dice::new(0), plan.processes);
            for card in cards {
                let is_same = |fault: &Fault| {
                    discriminant(fault) == discriminant(&card)
                        && match (fault, &card) {
                            (Fault::Receiver(one), Fault::Receiver(other)) => {
                                discriminant(one) == discriminant(other)
                            }
                            _ => kind_of(fault.part()) == kind_of(card.part()),
                        }
                };
                assert!(has(&is_same), "seed {seed} never has {card}\n{plan}");
            }
        }
    }

    /// Which of several processes is left to chance.
    fn kind_of(part: Part) -> Part {
        match part {
            Part::Process(service, _) => Part::Process(service, 0),
            other => other,
        }
    }

    #[test]
    fn faults_overlap_and_never_on_one_part() {
        let plan = Plan::new(3, Duration::from_secs(600));
        let mut overlaps = 0;
        for (place, one) in plan.faults.iter().enumerate() {
            for later in &plan.faults[place + 1..] {
                let overlap = later.at < one.at + one.lasts;
                overlaps += usize::from(overlap);
                assert!(
                    !overlap || later.fault.part() != one.fault.part(),
                    "{one:?} {later:?}"
                );
            }
        }
        assert!(overlaps > plan.faults.len(), "{overlaps}");
        // The calm after a burst.
        let calm = plan
            .faults
            .windows(2)
            .filter(|pair| pair[1].at >= pair[0].at + Plan::CALM);
        assert!(calm.count() >= plan.faults.len() / Plan::BURST - 1);
    }
}
