//! Watching dispatchers' beats: who has been silent for so long that it must be dead (ADR 0029).
//!
//! Only silence that this relay has itself listened through counts. Whenever it could not look for a while,
//! because PostgreSQL was away or this process was frozen, everybody gets the whole time anew: in an outage of
//! PostgreSQL nobody can beat, and nobody has died of it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use zyven_domain::lease::DispatcherNumber;
use zyven_store::DispatcherBeat;

/// How long a beat must stay the same for its dispatcher to be declared dead. A dispatcher whose last beat is
/// 2 s old begins no request (`SILENCE_MAX` in its presence module); beats come once a second, and looks as
/// often. The first look that can find this much silence is the third one behind that which saw the last beat.
const SILENCE: Duration = Duration::from_millis(2_800);
/// Longest time from one look to the next for both to count as listening: one that is late on a busy machine,
/// not one that was left out.
const GAP_MAX: Duration = Duration::from_millis(2_500);

/// What one relay has heard.
#[derive(Debug, Default)]
pub struct Watch {
    heard: HashMap<DispatcherNumber, Heard>,
    looked: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    beat: i64,
    /// When the beat was there for the first time: the end of that look.
    since: Instant,
}

impl Watch {
    /// Takes note of a look that failed.
    pub fn interrupt(&mut self) {
        self.looked = None;
    }

    /// Takes note of a look that began and ended at these moments. Returns who is dead, as far as this relay
    /// can tell.
    pub fn look(
        &mut self,
        beats: &[DispatcherBeat],
        began: Instant,
        ended: Instant,
    ) -> Vec<DispatcherBeat> {
        let has_listened = (self.looked).is_some_and(|looked| began - looked <= GAP_MAX);
        self.looked = Some(ended);
        if !has_listened {
            self.heard.clear();
        }
        let before = std::mem::take(&mut self.heard);
        for it in beats.iter().filter(|it| !it.is_dead) {
            let same = before.get(&it.number).filter(|heard| heard.beat == it.beat);
            let since = same.map_or(ended, |heard| heard.since);
            let heard = Heard {
                beat: it.beat,
                since,
            };
            self.heard.insert(it.number, heard);
        }
        let silent = beats.iter().filter(|it| {
            let heard = self.heard.get(&it.number);
            heard.is_some_and(|heard| began.saturating_duration_since(heard.since) >= SILENCE)
        });
        silent.copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(beat: i64) -> DispatcherBeat {
        DispatcherBeat {
            number: DispatcherNumber::from_i64(1).unwrap(),
            beat,
            is_dead: false,
        }
    }

    /// Looks at these milliseconds, each of which takes 10, and finds these beats; returns those looks that
    /// found it dead.
    fn deaths(looks: &[(u64, i64)]) -> Vec<u64> {
        let start = Instant::now();
        let mut watch = Watch::default();
        let dead = looks.iter().filter(|(at_ms, number)| {
            let began = start + Duration::from_millis(*at_ms);
            let ended = began + Duration::from_millis(10);
            !watch.look(&[beat(*number)], began, ended).is_empty()
        });
        dead.map(|(at_ms, _)| *at_ms).collect()
    }

    #[test]
    fn who_is_silent_for_three_looks_is_dead_and_no_sooner() {
        let looks = [(0, 1), (1000, 2), (2000, 2), (3000, 2), (4000, 2)];
        assert_eq!(deaths(&looks), [4000]);
        assert_eq!(deaths(&[(0, 1), (1400, 1), (2809, 1)]), Vec::<u64>::new());
        assert_eq!(deaths(&[(0, 1), (1400, 1), (2810, 1)]), [2810]);
    }

    #[test]
    fn who_beats_lives_however_slowly() {
        let looks: Vec<_> = (0..20_u64)
            .map(|look| (look * 1000, (look / 2).cast_signed()))
            .collect();
        assert_eq!(deaths(&looks), Vec::<u64>::new());
    }

    #[test]
    fn a_silence_nobody_listened_to_is_no_evidence() {
        // Away for eight seconds; the old beat is still there at first.
        let looks = [(0, 1), (1000, 1), (9000, 1), (10_000, 1), (11_000, 2)];
        assert_eq!(deaths(&looks), Vec::<u64>::new());
        let looks = [
            (0, 1),
            (9000, 1),
            (10_000, 1),
            (11_000, 1),
            (11_800, 1),
            (12_000, 1),
        ];
        assert_eq!(deaths(&looks), [12_000]);
    }

    #[test]
    fn a_look_that_failed_is_an_interruption() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Watch::default();
        assert!(watch.look(&[beat(1)], at(0), at(10)).is_empty());
        watch.interrupt();
        assert!(watch.look(&[beat(1)], at(2_000), at(2_010)).is_empty());
        assert!(watch.look(&[beat(1)], at(4_000), at(4_010)).is_empty());
        assert_eq!(watch.look(&[beat(1)], at(4_900), at(4_910)).len(), 1);
    }

    #[test]
    fn a_look_that_takes_long_is_no_evidence_of_the_time_it_took() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Watch::default();
        assert!(watch.look(&[beat(1)], at(0), at(2_900)).is_empty());
        assert!(watch.look(&[beat(1)], at(4_000), at(4_010)).is_empty());
        assert!(watch.look(&[beat(1)], at(5_699), at(5_709)).is_empty());
        assert_eq!(watch.look(&[beat(1)], at(5_700), at(5_710)).len(), 1);
    }

    #[test]
    fn who_is_dead_already_or_has_left_is_not_declared_dead_again() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Watch::default();
        let dead = DispatcherBeat {
            is_dead: true,
            ..beat(1)
        };
        for second in 0..6 {
            let look = watch.look(&[dead], at(second * 1000), at(second * 1000 + 10));
            assert_eq!(look, []);
        }
        assert!(watch.heard.is_empty());
    }
}
