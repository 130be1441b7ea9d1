//! Wrong protocols, each caught by the invariant it breaks.

use zyven_model::check::{Violation, visit};
use zyven_model::delivery::{DeliveryModel, Rules};
use zyven_model::hand_over::{self, HandOverModel};
use zyven_model::mutant::Mutant;

/// Deliveries are independent of each other, so one is enough to break each rule about them.
const DELIVERING: [(Mutant, &str); 16] = [
    (
        Mutant::FailureNeedsNoToken,
        "3 no concurrent attempts inside a lease",
    ),
    (Mutant::SuccessNeedsTheToken, "4 success is sticky"),
    (
        Mutant::ReleaseNeedsNoToken,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::UnclaimNeedsNoToken,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::ClaimIgnoresTheLease,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::CancelIgnoresTheLease,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::NoLookAtTheOwnClock,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::NoAllowanceForClocks,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::LeaseCountsFromTheAnswer,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::TheSilentSend,
        "3 no concurrent attempts inside a lease",
    ),
    (
        Mutant::LeasesEndUndeclared,
        "3 no concurrent attempts inside a lease",
    ),
    (Mutant::FinishesInTwoCommits, "1 conservation"),
    (Mutant::ReplayKeepsTheGeneration, "1 conservation"),
    (Mutant::ScrubberSkipsLeasedForEver, "6 liveness"),
    (Mutant::RedisIsToldFirst, "6 liveness"),
    (Mutant::NobodyBeginsAnEpoch, "6 liveness"),
];

const HANDING_OVER: [(Mutant, &str); 13] = [
    (
        Mutant::AcknowledgesBeforeTheCommit,
        "5 acknowledged means durable",
    ),
    (
        Mutant::AcknowledgesWhatMayBeForgotten,
        "5 acknowledged means durable",
    ),
    (Mutant::RepetitionsAreNotRecognised, "1 conservation"),
    (
        Mutant::TicketsBeforeTheCommit,
        "6 liveness: without the scrubber",
    ),
    (
        Mutant::MovesBeforeItPushes,
        "6 liveness: without the scrubber",
    ),
    (Mutant::KeepsNoLedger, "6 liveness: without the scrubber"),
    (Mutant::ComparesWithXmax, "6 liveness: without the scrubber"),
    (
        Mutant::DatesGapsBeforeThePage,
        "6 liveness: without the scrubber",
    ),
    (
        Mutant::ReadsXminAfterTheLookUp,
        "6 liveness: without the scrubber",
    ),
    (
        Mutant::DrawsBeforeOwningAnId,
        "6 liveness: without the scrubber",
    ),
    (
        Mutant::TakesOverWithoutAWalk,
        "6 liveness: without the scrubber",
    ),
    (
        Mutant::KeepsItsPlaceAfterAnError,
        "6 liveness: without the scrubber",
    ),
    (Mutant::MovesBehindAWalk, "6 liveness: without the scrubber"),
];

fn is_caught(mutant: Mutant, violation: Option<&Violation>, by: &str) {
    let violation = violation.unwrap_or_else(|| panic!("{mutant:?} is not caught"));
    println!("{mutant:?}: {violation}");
    assert_eq!(violation.property, by, "{mutant:?}: {violation}");
}

#[test]
fn every_wrong_way_to_deliver_is_caught() {
    for (mutant, by) in DELIVERING {
        let rules = Rules::of_size(1, 2).with(mutant);
        let report = visit(|| DeliveryModel::new(rules), 1);
        is_caught(mutant, report.violation.as_ref(), by);
    }
}

#[test]
fn every_wrong_way_to_hand_over_is_caught() {
    for (mutant, by) in HANDING_OVER {
        let rules = hand_over::Rules::of_size(2, 2).with(mutant);
        let report = visit(|| HandOverModel::new(rules), 1);
        is_caught(mutant, report.violation.as_ref(), by);
    }
}

#[test]
fn every_mutant_is_tried() {
    let tried: Vec<Mutant> = (DELIVERING.iter().chain(&HANDING_OVER))
        .map(|(mutant, _)| *mutant)
        .collect();
    for mutant in Mutant::ALL {
        assert!(tried.contains(&mutant), "{mutant:?} is tried by no model");
    }
    assert_eq!(tried.len(), Mutant::ALL.len());
}
