//! The closed ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::arrivals::{Arrival, Treatment};
use super::duplicates::{Source, source_of};
use super::records::{Record, Records};
use super::{Complaints, Entry, Failure, Pages};
use crate::history::History;

/// What a run has come to. Counts of deliveries are of pairs of an event and an endpoint.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Account {
    /// Events that were published.
    pub sent: u64,
    /// Events that were answered 202 or 200.
    pub acknowledged: u64,
    /// Events whose publisher has given up. They may be delivered or not.
    pub given_up: u64,
    /// Events whose first request failed.
    pub first_try_failures: u64,
    /// Requests that failed, by status; 0 is no answer.
    pub failures: BTreeMap<u16, u64>,
    /// Deliveries that are `DELIVERED`, and were.
    pub delivered: u64,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Deliveries that are not finished.
    pub unfinished: u64,
    /// Requests that have arrived.
    pub arrivals: u64,
    /// How many of them in each 10 s of the run.
    pub arrivals_per_10_s: Vec<u64>,
    /// Arrivals of what the receiver had taken before, by source.
    pub duplicates: BTreeMap<Source, u64>,
    /// How much later than its due time, and than the end of the last trouble, the latest delivery was taken.
    pub latest: Duration,
    /// Deliveries that were more than 5 s later than that.
    pub late: u64,
    /// Acknowledged, and in the end neither delivered nor a dead letter nor on its way.
    pub missing: Complaints,
    /// `DELIVERED` says the database, and the receiver has never taken it.
    pub never_taken: Complaints,
    /// Dead letters that should have been delivered, and the other way round.
    pub wrongly_dead: Complaints,
    /// One event with two ids.
    pub accepted_twice: Complaints,
    /// Bodies that are not what was published.
    pub altered: Complaints,
    /// Requests whose signature is wrong.
    pub bad_signatures: Complaints,
    /// Duplicates that nothing explains.
    pub unexplained: Complaints,
    /// Deliveries of one ordering key that did not come in the order of their acceptance.
    pub out_of_order: Complaints,
    /// Requests that were refused for good.
    pub refused: Complaints,
    /// Answers and rows that make no sense.
    pub strange: Complaints,
    /// Rows that break an invariant, as `zyven admin check` tells them.
    pub invariants: Complaints,
}

/// Compares the pages of a ledger with the records of the database.
pub(super) fn draw_up(
    pages: &Pages,
    records: &Records,
    history: &History,
    check: Result<(), String>,
) -> Account {
    let mut account = Account {
        sent: pages.events.len() as u64,
        altered: pages.altered.clone(),
        bad_signatures: pages.bad_signatures.clone(),
        refused: pages.refused.clone(),
        accepted_twice: pages.accepted_twice.clone(),
        strange: pages.strange.clone(),
        ..Account::default()
    };
    if let Err(said) = check {
        account.invariants.add(|| said);
    }
    for (failure, count) in &pages.failures {
        let status = match failure {
            Failure::NoAnswer => 0,
            Failure::Status(status) => *status,
        };
        account.failures.insert(status, *count);
    }
    for event in &records.said_twice {
        account
            .strange
            .add(|| format!("event {event} has two rows for one delivery"));
    }
    let ids: Vec<Uuid> = pages
        .endpoints
        .iter()
        .filter_map(|one| id_of(&one.id))
        .collect();
    for (number, entry) in &pages.events {
        account.enter(pages, *number, entry, records, &ids, history);
    }
    // Whatever nobody heard of is one of those that were given up.
    let stored = records.events.len() as u64;
    if stored > account.acknowledged + account.given_up {
        account.accepted_twice.add(|| {
            format!(
                "{stored} events are stored, and no more than {} were sent",
                account.sent
            )
        });
    }
    account.arrivals_per_10_s = paced(pages);
    check_order(&mut account.out_of_order, pages, records, &ids);
    account
}

/// Counts arrivals by the time since the first.
fn paced(pages: &Pages) -> Vec<u64> {
    let arrivals = || pages.events.values().flat_map(|entry| &entry.arrivals);
    let Some(first_at) = arrivals().map(|arrival| arrival.at).min() else {
        return Vec::new();
    };
    let mut paced = Vec::new();
    for arrival in arrivals() {
        let since = arrival.at.duration_since(first_at).unwrap_or_default();
        let place = (since.as_secs() / 10) as usize;
        if paced.len() <= place {
            paced.resize(place + 1, 0);
        }
        paced[place] += 1;
    }
    paced
}

