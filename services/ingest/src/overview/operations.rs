//! What the routes that a console asks first do, for those who call them.

use http::StatusCode;

use super::{CurrentKeyView, MINUTES, MINUTES_DEFAULT, StatisticsView};
use crate::openapi::schema::number;
use crate::openapi::{Operation, values};
use crate::problem::Code;

pub(crate) fn current_key() -> Operation {
    Operation::new("getCurrentApiKey", "Read the key that asks")
        .about("Whose it is, and what it may.")
        .answer::<CurrentKeyView<'_>>(StatusCode::OK, "The key.")
        .problem(Code::NotFound)
}

pub(crate) fn statistics() -> Operation {
    let minutes = number(u64::from(*MINUTES.start())..=u64::from(*MINUTES.end()))
        .default(MINUTES_DEFAULT)
        .about("How long the period is. A step has as many seconds.");
    Operation::new("getStatistics", "Read statistics")
        .about("How deliveries of the events accepted in a period have gone, in sixty steps up to now, and what \
             waits. Each answer is counted anew, two at a time; others wait for their turn.")
        .query("minutes", minutes)
        .query("endpoint", values::EndpointId::schema().about("Of this endpoint alone."))
        .answer::<StatisticsView>(StatusCode::OK, "The statistics.")
}
