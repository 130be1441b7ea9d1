//! Numbers as arguments, with a rule that says what they may be.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Reads a whole number of this range.
pub fn within<N>(
    range: RangeInclusive<N>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!(
            "must be a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Reads a whole number that is not 0.
///
/// # Errors
/// It is something else.
pub fn positive(text: &str) -> Result<u64, &'static str> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        Ok(_) | Err(_) => Err("must be a whole number, at least 1"),
    }
}

/// Reads a whole number; what it may be, the server knows.
pub(crate) fn whole(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "must be a whole number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_number_hears_the_rule() {
        let read = within(2_u16..=40);
        for (text, number) in [("2", 2), ("40", 40)] {
            assert_eq!(read(text), Ok(number));
        }
        for bad in ["1", "41", "", "abc", "2.5", "-2", "99999999"] {
            let rule = "must be a whole number from 2 to 40".to_owned();
            assert_eq!(read(bad), Err(rule), "{bad}");
        }
        assert_eq!(positive("1"), Ok(1));
        assert_eq!(positive("0"), Err("must be a whole number, at least 1"));
        assert_eq!(whole("0"), Ok(0));
        assert_eq!(whole("1s"), Err("must be a whole number"));
    }
}
