//! Numbers with units.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

const BYTES_UNITS: [(&str, u64); 4] = [
    ("GiB", 1024 * 1024 * 1024),
    ("MiB", 1024 * 1024),
    ("KiB", 1024),
    ("B", 1),
];

/// The text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number with a unit: ms, s, m, h or d, such as 15s")]
pub struct ParseDurationError;

/// The text is no number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number, optionally with a unit: B, KiB, MiB or GiB, such as 256KiB")]
pub struct ParseBytesError;

/// Reads a whole number with one of the units `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
///
/// [`ParseDurationError`] for everything else, a number without a unit included.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let milliseconds = parse(text, &DURATION_UNITS).ok_or(ParseDurationError)?;
    Ok(Duration::from_millis(milliseconds))
}

/// Reads a whole number, alone or with one of the units `B`, `KiB`, `MiB`, `GiB`.
///
/// # Errors
///
/// [`ParseBytesError`] for everything else.
pub fn parse_bytes(text: &str) -> Result<u64, ParseBytesError> {
    text.parse()
        .ok()
        .or_else(|| parse(text, &BYTES_UNITS))
        .ok_or(ParseBytesError)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that needs no fraction.
/// What is finer than a millisecond is left out.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    format(milliseconds, &DURATION_UNITS)
}

/// Writes a number of bytes as [`parse_bytes`] reads it, in the largest unit that needs no fraction.
pub fn format_bytes(bytes: u64) -> String {
    format(bytes, &BYTES_UNITS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, size) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*size)
}

fn format(quantity: u64, units: &[(&str, u64)]) -> String {
    let whole = units
        .iter()
        .find(|(_, size)| quantity >= *size && quantity.is_multiple_of(*size));
    // Only zero is no multiple of the smallest unit, which is one.
    let (name, size) = whole.or(units.last()).unwrap_or(&("", 1));
    format!("{}{name}", quantity / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("1ms", 1),
            ("15s", 15_000),
            ("15 s", 15_000),
            ("2m", 120_000),
            ("12h", 43_200_000),
            ("4d", 345_600_000),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "15",
            "s",
            "1.5s",
            "-1s",
            "1S",
            "1w",
            "1s2",
            "١s",
            "+1s",
            // Overflows, in the number and in the product.
            "18446744073709551616ms",
            "18446744073709551615s",
        ] {
            assert_eq!(parse_duration(text), Err(ParseDurationError), "{text}");
        }
    }

    #[test]
    fn bytes_may_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("8589934592", 8 << 30),
            ("1B", 1),
            ("256KiB", 256 << 10),
            ("5 MiB", 5 << 20),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "1KB",
            "1kib",
            "-1",
            "1.5MiB",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse_bytes(text), Err(ParseBytesError), "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for (text, milliseconds) in [
            ("0ms", 0),
            ("1500ms", 1500),
            ("90s", 90_000),
            ("1d", 86_400_000),
        ] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(format_duration(duration), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
        for (text, bytes) in [
            ("0B", 0),
            ("1025B", 1025),
            ("256KiB", 256 << 10),
            ("3GiB", 3 << 30),
        ] {
            assert_eq!(format_bytes(bytes), text);
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
    }
}
