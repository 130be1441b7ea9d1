//! Content filters: what an endpoint wants to see of a payload before it gets the event.
//!
//! The language is a part of SQL/JSON path (ISO/IEC 9075-2:2016), which PostgreSQL evaluates
//! (`zyven.filter_admits`). This module only decides which texts belong to the part: conditions of
//! members against constants, whose cost grows with the payload and not with its square, nor with
//! anything worse.
//!
//! ```text
//! filter     = and { "||" and }
//! and        = term { "&&" term }
//! term       = [ "!" ] ( "(" filter ")" | "exists" "(" path ")" ) | condition
//! condition  = path operator constant | path "starts with" string
//! operator   = "==" | "!=" | "<>" | "<" | "<=" | ">" | ">="
//! path       = "$" { "." name | "." string | "[" index "]" | "[*]" }
//! constant   = string | number | "true" | "false" | "null"
//! ```

use std::fmt;

use crate::payload;

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 1_024;
/// How often one path may go through all elements: each time is one walk over what is left of the payload.
pub const ALL_ELEMENTS_MAX: usize = 3;
/// Most conditions of one filter: each is one walk over the payload at worst.
pub const CONDITIONS_MAX: usize = 16;
/// Deepest nesting of parentheses.
const DEPTH_MAX: usize = 16;
/// Most digits of an array's index: more items than a payload has bytes.
const INDEX_DIGITS_MAX: usize = 7;

/// A predicate over payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

/// Why a text is no filter. Displays as the rule and the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule} (character {character})")]
pub struct FilterError {
    rule: String,
    /// From 1.
    character: usize,
}

impl Filter {
    /// Takes `text` if it is a filter. Whatever this takes, PostgreSQL takes as a `jsonpath`.
    ///
    /// # Errors
    /// What was expected where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut reader = Reader {
            text,
            at: 0,
            conditions: 0,
        };
        if text.len() > FILTER_BYTES_MAX {
            return Err(reader.error(format!("must not be longer than {FILTER_BYTES_MAX} bytes")));
        }
        reader.any_of(0)?;
        reader.skip_blanks();
        if reader.rest().is_empty() {
            Ok(Self(text.to_owned()))
        } else {
            Err(reader.error("\"&&\", \"||\" or the end must follow here"))
        }
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads from left to right and never goes back.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    conditions: usize,
}

