//! Lease tokens: whose a lease is, and which of its owner's claims it belongs to.
//!
//! A token is a dispatcher's *number* followed by the number of its claim. So one claim can be told from
//! another, which is what guards a settlement, and all leases of one dispatcher are one range of tokens,
//! which is what can be ended when it has died (ADR 0029). The claim's number begins anew after 16 million
//! claims, hours after the lease that had it last.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a lease lasts beyond the longest attempt in its batch: for confirming it, starting the
/// attempts, and recording what came of them. `zyven.explain_delivery` counts with it.
pub const MARGIN: Duration = Duration::from_secs(5);

/// Bits of a token that count claims.
const CLAIM_BITS: u32 = 24;

/// Under what a dispatcher is known from one registration to the next: 39 bits of chance, never 0, so that
/// a token is positive and never 0 either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DispatcherNumber(i64);

impl DispatcherNumber {
    /// The largest one.
    pub const MAX: i64 = (1 << (63 - CLAIM_BITS)) - 1;

    /// A number made of random bits.
    #[must_use]
    pub fn of_chance(chance: u64) -> Self {
        let number = (chance >> (CLAIM_BITS + 1)).cast_signed();
        Self(number.max(1))
    }

    /// Reads one back; `None` if it was never one.
    #[must_use]
    pub fn from_i64(number: i64) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// As it is stored.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        self.0
    }

    /// The token of its `claim`-th claim.
    #[must_use]
    pub fn token(self, claim: u64) -> i64 {
        let claim = claim & ((1 << CLAIM_BITS) - 1);
        (self.0 << CLAIM_BITS) | claim.cast_signed()
    }

    /// All its tokens.
    #[must_use]
    pub fn tokens(self) -> RangeInclusive<i64> {
        let first = self.0 << CLAIM_BITS;
        first..=first | ((1 << CLAIM_BITS) - 1)
    }
}

impl fmt::Display for DispatcherNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_two_dispatchers_never_meet() {
        let numbers = [1, 2, 77, DispatcherNumber::MAX - 1, DispatcherNumber::MAX];
        let numbers = numbers.map(|number| DispatcherNumber::from_i64(number).unwrap());
        for number in numbers {
            for claim in [0, 1, (1 << CLAIM_BITS) - 1, 1 << CLAIM_BITS, u64::MAX] {
                let token = number.token(claim);
                assert!(token > 0);
                for other in numbers {
                    assert_eq!(other.tokens().contains(&token), other == number);
                }
            }
        }
    }

    #[test]
    fn claims_in_a_row_have_different_tokens() {
        let number = DispatcherNumber::of_chance(u64::MAX);
        assert_eq!(number.as_i64(), DispatcherNumber::MAX);
        assert_eq!(number.token(0), *number.tokens().start());
        assert_eq!(number.token(u64::MAX), *number.tokens().end());
        assert_ne!(number.token(1), number.token(2));
    }

    #[test]
    fn chance_never_makes_a_number_that_is_none() {
        for chance in [0, 1, 1 << CLAIM_BITS, 1 << (CLAIM_BITS + 1), u64::MAX] {
            let number = DispatcherNumber::of_chance(chance);
            assert_eq!(DispatcherNumber::from_i64(number.as_i64()), Some(number));
        }
        for wrong in [i64::MIN, -1, 0, DispatcherNumber::MAX + 1] {
            assert_eq!(DispatcherNumber::from_i64(wrong), None);
        }
    }
}
