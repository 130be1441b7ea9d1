//! Times as people write them: `2026-01-31T12:00:00Z`, or a length of time such as `10m`.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use zyven_runtime::config::parse_duration;

const RULE: &str = "must be a time such as 2026-01-31T12:00:00Z, or a length of time such as 10m";

/// A time, or how long ago it was.
pub(crate) fn ago(text: &str) -> Result<DateTime<Utc>, &'static str> {
    read(text, |length| Utc::now().checked_sub_signed(length))
}

/// A time, or in how long it will be.
pub(crate) fn ahead(text: &str) -> Result<DateTime<Utc>, &'static str> {
    read(text, |length| Utc::now().checked_add_signed(length))
}

fn read(
    text: &str,
    from_now: impl FnOnce(TimeDelta) -> Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, &'static str> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let length = parse_duration(text).map_err(|_| RULE)?;
    let length = TimeDelta::from_std(length).map_err(|_| RULE)?;
    from_now(length).ok_or(RULE)
}

/// As the API reads it.
pub(crate) fn written(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_out_or_told_from_now() {
        let exact = ago("2026-01-31T13:00:00.5+01:00").expect("a time");
        assert_eq!(written(exact), "2026-01-31T12:00:00.500000Z");
        let now = Utc::now();
        let (past, future) = (ago("1h").expect("a time"), ahead("1h").expect("a time"));
        assert!(past < now && now < future);
        assert!((future - past - TimeDelta::hours(2)).abs() < TimeDelta::minutes(1));
        for bad in [
            "",
            "yesterday",
            "10",
            "-1h",
            "2026-01-31",
            "99999999999999d",
        ] {
            assert_eq!(ago(bad), Err(RULE), "{bad}");
        }
    }
}