type Read = Result<(), FilterError>;

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, rule: impl Into<String>) -> FilterError {
        FilterError {
            rule: rule.into(),
            character: self.text[..self.at].chars().count() + 1,
        }
    }

    fn skip_blanks(&mut self) {
        let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r');
        self.at += self.rest().len() - self.rest().trim_start_matches(blank).len();
    }

    /// Skips blanks, and `token` if it comes next.
    fn takes(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    fn needs(&mut self, token: &str) -> Read {
        if self.takes(token) {
            Ok(())
        } else {
            Err(self.error(format!("{token:?} must follow here")))
        }
    }

    fn any_of(&mut self, depth: usize) -> Read {
        self.all_of(depth)?;
        while self.takes("||") {
            self.all_of(depth)?;
        }
        Ok(())
    }

    fn all_of(&mut self, depth: usize) -> Read {
        self.term(depth)?;
        while self.takes("&&") {
            self.term(depth)?;
        }
        Ok(())
    }

    fn term(&mut self, depth: usize) -> Read {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("parentheses must not nest deeper than {DEPTH_MAX}")));
        }
        let is_negated = self.takes("!");
        if self.takes("(") {
            self.any_of(depth + 1)?;
            return self.needs(")");
        }
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            return Err(self.error(format!(
                "must not have more than {CONDITIONS_MAX} conditions"
            )));
        }
        if self.takes("exists") {
            self.needs("(")?;
            self.path()?;
            return self.needs(")");
        }
        if is_negated {
            return Err(self.error("\"(\" or \"exists\" must follow \"!\""));
        }
        self.condition()
    }

    fn condition(&mut self) -> Read {
        self.path()?;
        // Two words: PostgreSQL would take "startswith" for a name.
        if self.takes("starts") {
            if !self.rest().starts_with([' ', '\t', '\n', '\r']) {
                return Err(self.error("\"with\" must follow here"));
            }
            self.needs("with")?;
            self.skip_blanks();
            return self.string();
        }
        // Longer ones first: "<=" is not "<" and something else.
        const OPERATORS: [&str; 7] = ["==", "!=", "<>", "<=", ">=", "<", ">"];
        if OPERATORS.iter().any(|operator| self.takes(operator)) {
            self.constant()
        } else {
            Err(self.error("a comparison (==, !=, <, <=, >, >=, starts with) must follow here"))
        }
    }

    fn path(&mut self) -> Read {
        if !self.takes("$") {
            return Err(self.error(
                "a path such as $.member must stand here; it may be compared with a constant on its right",
            ));
        }
        let mut all_elements = 0;
        loop {
            if self.rest().starts_with("[*]") {
                all_elements += 1;
                if all_elements > ALL_ELEMENTS_MAX {
                    return Err(self.error(format!(
                        "a path must not go through all elements ([*]) more than {ALL_ELEMENTS_MAX} times"
                    )));
                }
                self.at += "[*]".len();
            } else if self.rest().starts_with('[') {
                self.at += 1;
                self.index()?;
            } else if self.rest().starts_with('.') {
                self.at += 1;
                self.member()?;
            } else {
                return Ok(());
            }
        }
    }

    fn index(&mut self) -> Read {
        let digits = self.count(|c| c.is_ascii_digit());
        // PostgreSQL takes no number that begins with a 0 it does not need.
        let is_padded = digits > 1 && self.rest().starts_with('0');
        if digits == 0 || digits > INDEX_DIGITS_MAX || is_padded {
            return Err(self.error(
                "an index of at most 7 digits without leading zeros, or *, must stand in brackets",
            ));
        }
        self.at += digits;
        self.needs("]")
    }

    fn member(&mut self) -> Read {
        if self.rest().starts_with('"') {
            return self.string();
        }
        let name = self.count(|c| c.is_ascii_alphanumeric() || c == '_');
        if name == 0 || self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.error(
                "a member's name must stand here; one with other characters than letters, digits and _ in quotes",
            ));
        }
        self.at += name;
        if self.rest().starts_with('(') {
            return Err(self.error("methods are not part of the filter language"));
        }
        Ok(())
    }

    fn constant(&mut self) -> Read {
        self.skip_blanks();
        if self.rest().starts_with('"') {
            return self.string();
        }
        let length = self.count(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let text = &self.rest()[..length];
        if text.is_empty() {
            return Err(self.error(
                "a constant (a string in quotes, a number, true, false or null) must stand here",
            ));
        }
        self.valid_json(length)
    }

    fn string(&mut self) -> Read {
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        match end {
            Some((end, _)) if self.rest().starts_with('"') => self.valid_json(end + 1),
            Some(_) | None => Err(self.error("a string in quotes must stand here")),
        }
    }

    /// The next bytes are one JSON value, by the rules that payloads keep to.
    fn valid_json(&mut self, length: usize) -> Read {
        let text = &self.rest()[..length];
        if let Err(error) = payload::validate(text.as_bytes()) {
            return Err(self.error(format!("is not a JSON constant: {}", error.rule)));
        }
        self.at += length;
        Ok(())
    }

    fn count(&self, belongs: impl Fn(char) -> bool) -> usize {
        let rest = self.rest();
        rest.find(|c| !belongs(c)).unwrap_or(rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_paths_and_constants_are_filters() {
        for good in [
            "$.amount > 100",
            " $.a==1 ",
            "$ == \"x\"",
            "$.a.b[0].\"c d\"[*] != null",
            "$.a[0] == 1 && $.a[10] == 1",
            "$.a starts with \"inv-\"",
            "exists($.a)",
            "!exists($.a) && !($.b <= -1.5e3 || $.c <> true)",
            "(($.a == \"\\u00e9\\\"\") || $.b < 0)",
            "$.exists == true && $.starts starts with \"with\"",
        ] {
            assert_eq!(Filter::parse(good).map(|f| f.0), Ok(good.to_owned()));
        }
    }

    #[test]
    fn what_costs_more_than_a_walk_or_is_no_predicate_is_refused() {
        for bad in [
            "",
            "$",
            "$.a",
            "true",
            "1 < 2",
            "1 == $.a",
            "$.a == $.b",
            "$.a ==",
            "$.a = 1",
            "$.** == 1",
            "$.* == 1",
            "$.a[*] ? (@ > 1) == 2",
            "$.a like_regex \"^(a+)+$\"",
            "$.a.size() > 1",
            "$.a.type() == \"null\"",
            "$.a[last] == 1",
            "$.a[0 to 9] == 1",
            "$.a[12345678] == 1",
            "$.a[01] == 1",
            "$.a[00] == 1",
            "$a == 1",
            "@.a == 1",
            "strict $.a == 1",
            "$.a + 1 == 2",
            "!$.a == 1",
            "$.1a == 1",
            "$.a-b == 1",
            "$.a == 'x'",
            "$.a == \"x",
            "$.a == \"\\u0000\"",
            "$.a == 1e999",
            "$.a == 01",
            "$.a == truth",
            "$.a == 1 /* one */",
            "$.a startswith \"x\"",
            "$.a == 1)",
            "($.a == 1",
            "$.a == 1 $.b == 2",
            "exists $.a",
        ] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn length_conditions_and_depth_are_bounded() {
        let many = |count| vec!["$.a==1"; count].join("||");
        assert!(Filter::parse(&many(CONDITIONS_MAX)).is_ok());
        assert!(Filter::parse(&many(CONDITIONS_MAX + 1)).is_err());
        let through = |times| format!("${} == 1", "[*]".repeat(times));
        assert!(Filter::parse(&through(ALL_ELEMENTS_MAX)).is_ok());
        assert!(Filter::parse(&through(ALL_ELEMENTS_MAX + 1)).is_err());
        let nested = |depth| format!("{}$.a==1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Filter::parse(&nested(DEPTH_MAX)).is_ok());
        assert!(Filter::parse(&nested(DEPTH_MAX + 1)).is_err());
        let long = |bytes: usize| format!("$.a == {:?}", "x".repeat(bytes - "$.a == \"\"".len()));
        assert!(Filter::parse(&long(FILTER_BYTES_MAX)).is_ok());
        assert!(Filter::parse(&long(FILTER_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let told = |text: &str| Filter::parse(text).expect_err(text).to_string();
        assert_eq!(told("$.ä == 1"), told("$.ö == 1"));
        assert!(
            told("$.ä == 1").contains("(character 3)"),
            "{}",
            told("$.ä == 1")
        );
        assert!(told("$.\"ä\" == 1 & 2").contains("(character 12)"));
        assert!(told("$.a == $.b").contains("a constant"));
    }
}
