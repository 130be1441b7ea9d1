//! The ledger of sequence numbers that were not there.
//!
//! Sequence numbers are drawn in order, but transactions commit in any order: a reader that has seen 7
//! and 9 does not know whether 8 was rolled back, is finished and gone, or will be committed by a slow
//! writer in a minute. The ledger keeps 8 until one of these is certain.
//!
//! # The rule
//!
//! A new gap is dated with an own transaction id X that was drawn *after* the page with the gap was
//! read. On every later poll the snapshot's xmin is read *first*, then the rows of the gaps, and then
//! those with X < xmin are forgotten.
//!
//! Why it holds: 8 was drawn before 9 was, so before the page was read. Whoever drew 8 owned a
//! transaction id before (every writer of the outbox writes another row first), and that id is smaller
//! than X. Once xmin is beyond X, every transaction with a smaller id has ended, and what it committed is
//! visible to a statement that begins now. If the row is still not there, it never will be.
//!
//! Comparing with the snapshot's xmax instead is wrong: a running writer can have an id beyond it.
//!
//! # Limits
//!
//! The ledger holds [`NUMBERS_MAX`] numbers and offers [`LOOK_UPS_MAX`] per poll. What does not fit is
//! left to the scrubber, which reads every row there is: late, but not lost.

use std::collections::BTreeMap;

/// Most numbers remembered.
pub const NUMBERS_MAX: usize = 10_000;

/// Most numbers looked up per poll, about a millisecond of PostgreSQL's time.
pub const LOOK_UPS_MAX: usize = 1_000;

/// Sequence numbers that were skipped, and what must have ended before they may be forgotten.
#[derive(Debug, Default)]
pub struct Gaps {
    open: BTreeMap<i64, u64>,
    /// Where the next look-up begins, so that all get their turn.
    turn: i64,
}

/// The numbers between `cursor` and the last of `seen` that are not in `seen`, which must ascend and
/// begin beyond `cursor`. At most [`NUMBERS_MAX`], the latest ones, and how many more there are.
pub fn missing(cursor: i64, seen: impl DoubleEndedIterator<Item = i64>) -> (Vec<i64>, u64) {
    let mut seen = seen.rev();
    let mut missing = Vec::new();
    let mut left_out = 0;
    let Some(mut above) = seen.next() else {
        return (missing, left_out);
    };
    for below in seen.chain([cursor]) {
        let room = NUMBERS_MAX - missing.len();
        let gap = above - below - 1;
        missing.extend((below + 1..above).rev().take(room));
        left_out += gap.unsigned_abs().saturating_sub(room as u64);
        above = below;
    }
    (missing, left_out)
}

impl Gaps {
    /// Remembers numbers that a page did not show. `xact_id` was drawn after the page was read. Returns
    /// how many found no room.
    pub fn remember(&mut self, missing: &[i64], xact_id: u64) -> u64 {
        let mut left_out = 0;
        for seq in missing {
            // A gap seen twice is dated by the later look, which is the safe side.
            if self.open.len() < NUMBERS_MAX || self.open.contains_key(seq) {
                self.open.insert(*seq, xact_id);
            } else {
                left_out += 1;
            }
        }
        left_out
    }

    /// The numbers to look up now, ascending.
    pub fn to_look_up(&mut self) -> Vec<i64> {
        let first = self.open.range(self.turn..);
        let then = self.open.range(..self.turn);
        let mut numbers: Vec<i64> = (first.chain(then).take(LOOK_UPS_MAX))
            .map(|(seq, _)| *seq)
            .collect();
        self.turn = numbers.last().map_or(0, |last| last + 1);
        numbers.sort_unstable();
        numbers
    }

    /// Closes what a look-up has decided: the numbers that were found, and those of `looked_up` whose
    /// writers have all ended. `xmin` was read *before* the look-up.
    pub fn settle(&mut self, looked_up: &[i64], found: impl IntoIterator<Item = i64>, xmin: u64) {
        for seq in found {
            self.open.remove(&seq);
        }
        for seq in looked_up {
            if self.open.get(seq).is_some_and(|xact_id| *xact_id < xmin) {
                self.open.remove(seq);
            }
        }
    }

