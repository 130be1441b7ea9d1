//! The file of `KEY=VALUE` lines.
//!
//! One setting per line; blank lines and lines that begin with `#` mean nothing. Blanks around name and
//! value do not matter, and one pair of quotes around the whole value is taken off. There are no escapes,
//! no expansion and no comments behind a value: a password may contain anything but a line break.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Far more than all settings together; whoever names a log by mistake hears of it at once.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) pairs: BTreeMap<String, String>,
    /// One rule per line that breaks it, with its number. The line itself may hold a secret.
    pub(super) mistakes: Vec<String>,
}

/// Reads a file; the error is the rule that it breaks.
pub(super) fn read(path: &Path) -> Result<Contents, String> {
    let shown = path.display();
    let unreadable = |error| format!("cannot read {shown}: {error}");
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Contents {
    let mut contents = Contents::default();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), unquoted(value.trim())))
            .filter(|(name, _)| is_name(name));
        let Some((name, value)) = pair else {
            let rule = format!("line {number} of the file must be NAME=VALUE");
            contents.mistakes.push(rule);
            continue;
        };
        let earlier = contents.pairs.insert(name.to_owned(), value.to_owned());
        if earlier.is_some() {
            let rule = format!("line {number} of the file sets {name} a second time");
            contents.mistakes.push(rule);
        }
    }
    contents
}

/// A name as in [`std::env`], but strict: what else stands before the first `=` may be part of a secret.
fn is_name(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_name_byte)
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_pairs() {
        let contents =
            parse("# comment\n\n A = b \nURL=\"postgres://u:p#=x@h/d\"\nQ='\r\nE=\nO='it''s'\r\n");
        let pairs: Vec<_> = contents
            .pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let expected = [
            ("A", "b"),
            ("E", ""),
            ("O", "it''s"),
            ("Q", "'"),
            ("URL", "postgres://u:p#=x@h/d"),
        ];
        assert_eq!(pairs, expected);
        assert_eq!(contents.mistakes, [""; 0]);
    }

    #[test]
    fn a_broken_line_is_named_by_its_number_and_never_shown() {
        let contents = parse("A=1\nhunter2\nhunter 3=x\n=x\nA=2\n");
        assert_eq!(
            contents.mistakes,
            [
                "line 2 of the file must be NAME=VALUE",
                "line 3 of the file must be NAME=VALUE",
                "line 4 of the file must be NAME=VALUE",
                "line 5 of the file sets A a second time",
            ]
        );
    }
}
