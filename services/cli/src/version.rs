//! Which version of a thing a change is meant for (`ETag`, `If-Match`).

use std::fmt;
use std::str::FromStr;

/// Longer than any that the API tells.
const TAG_BYTES_MAX: usize = 128;

/// A version as `ETag` tells it. The quotation marks around it are for the wire: a shell would take them away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version(String);

impl Version {
    /// As it is sent.
    pub(crate) fn tag(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inside = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let inside = inside.unwrap_or(text);
        let is_right = (1..=TAG_BYTES_MAX).contains(&inside.len())
            && inside
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b','));
        if is_right {
            Ok(Self(inside.to_owned()))
        } else {
            Err("must be a version as zyven endpoints get shows it, the ETag of an answer")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_may_be_written_with_its_quotation_marks_or_without() {
        for text in ["5f3a", "\"5f3a\""] {
            let version: Version = text.parse().expect("a version");
            assert_eq!(version.tag(), "\"5f3a\"");
            assert_eq!(version.to_string(), "5f3a");
        }
        let longest = "a".repeat(TAG_BYTES_MAX);
        assert!(longest.parse::<Version>().is_ok());
        for bad in [
            "",
            "\"\"",
            "a b",
            "a\",\"b",
            "W/\"a\"",
            "é",
            &format!("{longest}a"),
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
