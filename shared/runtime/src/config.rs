//! Settings: every one is a `ZYVEN_*` environment variable, and may also stand in a file of `KEY=VALUE`
//! lines that [`FILE_VARIABLE`] names. The environment beats the file; an empty value counts as unset.
//!
//! A service *declares* its settings by reading them. Reading never fails: it records a mistake and
//! returns `None`, so that one run finds all of them, and [`Source::finish`] reports them together.
//!
//! ```
//! use zyven_runtime::config::Source;
//!
//! let mut source = Source::from_pairs([("ZYVEN_BATCH_MAX", "0")]);
//! let batch_max = source.value_in("ZYVEN_BATCH_MAX", "rows per batch", Some("64"), 1..=1000);
//! let rest = source.duration("ZYVEN_REST", "pause when there is nothing to do", Some("250ms"));
//! assert_eq!(batch_max, None);
//! assert_eq!(rest, Some(std::time::Duration::from_millis(250)));
//! let error = source.finish().unwrap_err();
//! assert!(error.to_string().contains("ZYVEN_BATCH_MAX: must be 1 to 1000, not \"0\""));
//! ```

mod error;
mod file;
mod quantity;
mod reference;
mod suggestion;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

pub use self::error::{ConfigError, Mistake};
pub use self::quantity::{
    ParseBytesError, ParseDurationError, format_bytes, format_duration, parse_bytes, parse_duration,
};
pub use self::reference::{Fallback, Setting, reference_table};

/// Names the file with further settings.
pub const FILE_VARIABLE: &str = "ZYVEN_CONFIG_FILE";

/// What all names begin with. Variables without it are none of ours.
const PREFIX: &str = "ZYVEN_";

/// Where settings are read from, the mistakes found so far, and the settings declared so far.
pub struct Source {
    values: BTreeMap<String, String>,
    settings: Vec<Setting>,
    /// Names that others may set: not declared here, yet no mistake.
    known: BTreeSet<String>,
    mistakes: Vec<Mistake>,
}

impl Source {
    /// The process environment, and the file that it names. What cannot be read is a recorded mistake.
    pub fn from_environment() -> Self {
        let mut source = Self::empty();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => source.put(name, value),
                Err(_) => source.mistake(name, "must be UTF-8"),
            }
        }
        if let Some(path) = source.get(FILE_VARIABLE).map(str::to_owned) {
            source.add_file(Path::new(&path));
        }
        source
    }

    /// Exactly these settings, for tests.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        let mut source = Self::empty();
        for (name, value) in pairs {
            source.put(&name.into(), value.into());
        }
        source
    }

    fn empty() -> Self {
        Self {
            values: BTreeMap::new(),
            settings: vec![Setting {
                name: FILE_VARIABLE,
                meaning: "file of KEY=VALUE lines with further settings; the environment beats it",
                fallback: Fallback::Absent,
                rule: None,
                secret: false,
            }],
            known: BTreeSet::new(),
            mistakes: Vec::new(),
        }
    }

    /// Adds what the file says and the source does not. What cannot be read is a recorded mistake.
    pub fn add_file(&mut self, path: &Path) {
        let contents = match file::read(path) {
            Ok(contents) => contents,
            Err(rule) => return self.mistake(FILE_VARIABLE, rule),
        };
        for rule in contents.mistakes {
            self.mistake(FILE_VARIABLE, rule);
        }
        for (name, value) in contents.pairs {
            if name == FILE_VARIABLE {
                self.mistake(FILE_VARIABLE, "cannot be set in the file it names");
            } else if self.get(&name).is_none() {
                self.put(&name, value);
            }
        }
    }

    fn put(&mut self, name: &str, value: String) {
        self.values.insert(name.to_owned(), value);
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }
}

