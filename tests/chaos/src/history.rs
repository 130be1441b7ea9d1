//! What was done to a fleet, and when.

use std::time::SystemTime;

use crate::service::{Link, Service};

/// Something that was wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A process was killed; lasts until another one is started in its place.
    Killed(Service, usize),
    /// A process was asked to end; lasts until another one is started in its place.
    Terminated(Service, usize),
    /// A process was stopped amid its work.
    Frozen(Service, usize),
    /// PostgreSQL was gone, without a chance to write what was committed asynchronously.
    PostgresCrashed,
    /// PostgreSQL answered nobody.
    PostgresFrozen,
    /// Redis was gone.
    RedisAway,
    /// Redis answered nobody.
    RedisFrozen,
    /// Redis forgot everything.
    RedisEmptied,
    /// Connections were cut, held up, or lost replies.
    Link(Link),
    /// The receiver did not answer as it should.
    Receiver,
}

/// A trouble and its time.
#[derive(Debug, Clone, Copy)]
pub struct Disturbance {
    /// What it was.
    pub trouble: Trouble,
    /// When it began, or a moment before.
    pub from: SystemTime,
    /// When it was over, or a moment after; `None` while it lasts.
    pub until: Option<SystemTime>,
}

/// Everything that was done, in order of its beginning.
#[derive(Debug, Clone, Default)]
pub struct History(Vec<Disturbance>);

impl History {
    /// A trouble begins.
    pub fn began(&mut self, trouble: Trouble) {
        self.0.push(Disturbance {
            trouble,
            from: SystemTime::now(),
            until: None,
        });
    }

    /// A trouble is over; harmless when there was none.
    pub fn ended(&mut self, trouble: Trouble) {
        for disturbance in &mut self.0 {
            if disturbance.trouble == trouble && disturbance.until.is_none() {
                disturbance.until = Some(SystemTime::now());
            }
        }
    }

    /// Something that took no time.
    pub fn happened(&mut self, trouble: Trouble) {
        self.began(trouble);
        self.ended(trouble);
    }

    /// Everything so far.
    #[must_use]
    pub fn all(&self) -> &[Disturbance] {
        &self.0
    }

    /// Whether such a trouble lasted at some moment of this time.
    #[must_use]
    pub fn overlaps(
        &self,
        from: SystemTime,
        until: SystemTime,
        is_such: impl Fn(Trouble) -> bool,
    ) -> bool {
        self.0.iter().any(|disturbance| {
            is_such(disturbance.trouble)
                && disturbance.from <= until
                && disturbance.until.is_none_or(|over| over >= from)
        })
    }

    /// When the last trouble was over; `None` if there never was one.
    #[must_use]
    pub fn over_at(&self) -> Option<SystemTime> {
        let ends = self
            .0
            .iter()
            .map(|one| one.until.unwrap_or_else(SystemTime::now));
        ends.max()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trouble_overlaps_what_touches_it_and_nothing_else() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let history = History(vec![Disturbance {
            trouble: Trouble::PostgresCrashed,
            from: at(10),
            until: Some(at(20)),
        }]);
        let overlaps = |from, until| {
            history.overlaps(at(from), at(until), |trouble| {
                trouble == Trouble::PostgresCrashed
            })
        };
        assert!(overlaps(20, 30) && overlaps(0, 10) && overlaps(12, 13) && overlaps(0, 99));
        assert!(!overlaps(21, 30) && !overlaps(0, 9));
        assert!(!history.overlaps(at(0), at(99), |trouble| trouble == Trouble::RedisAway));
        assert_eq!(history.over_at(), Some(at(20)));
    }

    #[test]
    fn what_has_not_ended_lasts() {
        let mut history = History::default();
        history.began(Trouble::RedisAway);
        let later = SystemTime::now() + Duration::from_secs(100);
        assert!(history.overlaps(later, later, |trouble| trouble == Trouble::RedisAway));
        history.ended(Trouble::RedisAway);
        assert!(!history.overlaps(later, later, |trouble| trouble == Trouble::RedisAway));
    }
}