fn id_of(typed: &str) -> Option<Uuid> {
    typed.split_once('_')?.1.parse().ok()
}

impl Account {
    fn enter(
        &mut self,
        pages: &Pages,
        number: u64,
        entry: &Entry,
        records: &Records,
        endpoints: &[Uuid],
        history: &History,
    ) {
        self.first_try_failures += u64::from(entry.failed_tries > 0);
        self.arrivals += entry.arrivals.len() as u64;
        for (place, endpoint) in endpoints.iter().enumerate() {
            let arrivals = arrivals_at(entry, place);
            let id = arrivals.first().and_then(|one| one.webhook_id);
            let record = id.and_then(|id| records.deliveries.get(&(id, *endpoint)));
            let unanswered = record.map_or(&[][..], |record| &record.unanswered);
            self.enter_duplicates(number, &arrivals, unanswered, history);
        }
        let Some((_, id)) = entry.acknowledged else {
            self.given_up += 1;
            return;
        };
        self.acknowledged += 1;
        if let Some(other) = entry.arrivals.iter().find(|one| one.webhook_id != Some(id)) {
            self.accepted_twice
                .add(|| format!("event {number} is {id} and came as {:?}", other.webhook_id));
        }
        if !records.events.contains_key(&id) {
            self.missing
                .add(|| format!("event {number} ({id}) is not stored"));
            return;
        }
        for place in pages.endpoints_of(number) {
            let record = records.deliveries.get(&(id, endpoints[place]));
            let taken = taken_of(&arrivals_at(entry, place));
            let name = || format!("event {number} ({id}) at {}", pages.endpoints[place].path);
            let Some(record) = record else {
                self.missing.add(|| format!("{} has no row", name()));
                continue;
            };
            self.enter_state(
                record,
                taken.is_some(),
                pages.source.is_refused(number),
                name,
            );
            if let Some(taken) = taken {
                self.enter_lateness(record, &taken, history);
            }
        }
    }

    fn enter_state(
        &mut self,
        record: &Record,
        is_taken: bool,
        is_refused: bool,
        name: impl Fn() -> String,
    ) {
        match (record.state.as_str(), &record.reason) {
            ("DELIVERED", _) => {
                self.delivered += 1;
                if !is_taken {
                    self.never_taken.add(&name);
                }
                if is_refused {
                    self.wrongly_dead.add(|| format!("{} is delivered", name()));
                }
            }
            ("DEAD_LETTERED", reason) => {
                let reason = reason.clone().unwrap_or_default();
                if !is_refused || reason != "rejected" {
                    self.wrongly_dead.add(|| format!("{}: {reason}", name()));
                }
                *self.dead_letters.entry(reason).or_default() += 1;
            }
            _ => self.unfinished += 1,
        }
    }

    fn enter_lateness(&mut self, record: &Record, taken: &Arrival, history: &History) {
        const LATE: Duration = Duration::from_secs(5);
        let quiet_since = history.over_at().unwrap_or(SystemTime::UNIX_EPOCH);
        let due_at = record.due_at.max(quiet_since);
        let lateness = taken.at.duration_since(due_at).unwrap_or_default();
        self.late += u64::from(lateness > LATE);
        self.latest = self.latest.max(lateness);
    }

    fn enter_duplicates(
        &mut self,
        number: u64,
        arrivals: &[Arrival],
        unanswered: &[i32],
        history: &History,
    ) {
        let mut taken: Option<&Arrival> = None;
        for arrival in arrivals {
            if let Some(first) = taken {
                let source = source_of(first, arrival, unanswered, history);
                *self.duplicates.entry(source).or_default() += 1;
                if source == Source::Unexplained {
                    self.unexplained.add(|| {
                        format!(
                            "event {number}, attempts {} and {}, {:?} apart, at {:?}",
                            first.attempt,
                            arrival.attempt,
                            arrival.at.duration_since(first.at).unwrap_or_default(),
                            first.at
                        )
                    });
                }
            }
            if is_taken(arrival) {
                taken = Some(arrival);
            }
        }
    }

    /// All arrivals of something that had been taken before.
    #[must_use]
    pub fn duplicates_count(&self) -> u64 {
        self.duplicates.values().sum()
    }

