//! What there is to set: the reference that operators read.

use std::fmt::Write;

/// One declared setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What it does, as a phrase without a full stop.
    pub meaning: &'static str,
    /// What holds when it is not set.
    pub fallback: Fallback,
    /// What its value must be, where the type says something: "1 to 64", "duration", "list".
    pub rule: Option<String>,
    /// Whether its value is shown nowhere.
    pub secret: bool,
}

/// What holds when a setting is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The process does not start.
    Required,
    /// It does without.
    Absent,
    /// This value, written as an operator would write it. May be empty.
    Value(&'static str),
}

impl Setting {
    pub(super) fn open(
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Self {
        Self {
            name,
            meaning,
            fallback: default.map_or(Fallback::Required, Fallback::Value),
            rule: None,
            secret: false,
        }
    }

    pub(super) fn with_rule(mut self, rule: String) -> Self {
        self.rule = Some(rule);
        self
    }

    pub(super) fn that_may_be_absent(mut self) -> Self {
        self.fallback = Fallback::Absent;
        self
    }

    pub(super) fn kept_secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub(super) fn describe_range(&self, text: &str) -> String {
        let range = self.rule.as_deref().unwrap_or("in range");
        format!("must be {range}, not \"{text}\"")
    }

    /// Puts a parser's error behind the name. Parsers like to quote what they were given, so that the
    /// error of a secret is shown only if it has nothing in common with the secret.
    pub(super) fn describe_refusal(&self, text: &str, error: &str) -> String {
        match (self.secret, error) {
            (true, _) if shares_text(text, error) => "is not accepted".to_owned(),
            // Our own parsers' errors read on from the name.
            (true, error) if error.starts_with("must ") => error.to_owned(),
            (true, error) => format!("is not accepted: {error}"),
            (false, error) if error.starts_with("must ") => format!("{error}, not \"{text}\""),
            (false, error) => format!("\"{text}\" is not accepted: {error}"),
        }
    }
}

/// Whether some characters in a row of the secret, or all of a shorter one, stand in the other text.
fn shares_text(secret: &str, other: &str) -> bool {
    /// Shorter runs occur in any sentence.
    const RUN_CHARACTERS: usize = 6;
    let secret: Vec<char> = secret.chars().collect();
    let run = secret.len().clamp(1, RUN_CHARACTERS);
    secret
        .windows(run)
        .any(|window| other.contains(&window.iter().collect::<String>()))
}

/// The settings as a Markdown table, in the order given.
pub fn reference_table(settings: &[Setting]) -> String {
    let mut table = "| Setting | Default | Value | Meaning |\n|---|---|---|---|\n".to_owned();
    for setting in settings {
        let default = match setting.fallback {
            Fallback::Required => "**required**".to_owned(),
            Fallback::Absent => "unset".to_owned(),
            Fallback::Value("") => "empty".to_owned(),
            Fallback::Value(value) => format!("`{}`", cell(value)),
        };
        let rule = setting.rule.as_deref().unwrap_or_default();
        let value = match (setting.secret, rule) {
            (false, rule) => rule.to_owned(),
            (true, "") => "secret".to_owned(),
            (true, rule) => format!("secret; {rule}"),
        };
        let (name, meaning) = (setting.name, cell(setting.meaning));
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| `{name}` | {default} | {} | {meaning} |",
            cell(&value)
        );
    }
    table
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_in_an_error() {
        for (secret, error, shared) in [
            ("hunter2-hunter2", "\"hunter2-hunter2\" is no key", true),
            ("hunter2-hunter2", "invalid character in \"r2-hunt\"", true),
            ("abc", "unknown key abc", true),
            ("abc", "must have 32 bytes", false),
            ("hunter2-hunter2", "must have 32 bytes", false),
            ("", "must not be empty", false),
        ] {
            assert_eq!(shares_text(secret, error), shared, "{secret} {error}");
        }
    }

    #[test]
    fn the_table_shows_every_kind() {
        let settings = [
            Setting::open("ZYVEN_A", "one | other", Some("x|y")),
            Setting::open("ZYVEN_B", "url", None).kept_secret(),
            Setting::open("ZYVEN_C", "names", Some("")).with_rule("list".to_owned()),
            Setting::open("ZYVEN_D", "path", None).that_may_be_absent(),
        ];
        let expected = "\
| Setting | Default | Value | Meaning |
|---|---|---|---|
| `ZYVEN_A` | `x\\|y` |  | one \\| other |
| `ZYVEN_B` | **required** | secret | url |
| `ZYVEN_C` | empty | list | names |
| `ZYVEN_D` | unset |  | path |
";
        assert_eq!(reference_table(&settings), expected);
    }
}
