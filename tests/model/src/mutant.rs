//! Wrong protocols. Each changes one rule, and each is caught: that is the evidence that the checks can
//! fail at all.

/// One rule that is changed. What catches it stands in `tests/it/mutants.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// T4 and T5 believe whoever reports a failure.
    FailureNeedsNoToken,
    /// T3 refuses a success on a lost lease.
    SuccessNeedsTheToken,
    /// A release clears whosever lease it finds.
    ReleaseNeedsNoToken,
    /// UNCLAIM does.
    UnclaimNeedsNoToken,
    /// T2 takes what Redis proposes, leased or not.
    ClaimIgnoresTheLease,
    /// T8 calls off what is being attempted.
    CancelIgnoresTheLease,
    /// A dispatcher sends under whatever lease it was once given.
    NoLookAtTheOwnClock,
    /// An attempt may last until the very end of its lease.
    NoAllowanceForClocks,
    /// The own clock starts when the answer is there, not when the question was asked.
    LeaseCountsFromTheAnswer,
    /// The outbox row goes in one commit, the finished row comes in another.
    FinishesInTwoCommits,
    /// T7 makes a row of the same generation.
    ReplayKeepsTheGeneration,
    /// The scrubber leaves out every row with a token, also when its lease is over.
    ScrubberSkipsLeasedForEver,
    /// Redis hears of an end before PostgreSQL does, and the scrubber believes Redis.
    RedisIsToldFirst,
    /// Nobody gives an emptied Redis a new epoch.
    NobodyBeginsAnEpoch,
    /// A dispatcher sends although its last beat is too old.
    TheSilentSend,
    /// The relay ends leases of dispatchers that it has not declared dead.
    LeasesEndUndeclared,
    /// The publisher gets its 202 while the transaction runs.
    AcknowledgesBeforeTheCommit,
    /// It gets it after a commit that is not on disk.
    AcknowledgesWhatMayBeForgotten,
    /// A batch that is run again stores its event again.
    RepetitionsAreNotRecognised,
    /// Ingest pushes tickets itself, before it commits, and the relay relies on it.
    TicketsBeforeTheCommit,
    /// The cursor moves, and then tickets are pushed.
    MovesBeforeItPushes,
    /// The relay remembers a position and no gaps.
    KeepsNoLedger,
    /// A gap is forgotten once its date is below the snapshot's xmax.
    ComparesWithXmax,
    /// The own transaction id is drawn before the page is read.
    DatesGapsBeforeThePage,
    /// xmin is read after the gaps have been looked up.
    ReadsXminAfterTheLookUp,
    /// A writer draws its sequence number before it owns a transaction id.
    DrawsBeforeOwningAnId,
    /// A new leader trusts what it finds in Redis.
    TakesOverWithoutAWalk,
    /// The relay goes on from where it was, whatever PostgreSQL may have forgotten.
    KeepsItsPlaceAfterAnError,
    /// The cursor moves although a walk has begun since the tickets were pushed.
    MovesBehindAWalk,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 29] = [
        Self::FailureNeedsNoToken,
        Self::SuccessNeedsTheToken,
        Self::ReleaseNeedsNoToken,
        Self::UnclaimNeedsNoToken,
        Self::ClaimIgnoresTheLease,
        Self::CancelIgnoresTheLease,
        Self::NoLookAtTheOwnClock,
        Self::NoAllowanceForClocks,
        Self::LeaseCountsFromTheAnswer,
        Self::FinishesInTwoCommits,
        Self::ReplayKeepsTheGeneration,
        Self::ScrubberSkipsLeasedForEver,
        Self::RedisIsToldFirst,
        Self::NobodyBeginsAnEpoch,
        Self::TheSilentSend,
        Self::LeasesEndUndeclared,
        Self::AcknowledgesBeforeTheCommit,
        Self::AcknowledgesWhatMayBeForgotten,
        Self::RepetitionsAreNotRecognised,
        Self::TicketsBeforeTheCommit,
        Self::MovesBeforeItPushes,
        Self::KeepsNoLedger,
        Self::ComparesWithXmax,
        Self::DatesGapsBeforeThePage,
        Self::ReadsXminAfterTheLookUp,
        Self::DrawsBeforeOwningAnId,
        Self::TakesOverWithoutAWalk,
        Self::KeepsItsPlaceAfterAnError,
        Self::MovesBehindAWalk,
    ];
}
