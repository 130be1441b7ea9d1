//! Settings. A service declares what it reads, with meaning and default; mistakes accumulate, so an
//! operator mends a configuration once and not once per mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// Exit code of a process whose configuration is wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// What every setting's name starts with.
pub const PREFIX: &str = "ZYVEN_";

/// Names a file of `NAME=value` lines, read before the environment, which has the last word.
pub const CONFIG_FILE: &str = "ZYVEN_CONFIG_FILE";

/// Names with the prefix that belong to tools around the services.
const FOREIGN_PREFIXES: [&str; 3] = ["ZYVEN_TEST_", "ZYVEN_LOCAL_", "ZYVEN_BENCH_"];

/// A setting somebody declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `ZYVEN_…`.
    pub name: &'static str,
    /// One sentence without a full stop.
    pub meaning: &'static str,
    /// The value used where none is given; `None` if one must be given.
    pub default: Option<&'static str>,
    /// True if the value is never shown.
    pub secret: bool,
}

/// What the environment says about sockets that were passed to a process; see [`crate::inherited`]. Not a
/// setting of Zyven's: whoever starts the process writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activation {
    /// `LISTEN_PID`.
    pub pid: Option<String>,
    /// `LISTEN_FDS`.
    pub count: Option<String>,
}

impl Activation {
    /// What the process's environment says.
    pub fn from_environment() -> Self {
        let read = |name| std::env::var(name).ok();
        Self {
            pid: read("LISTEN_PID"),
            count: read("LISTEN_FDS"),
        }
    }
}

/// Where settings come from, and what was found wrong with them so far.
#[derive(Debug, Default)]
pub struct Source {
    values: BTreeMap<String, String>,
    declared: BTreeMap<&'static str, Setting>,
    mistakes: Vec<String>,
}

