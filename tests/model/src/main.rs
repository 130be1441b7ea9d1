//! `make model`: the same checks as `make test`, on larger systems. Takes minutes, and gigabytes.

#![expect(clippy::print_stdout, reason = "a report is what it is for")]

use std::process::ExitCode;
use std::thread::available_parallelism;

use zyven_model::check::{Report, visit};
use zyven_model::delivery::{DeliveryModel, Rules};
use zyven_model::hand_over::{self, HandOverModel};

/// Deliveries and dispatchers.
const DELIVERING: [(usize, usize); 4] = [(1, 2), (2, 2), (1, 3), (3, 2)];
/// Writers and faults.
const HANDING_OVER: [(usize, u8); 4] = [(2, 2), (2, 3), (3, 1), (3, 2)];

fn main() -> ExitCode {
    let threads = available_parallelism().map_or(1, usize::from);
    let mut holds = true;
    let mut tell = |what: String, report: Report| {
        println!("{what}: {report}");
        holds &= report.violation.is_none();
    };
    for (writers, faults) in HANDING_OVER {
        let rules = hand_over::Rules::of_size(writers, faults);
        let report = visit(|| HandOverModel::new(rules), threads);
        tell(
            format!("hand-over, {writers} writers, {faults} faults"),
            report,
        );
    }
    for (deliveries, dispatchers) in DELIVERING {
        let rules = Rules::of_size(deliveries, dispatchers);
        let report = visit(|| DeliveryModel::new(rules), threads);
        tell(
            format!(
                "delivery, {deliveries} deliveries, {dispatchers} dispatchers, any number of faults"
            ),
            report,
        );
    }
    if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