    /// How many numbers are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True if every number was seen or decided.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn missing_of(cursor: i64, seen: &[i64]) -> (Vec<i64>, u64) {
        let (mut numbers, left_out) = missing(cursor, seen.iter().copied());
        numbers.sort_unstable();
        (numbers, left_out)
    }

    #[test]
    fn what_lies_between_is_missing() {
        assert_eq!(missing_of(5, &[]), (vec![], 0));
        assert_eq!(missing_of(5, &[6, 7]), (vec![], 0));
        assert_eq!(missing_of(5, &[7]), (vec![6], 0));
        assert_eq!(missing_of(5, &[6, 9, 11]), (vec![7, 8, 10], 0));
    }

    #[test]
    fn of_too_many_the_latest_are_kept() {
        let far = 3 * NUMBERS_MAX as i64;
        let (numbers, left_out) = missing_of(0, &[far]);
        assert_eq!(numbers.len(), NUMBERS_MAX);
        assert_eq!(numbers.last(), Some(&(far - 1)));
        assert_eq!(left_out, far as u64 - 1 - NUMBERS_MAX as u64);
    }

    #[test]
    fn a_gap_stays_while_its_writer_may_run() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.remember(&[8], 100), 0);
        for (xmin, is_open) in [(99, true), (100, true), (101, false)] {
            let looked_up = gaps.to_look_up();
            assert_eq!(looked_up, [8]);
            gaps.settle(&looked_up, [], xmin);
            assert_eq!(!gaps.is_empty(), is_open, "xmin {xmin}");
        }
    }

    #[test]
    fn a_row_that_was_found_closes_its_gap_whatever_still_runs() {
        let mut gaps = Gaps::default();
        gaps.remember(&[8, 10], 100);
        gaps.settle(&[8, 10], [8], 50);
        assert_eq!(gaps.to_look_up(), [10]);
    }

    #[test]
    fn only_what_was_looked_up_is_forgotten() {
        let mut gaps = Gaps::default();
        gaps.remember(&[8], 100);
        gaps.settle(&[], [], 1_000);
        assert_eq!(gaps.len(), 1);
    }

    #[test]
    fn a_full_ledger_says_what_it_leaves_out() {
        let mut gaps = Gaps::default();
        let all: Vec<i64> = (1..=NUMBERS_MAX as i64).collect();
        assert_eq!(gaps.remember(&all, 1), 0);
        assert_eq!(gaps.remember(&[20_000, 20_001], 1), 2);
        assert_eq!(gaps.remember(&[7], 2), 0, "known already");
        assert_eq!(gaps.len(), NUMBERS_MAX);
    }

    #[test]
    fn all_numbers_get_their_turn() {
        let mut gaps = Gaps::default();
        let all: Vec<i64> = (1..=2_500).collect();
        gaps.remember(&all, 1);
        let mut looked_up = BTreeSet::new();
        for _ in 0..3 {
            let numbers = gaps.to_look_up();
            assert!(numbers.len() <= LOOK_UPS_MAX);
            looked_up.extend(numbers);
        }
        assert_eq!(looked_up.len(), all.len());
    }

    /// PostgreSQL in miniature: writers draw an id, then numbers, and end in any order; whatever the
    /// order, no committed row is lost.
    #[derive(Debug, Default)]
    struct Database {
        next_xact_id: u64,
        running: BTreeMap<u64, Vec<i64>>,
        next_seq: i64,
        visible: BTreeSet<i64>,
    }

    impl Database {
        fn xmin(&self) -> u64 {
            self.running
                .keys()
                .next()
                .copied()
                .unwrap_or(self.next_xact_id)
        }

        fn draw_xact_id(&mut self) -> u64 {
            self.next_xact_id += 1;
            self.next_xact_id - 1
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        Draw(usize),
        End(usize, bool),
        Poll,
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Begin),
            5 => (0..8_usize).prop_map(Step::Draw),
            4 => (0..8_usize, prop::bool::weighted(0.7)).prop_map(|(i, c)| Step::End(i, c)),
            4 => Just(Step::Poll),
        ]
    }

    #[derive(Default)]
    struct Reader {
        cursor: i64,
        gaps: Gaps,
        seen: BTreeSet<i64>,
    }

    impl Reader {
        fn poll(&mut self, database: &mut Database) {
            let xmin = database.xmin();
            let looked_up = self.gaps.to_look_up();
            let found: Vec<i64> = (looked_up.iter().copied())
                .filter(|seq| database.visible.contains(seq))
                .collect();
            let page: Vec<i64> = database.visible.range(self.cursor + 1..).copied().collect();
            let (missing, _) = missing(self.cursor, page.iter().copied());
            self.seen.extend(found.iter().chain(&page));
            self.gaps.settle(&looked_up, found, xmin);
            if !missing.is_empty() {
                self.gaps.remember(&missing, database.draw_xact_id());
            }
            self.cursor = page.last().copied().unwrap_or(self.cursor);
        }
    }

    proptest! {
        #[test]
        fn no_committed_row_is_ever_lost(story in prop::collection::vec(steps(), 1..120)) {
            let mut database = Database { next_xact_id: 1, ..Database::default() };
            let mut reader = Reader::default();
            for step in story {
                let nth = |database: &Database, index: usize| {
                    let running = database.running.len();
                    (running > 0).then(|| *database.running.keys().nth(index % running).expect("there"))
                };
                match step {
                    Step::Begin => {
                        let id = database.draw_xact_id();
                        database.running.insert(id, Vec::new());
                    }
                    Step::Draw(index) => if let Some(id) = nth(&database, index) {
                        database.next_seq += 1;
                        let seq = database.next_seq;
                        database.running.entry(id).or_default().push(seq);
                    },
                    Step::End(index, commits) => if let Some(id) = nth(&database, index) {
                        let drawn = database.running.remove(&id).unwrap_or_default();
                        if commits {
                            database.visible.extend(drawn);
                        }
                    },
                    Step::Poll => reader.poll(&mut database),
                }
            }
            for (_, drawn) in std::mem::take(&mut database.running) {
                database.visible.extend(drawn);
            }
            reader.poll(&mut database);
            reader.poll(&mut database);
            prop_assert_eq!(&reader.seen, &database.visible);
            prop_assert!(reader.gaps.is_empty());
        }
    }
}