    /// What must never be, whatever the faults were.
    fn complaints(&self) -> [(&'static str, &Complaints); 11] {
        [
            ("missing", &self.missing),
            ("never taken", &self.never_taken),
            ("wrong dead letters", &self.wrongly_dead),
            ("accepted twice", &self.accepted_twice),
            ("altered bodies", &self.altered),
            ("bad signatures", &self.bad_signatures),
            ("unexplained duplicates", &self.unexplained),
            ("out of order", &self.out_of_order),
            ("refused requests", &self.refused),
            ("strange", &self.strange),
            ("broken invariants", &self.invariants),
        ]
    }

    /// Whether the books balance, and everything is finished.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn verdict(&self) -> Result<(), String> {
        let mut wrong: Vec<String> = Vec::new();
        if self.unfinished > 0 {
            wrong.push(format!("{} deliveries are not finished", self.unfinished));
        }
        for (name, complaints) in self.complaints() {
            if complaints.count > 0 {
                let (count, first) = (complaints.count, complaints.first.join("\n    "));
                wrong.push(format!("{count} {name}:\n    {first}"));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n  "))
        }
    }
}

fn is_taken(arrival: &Arrival) -> bool {
    matches!(arrival.treatment, Treatment::Taken | Treatment::TakenLate)
}

fn arrivals_at(entry: &Entry, place: usize) -> Vec<Arrival> {
    let arrivals = entry.arrivals.iter().copied();
    arrivals.filter(|one| one.endpoint == place).collect()
}

fn taken_of(arrivals: &[Arrival]) -> Option<Arrival> {
    arrivals.iter().copied().find(is_taken)
}

/// A delivery among those of its ordering key at its endpoint.
struct InLine {
    seq: i64,
    number: u64,
    arrivals: Vec<Arrival>,
}

/// Of two deliveries of one key at one endpoint, none of the later one arrives before the earlier one was taken.
fn check_order(complaints: &mut Complaints, pages: &Pages, records: &Records, endpoints: &[Uuid]) {
    let mut lines: BTreeMap<(usize, String), Vec<InLine>> = BTreeMap::new();
    for (number, entry) in &pages.events {
        let key = pages.source.event(*number).ordering_key;
        let (Some(key), Some((_, id))) = (key, entry.acknowledged) else {
            continue;
        };
        for place in pages.endpoints_of(*number) {
            if let Some(record) = records.deliveries.get(&(id, endpoints[place])) {
                lines.entry((place, key.clone())).or_default().push(InLine {
                    seq: record.seq,
                    number: *number,
                    arrivals: arrivals_at(entry, place),
                });
            }
        }
    }
    for ((_, key), mut line) in lines {
        line.sort_by_key(|delivery| delivery.seq);
        for pair in line.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let taken = taken_of(&before.arrivals).map(|one| one.at);
            let arrived = after.arrivals.first().map(|one| one.at);
            if taken
                .zip(arrived)
                .is_some_and(|(taken, arrived)| arrived < taken)
            {
                let (before, after) = (before.number, after.number);
                complaints
                    .add(|| format!("{key}: event {after} came before event {before} was taken"));
            }
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events sent            {}", self.sent)?;
        writeln!(f, "  acknowledged         {}", self.acknowledged)?;
        writeln!(f, "  given up             {}", self.given_up)?;
        writeln!(f, "  first tries failed   {}", self.first_try_failures)?;
        for (status, count) in &self.failures {
            match status {
                0 => writeln!(f, "  requests unanswered  {count}")?,
                _ => writeln!(f, "  answers {status}          {count}")?,
            }
        }
        writeln!(f, "requests received      {}", self.arrivals)?;
        writeln!(f, "  in each 10 s         {:?}", self.arrivals_per_10_s)?;
        writeln!(f, "deliveries delivered   {}", self.delivered)?;
        for (reason, count) in &self.dead_letters {
            writeln!(f, "  dead, {reason:<14} {count}")?;
        }
        writeln!(f, "  not finished         {}", self.unfinished)?;
        writeln!(f, "duplicates             {}", self.duplicates_count())?;
        for (source, count) in &self.duplicates {
            writeln!(f, "  {source:<20} {count}")?;
        }
        let latest = self.latest.as_secs_f64();
        writeln!(
            f,
            "latest after due       {latest:.1} s ({} more than 5 s)",
            self.late
        )?;
        for (name, complaints) in self.complaints() {
            writeln!(f, "{name:<22} {}", complaints.count)?;
        }
        Ok(())
    }
}
