//! The protocol as it is.

use std::collections::HashSet;

use stateright::Model as _;
use zyven_model::check::{self, Narrated as _, visit};
use zyven_model::delivery::{DeliveryModel, Rules};
use zyven_model::hand_over::{self, HandOverModel};

/// Any number of crashes of everything, at any point.
#[test]
fn two_dispatchers_and_two_deliveries_keep_the_invariants_whatever_dies() {
    let report = visit(|| DeliveryModel::new(Rules::of_size(2, 2)), 2);
    println!("delivery, 2 deliveries, 2 dispatchers: {report}");
    assert!(report.violation.is_none(), "{report}");
    assert!(
        report.states > 100_000,
        "the model has lost its states: {report}"
    );
}

#[test]
fn two_writers_and_a_relay_keep_the_invariants_through_two_faults() {
    let report = visit(|| HandOverModel::new(hand_over::Rules::of_size(2, 2)), 2);
    println!("hand-over, 2 writers, 2 faults: {report}");
    assert!(report.violation.is_none(), "{report}");
    assert!(
        report.states > 100_000,
        "the model has lost its states: {report}"
    );
}

/// Visits two small systems with and without reductions.
#[test]
fn the_reductions_hide_nothing() {
    for (deliveries, dispatchers) in [(1, 2), (2, 1)] {
        let rules = Rules::of_size(deliveries, dispatchers);
        let reduced = DeliveryModel::new(rules);
        let known: HashSet<_> = check::reachable(&reduced);
        let plain = DeliveryModel::new(Rules {
            is_reduced: false,
            ..rules
        });
        let all = check::reachable(&plain);
        assert!(
            all.len() > 3 * known.len(),
            "{} and {}",
            all.len(),
            known.len()
        );
        // The last step before a hidden state is what the reductions are wrong about.
        for state in all {
            if known.contains(&reduced.unnamed(&state)) {
                for (action, next) in plain.next_steps(&state) {
                    let is_hidden = !known.contains(&reduced.unnamed(&next));
                    assert!(
                        !is_hidden,
                        "{action:?} of {state:?} leads to the hidden {next:?}"
                    );
                }
            }
        }
    }
}

/// Every state that a step leads to, and the one that stands for it, break the same properties and lead to the same states. Without the
/// reduction the ids of transactions would grow without end, so that there is no whole set to compare with.
#[test]
fn states_of_the_hand_over_that_differ_in_names_only_have_the_same_future() {
    let model = HandOverModel::new(hand_over::Rules::of_size(2, 1));
    let properties = model.properties();
    let broken = |state: &_| -> Vec<&str> {
        let broken = properties.iter().filter(|p| !(p.condition)(&model, state));
        broken.map(|property| property.name).collect()
    };
    let future = |state: &_| -> HashSet<_> {
        let steps = model.next_steps(state).into_iter();
        steps.map(|(_, next)| model.unnamed(&next)).collect()
    };
    let mut renamed = 0;
    for state in check::reachable(&model) {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        for action in actions {
            let Some(plain) = model.step(&state, action) else {
                continue;
            };
            let stands_for_it = model.unnamed(&plain);
            if plain != stands_for_it {
                renamed += 1;
                assert_eq!(
                    (broken(&plain), future(&plain)),
                    (broken(&stands_for_it), future(&stands_for_it)),
                    "{action:?} of {state:?}"
                );
            }
        }
    }
    assert!(renamed > 1_000, "{renamed} states were renamed");
}

/// What the allowance for clocks is worth: without it nothing is lost either, only a duplicate is possible.
#[test]
fn clocks_that_differ_by_more_than_the_allowance_cost_duplicates_and_nothing_else() {
    let rules = Rules {
        allowance_ticks: 0,
        ..Rules::of_size(1, 2)
    };
    let report = visit(|| DeliveryModel::new(rules), 1);
    let violation = report.violation.expect("two requests overlap");
    assert_eq!(
        violation.property,
        "3 no concurrent attempts inside a lease"
    );
    let report = visit(|| DeliveryModel::new(rules).allowing_duplicates(), 1);
    assert!(report.violation.is_none(), "{report}");
}