/// Reading settings. All of these return `None` only after a mistake was recorded. A setting without a
/// default is required, except where it says otherwise.
impl Source {
    /// A setting of any type that can be parsed.
    pub fn value<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let setting = Setting::open(name, meaning, default);
        self.read(setting, &parse, &|_| true)?.into()
    }

    /// A setting that must lie in a range, both ends included.
    pub fn value_in<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: FromStr<Err: Display> + PartialOrd + Display,
    {
        let rule = format!("{} to {}", range.start(), range.end());
        let setting = Setting::open(name, meaning, default).with_rule(rule);
        self.read(setting, &parse, &|value| range.contains(value))?
            .into()
    }

    /// A setting that may be left out: `Some(None)` then.
    pub fn optional<T>(&mut self, name: &'static str, meaning: &'static str) -> Option<Option<T>>
    where
        T: FromStr<Err: Display>,
    {
        let setting = Setting::open(name, meaning, None).that_may_be_absent();
        self.read(setting, &parse, &|_| true).map(Read::into)
    }

    /// A setting whose value is shown nowhere: not in mistakes, not in `Debug`.
    pub fn secret<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let setting = Setting::open(name, meaning, default).kept_secret();
        self.read(setting, &parse, &|_| true)?.into()
    }

    /// A secret that may be left out: `Some(None)` then.
    pub fn optional_secret<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
    ) -> Option<Option<T>>
    where
        T: FromStr<Err: Display>,
    {
        let setting = Setting::open(name, meaning, None)
            .that_may_be_absent()
            .kept_secret();
        self.read(setting, &parse, &|_| true).map(Read::into)
    }

    /// Values separated by commas. Blanks around them do not matter; an empty default is an empty list.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<Vec<T>>
    where
        T: FromStr<Err: Display>,
    {
        let setting = Setting::open(name, meaning, default).with_rule("list".to_owned());
        self.read(setting, &parse_list, &|_| true)?.into()
    }

    /// `true` or `false`.
    pub fn bool(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<bool> {
        let setting = Setting::open(name, meaning, default).with_rule("true or false".to_owned());
        self.read(setting, &parse_bool, &|_| true)?.into()
    }

    /// A whole number with one of the units `ms`, `s`, `m`, `h`, `d`, such as `15s`.
    pub fn duration(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<Duration> {
        let setting = Setting::open(name, meaning, default).with_rule("duration".to_owned());
        self.read(setting, &as_text(parse_duration), &|_| true)?
            .into()
    }

    /// A duration that must lie in a range, both ends included.
    pub fn duration_in(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (least, most) = (
            format_duration(*range.start()),
            format_duration(*range.end()),
        );
        let setting = Setting::open(name, meaning, default).with_rule(format!("{least} to {most}"));
        self.read(setting, &as_text(parse_duration), &|value| {
            range.contains(value)
        })?
        .into()
    }

    /// A whole number of bytes, with or without one of the units `B`, `KiB`, `MiB`, `GiB`.
    pub fn bytes(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Option<u64> {
        let setting = Setting::open(name, meaning, default).with_rule("bytes".to_owned());
        self.read(setting, &as_text(parse_bytes), &|_| true)?.into()
    }

    /// A number of bytes that must lie in a range, both ends included.
    pub fn bytes_in(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let (least, most) = (format_bytes(*range.start()), format_bytes(*range.end()));
        let setting = Setting::open(name, meaning, default).with_rule(format!("{least} to {most}"));
        self.read(setting, &as_text(parse_bytes), &|value| {
            range.contains(value)
        })?
        .into()
    }

    fn read<T>(
        &mut self,
        setting: Setting,
        parse: &dyn Fn(&str) -> Result<T, String>,
        is_in_range: &dyn Fn(&T) -> bool,
    ) -> Option<Read<T>> {
        let name = setting.name;
        let setting = self.declare(setting);
        let text = match (self.get(name), setting.fallback) {
            (Some(text), _) => text,
            (None, Fallback::Value(default)) => default,
            (None, Fallback::Absent) => return Some(Read::Absent),
            (None, Fallback::Required) => {
                self.mistake(name, format!("is required: {}", setting.meaning));
                return None;
            }
        };
        let rule = match parse(text) {
            Ok(value) if is_in_range(&value) => return Some(Read::Given(value)),
            Ok(_) => setting.describe_range(text),
            Err(error) => setting.describe_refusal(text, &error),
        };
        self.mistake(name, rule);
        None
    }

    /// Two services may declare the same setting, but then they must agree on it.
    fn declare(&mut self, setting: Setting) -> Setting {
        match self
            .settings
            .iter()
            .find(|known| known.name == setting.name)
        {
            Some(known) => debug_assert_eq!(*known, setting, "declared twice, differently"),
            None => self.settings.push(setting.clone()),
        }
        setting
    }
}

/// What was found: `Absent` only where the setting may be left out.
enum Read<T> {
    Given(T),
    Absent,
}

impl<T> From<Read<T>> for Option<T> {
    fn from(read: Read<T>) -> Self {
        match read {
            Read::Given(value) => Some(value),
            Read::Absent => None,
        }
    }
}

/// Mistakes and declarations.
impl Source {
    /// Records a mistake that only the caller can see, such as two settings that exclude each other.
    /// `rule` reads on from the name: "must be …", "is required when …".
    pub fn mistake(&mut self, name: impl Into<String>, rule: impl Into<String>) {
        let mistake = Mistake {
            name: name.into(),
            rule: rule.into(),
        };
        // Several services may trip over the same setting.
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// Every setting that was read so far, in that order.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Names that may be set without being declared here: a process that runs one service shares
    /// its environment with the others. Matters to [`Source::finish_strict`] only.
    pub fn know<N: Into<String>>(&mut self, names: impl IntoIterator<Item = N>) {
        self.known.extend(names.into_iter().map(Into::into));
    }

    /// Reports all mistakes recorded so far.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there is any.
    pub fn finish(&self) -> Result<(), ConfigError> {
        ConfigError::of(self.mistakes.clone())
    }

    /// Like [`Source::finish`], and a name that begins like a setting but is neither declared nor
    /// [known](Source::know) is a mistake as well. Call it when everything has been read.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there is any mistake.
    pub fn finish_strict(&self) -> Result<(), ConfigError> {
        let declared = || {
            let declared = self.settings.iter().map(|setting| setting.name);
            declared.chain(self.known.iter().map(String::as_str))
        };
        let unknown = self
            .values
            .keys()
            .filter(|name| !declared().any(|known| known == *name))
            .map(|name| Mistake {
                name: name.clone(),
                rule: match suggestion::nearest(name, declared()) {
                    Some(nearest) => format!("is not a setting; did you mean {nearest}?"),
                    None => "is not a setting".to_owned(),
                },
            });
        ConfigError::of(self.mistakes.iter().cloned().chain(unknown).collect())
    }
}

/// Names only: values may be secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("names", &self.values.keys())
            .field("mistakes", &self.mistakes)
            .finish_non_exhaustive()
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    as_text(str::parse)(text)
}

fn parse_list<T: FromStr<Err: Display>>(text: &str) -> Result<Vec<T>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| parse(item).map_err(|error| format!("\"{item}\": {error}")))
        .collect()
}

fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

fn as_text<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
