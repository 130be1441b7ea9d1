//! Lists: query parameters in, one page with a cursor out.
//!
//! A cursor is the id of the last item shown. It stays valid whatever is added or removed meanwhile,
//! and no page is slower than the first.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::Request;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::answer::{self, Answer};
use crate::problem::{FieldError, Problem};

/// Items of a page when nobody says.
pub(crate) const LIMIT_DEFAULT: u32 = 50;
/// Most items of a page.
pub(crate) const LIMIT_MAX: u32 = 200;

/// Query parameters, and the mistakes found in them so far.
pub(crate) struct Query {
    parameters: Vec<(String, String)>,
    /// Those there are, as far as somebody has asked for them.
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl Query {
    pub(crate) fn of(request: &Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self {
            parameters: url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            known: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// A parameter that can be read from text. `None` if absent, or after a mistake was recorded.
    pub(crate) fn value<T: FromStr>(&mut self, name: &'static str) -> Option<T>
    where
        T::Err: Display,
    {
        self.parsed(name, |text| {
            text.parse().map_err(|error: T::Err| error.to_string())
        })
    }

    /// A parameter that `parse` takes.
    pub(crate) fn parsed<T, E: Into<Cow<'static, str>>>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.known.push(name);
        let index = self
            .parameters
            .iter()
            .position(|(known, _)| known == name)?;
        let (_, text) = self.parameters.remove(index);
        match parse(&text) {
            Ok(value) => Some(value),
            Err(rule) => {
                self.errors.push(FieldError {
                    field: name.to_owned(),
                    rule: rule.into(),
                });
                None
            }
        }
    }

    pub(crate) fn limit(&mut self) -> u32 {
        self.parsed("limit", |text| match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            Ok(_) | Err(_) => Err(format!("must be a whole number from 1 to {LIMIT_MAX}")),
        })
        .unwrap_or(LIMIT_DEFAULT)
    }

    /// The end of reading: parameters nobody has asked for are mistakes.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.parameters) {
            let rule = if self.known.contains(&name.as_str()) {
                "must be sent once".into()
            } else if self.known.is_empty() {
                "is not a parameter of this request, which has none".into()
            } else {
                let known = self.known.join(", ");
                format!("is not a parameter of this request; there are {known}").into()
            };
            self.errors.push(FieldError {
                field: name.chars().take(128).collect(),
                rule,
            });
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }
}

/// How many to ask the store for: one more than shown tells whether there is another page.
pub(crate) fn asked(limit: u32) -> u32 {
    limit + 1
}

/// The items to show, and the cursor of the next page if there is one.
pub(crate) fn cut<I>(
    mut items: Vec<I>,
    limit: u32,
    id: impl Fn(&I) -> String,
) -> (Vec<I>, Option<String>) {
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > shown;
    items.truncate(shown);
    let next_cursor = items.last().filter(|_| more).map(id);
    (items, next_cursor)
}

/// A page of a list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub(crate) struct Page<'a, T> {
    /// In the order of the list.
    data: &'a [T],
    /// Send as `cursor` for the next page; null on the last one.
    next_cursor: Option<String>,
}

/// One page.
pub(crate) fn page<T: Serialize>(views: &[T], next_cursor: Option<String>) -> Answer {
    let page = Page {
        data: views,
        next_cursor,
    };
    answer::value(StatusCode::OK, &page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        let request = Request::builder().uri(format!("/v1/x?{text}"));
        Query::of(&request.body(axum::body::Body::empty()).expect("a request"))
    }

    #[test]
    fn parameters_are_taken_once_and_unknown_ones_are_named() {
        let mut given = query("limit=7&a=%41&limit=8&z=1");
        assert_eq!(given.limit(), 7);
        assert_eq!(given.value::<String>("a").as_deref(), Some("A"));
        assert_eq!(given.value::<String>("b"), None);
        let problem = given.finish().expect_err("two left over");
        let told: Vec<(&str, &str)> = problem
            .errors()
            .iter()
            .map(|error| (error.field.as_str(), &*error.rule))
            .collect();
        let unknown = "is not a parameter of this request; there are limit, a, b";
        assert_eq!(told, [("limit", "must be sent once"), ("z", unknown)]);

        let problem = query("z=1").finish().expect_err("one left over");
        let none = "is not a parameter of this request, which has none";
        let told: Vec<&str> = problem.errors().iter().map(|error| &*error.rule).collect();
        assert_eq!(told, [none]);
    }

    #[test]
    fn a_page_is_bounded() {
        assert_eq!(query("").limit(), LIMIT_DEFAULT);
        assert_eq!(query("limit=200").limit(), LIMIT_MAX);
        for bad in ["0", "201", "-1", "x", ""] {
            let mut given = query(&format!("limit={bad}"));
            given.limit();
            assert!(given.finish().is_err(), "{bad}");
        }
    }
}