/// Everything that is wrong with a configuration. Displays one mistake per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence each, naming the setting and the rule.
    pub mistakes: Vec<String>,
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the configuration has {} mistake(s):",
            self.mistakes.len()
        )?;
        for mistake in &self.mistakes {
            write!(f, "\n  - {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Source {
    /// The process's environment, on top of the file that [`CONFIG_FILE`] names.
    pub fn from_environment() -> Self {
        let mut source = Self::default();
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .filter_map(|(name, value)| match value.into_string() {
                Ok(value) => Some((name, value)),
                Err(_) => {
                    source.mistakes.push(format!("{name} must be UTF-8"));
                    None
                }
            })
            .collect();
        if let Some(path) = environment.get(CONFIG_FILE) {
            source.read_file(Path::new(path));
        }
        source.values.extend(environment);
        source.values.remove(CONFIG_FILE);
        source
    }

    /// Exactly these settings, for tests.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self {
            values: pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            ..Self::default()
        }
    }

    fn read_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.mistake(CONFIG_FILE, &format!("cannot be read: {error}"));
                return;
            }
        };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) if name.trim().starts_with(PREFIX) => {
                    self.values
                        .insert(name.trim().to_owned(), value.trim().to_owned());
                }
                _ => self.mistakes.push(format!(
                    "{}: line {} must read {PREFIX}NAME=value",
                    path.display(),
                    index + 1
                )),
            }
        }
    }

    /// A setting of any type that can be read from text. Without a default it must be given. `None`
    /// only after a mistake was recorded.
    pub fn value<T: FromStr>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text(name, meaning, default, false)?;
        self.parse(name, &text, from_text)
    }

    /// Like [`Source::value`], for what must never be shown: the mistake's text comes from the
    /// type's error, which must not repeat the value.
    pub fn secret<T: FromStr>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text(name, meaning, default, true)?;
        self.parse(name, &text, from_text)
    }

    /// A setting that may be absent: the outer `None` is a mistake, the inner one absence.
    pub fn optional<T: FromStr>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
    ) -> Option<Option<T>>
    where
        T::Err: Display,
    {
        let text = self.text(name, meaning, Some(""), false)?;
        if text.is_empty() {
            return Some(None);
        }
        self.parse(name, &text, from_text).map(Some)
    }

    /// Like [`Source::optional`], for what must never be shown; see [`Source::secret`].
    pub fn optional_secret<T: FromStr>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
    ) -> Option<Option<T>>
    where
        T::Err: Display,
    {
        let text = self.text(name, meaning, Some(""), true)?;
        if text.is_empty() {
            return Some(None);
        }
        self.parse(name, &text, from_text).map(Some)
    }

    /// Values separated by commas; blanks around them do not count. Empty text is an empty list.
    pub fn list<T: FromStr>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        let text = self.text(name, meaning, default, false)?;
        self.parse(name, &text, |text| {
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| {
                    item.parse()
                        .map_err(|error: T::Err| format!("\"{item}\": {error}"))
                })
                .collect()
        })
    }

    /// A length of time: a whole number and a unit, `250ms`, `15s`, `5m`, `24h` or `30d`.
    pub fn duration(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<Duration> {
        let text = self.text(name, meaning, default, false)?;
        self.parse(name, &text, parse_duration)
    }

    /// Like [`Source::duration`], within bounds, both included.
    pub fn duration_in(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let duration = self.duration(name, meaning, default)?;
        if bounds.contains(&duration) {
            return Some(duration);
        }
        let (shortest, longest) = (bounds.start(), bounds.end());
        self.mistake(
            name,
            &format!("must be between {shortest:?} and {longest:?}"),
        );
        None
    }

    /// A number of bytes: a whole number, optionally with `KiB`, `MiB` or `GiB`.
    pub fn bytes(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<usize> {
        let text = self.text(name, meaning, default, false)?;
        self.parse(name, &text, parse_bytes)
    }

    /// A whole number within bounds, both included.
    pub fn number(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let text = self.text(name, meaning, default, false)?;
        self.parse(name, &text, |text| {
            let rule = || {
                format!(
                    "must be a whole number from {} to {}",
                    bounds.start(),
                    bounds.end()
                )
            };
            let number = text.parse::<u64>().map_err(|_| rule())?;
            bounds.contains(&number).then_some(number).ok_or_else(rule)
        })
    }

    /// Whether a setting was given at all, for what is read only if something else was said.
    pub fn is_set(&self, name: &str) -> bool {
        self.values
            .get(name)
            .is_some_and(|value| !value.trim().is_empty())
    }

    /// Records that a setting breaks a rule which only its reader knows.
    pub fn mistake(&mut self, name: &str, rule: &str) {
        self.mistakes.push(format!("{name} {rule}"));
    }

    /// Every setting declared so far, by name.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.declared.values()
    }

    /// The end of reading.
    ///
    /// # Errors
    /// Every mistake recorded so far.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                mistakes: self.mistakes,
            })
        }
    }

    /// The end of reading, where `known` are all settings that any part of Zyven declares: a name
    /// outside of them is a typing error, and a typing error is a setting that has no effect.
    ///
    /// # Errors
    /// Every mistake, unknown names included.
    pub fn finish_strict(mut self, known: &BTreeSet<&str>) -> Result<(), ConfigError> {
        let unknown: Vec<String> = self
            .values
            .keys()
            .filter(|name| !known.contains(name.as_str()))
            .filter(|name| !FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p)))
            .cloned()
            .collect();
        for name in unknown {
            let hint = nearest(&name, known)
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            self.mistakes.push(format!("{name} is not a setting{hint}"));
        }
        self.finish()
    }

    fn text(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
        secret: bool,
    ) -> Option<String> {
        self.declared.insert(
            name,
            Setting {
                name,
                meaning,
                default,
                secret,
            },
        );
        let given = self.values.get(name).map(|value| value.trim().to_owned());
        match given
            .filter(|value| !value.is_empty())
            .or_else(|| default.map(str::to_owned))
        {
            Some(value) => Some(value),
            None => {
                self.mistakes.push(format!("{name} must be set: {meaning}"));
                None
            }
        }
    }

    fn parse<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => Some(value),
            Err(rule) => {
                self.mistakes.push(format!("{name}: {rule}"));
                None
            }
        }
    }
}

fn from_text<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads a length of time as settings are written, such as `15s`.
///
/// # Errors
/// The rule, as a sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let rule = || {
        format!("\"{text}\" must be a whole number with a unit, such as 250ms, 15s, 5m, 24h or 30d")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| rule())?;
    let unit_ms: u64 = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(rule()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(rule)
}

/// Reads a number of bytes as settings are written, such as `256KiB`.
///
/// # Errors
/// The rule, as a sentence.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let rule =
        || format!("\"{text}\" must be a whole number of bytes, or one with KiB, MiB or GiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: usize = text[..digits].parse().map_err(|_| rule())?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(rule()),
    };
    number.checked_mul(unit).ok_or_else(rule)
}

/// The known name closest to a misspelt one, if any is close.
fn nearest<'a>(name: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .min()
        .filter(|(edits, candidate)| edits * 4 <= candidate.len())
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn all_mistakes_are_reported_together() {
        let mut source = Source::from_pairs([("ZYVEN_A", "x"), ("ZYVEN_B", "5 s")]);
        assert_eq!(
            source.value::<SocketAddr>("ZYVEN_A", "an address", None),
            None
        );
        assert_eq!(source.duration("ZYVEN_B", "a wait", None), None);
        assert_eq!(source.value::<u16>("ZYVEN_C", "a port", None), None);
        let error = source.finish().expect_err("three mistakes");
        assert_eq!(error.mistakes.len(), 3, "{error}");
        for (mistake, name) in error.mistakes.iter().zip(["ZYVEN_A", "ZYVEN_B", "ZYVEN_C"]) {
            assert!(mistake.starts_with(name), "{mistake}");
        }
    }

    #[test]
    fn defaults_fill_in_for_what_is_absent_or_empty() {
        let mut source = Source::from_pairs([("ZYVEN_A", " ")]);
        assert_eq!(
            source.value::<u16>("ZYVEN_A", "a port", Some("80")),
            Some(80)
        );
        assert_eq!(source.optional::<u16>("ZYVEN_B", "a port"), Some(None));
        assert_eq!(
            source.list::<u16>("ZYVEN_C", "ports", Some("1, 2")),
            Some(vec![1, 2])
        );
        assert_eq!(source.finish(), Ok(()));
    }

    #[test]
    fn durations_and_bytes_have_units() {
        for (text, ms) in [
            ("250ms", 250),
            ("15s", 15_000),
            ("5m", 300_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in ["", "5", "s", "1.5s", "-1s", "5 s", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("256KiB"), Ok(262_144));
        assert!(parse_bytes("1KB").is_err());
    }

    #[test]
    fn a_misspelt_setting_is_a_mistake_with_a_hint() {
        let source = Source::from_pairs([("ZYVEN_LISTN", "x"), ("ZYVEN_TEST_X", "y")]);
        let known = BTreeSet::from(["ZYVEN_LISTEN", "ZYVEN_OTHER"]);
        let error = source.finish_strict(&known).expect_err("misspelt");
        assert_eq!(
            error.mistakes,
            ["ZYVEN_LISTN is not a setting; did you mean ZYVEN_LISTEN?"]
        );
    }

    #[test]
    fn numbers_keep_to_their_bounds() {
        for (text, expected) in [
            ("1", Some(1)),
            ("9", Some(9)),
            ("0", None),
            ("10", None),
            ("x", None),
        ] {
            let mut source = Source::from_pairs([("ZYVEN_N", text)]);
            assert_eq!(
                source.number("ZYVEN_N", "a number", None, 1..=9),
                expected,
                "{text}"
            );
        }
    }
}
