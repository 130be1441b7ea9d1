//! What a route does, for those who call it. Each handler's module has one of these for each of its routes, in a submodule
//! `operations`; the table of routes names both.

use http::StatusCode;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;
use zyven_domain::event::ContentType;

use super::schema::{Schema, number, text};
use crate::pages::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::problem::Code;

pub(crate) const JSON: &str = ContentType::Json.as_str();
pub(crate) const LINES: &str = "application/x-ndjson";
pub(crate) const CLOUD_EVENT: &str = ContentType::CloudEvent.as_str();
pub(crate) const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// Problems that every request with a key can end in.
const ALWAYS: [Code; 8] = [
    Code::RequestMalformed,
    Code::Unauthenticated,
    Code::ScopeMissing,
    // A parameter that is not described.
    Code::Invalid,
    Code::RateLimited,
    Code::Internal,
    Code::Overloaded,
    Code::Unavailable,
];
/// Problems that every request with a body can end in.
const WITH_BODY: [Code; 6] = [
    Code::BodyNotJson,
    Code::BodyNotUtf8,
    Code::BodyTimeout,
    Code::BodyTooLarge,
    Code::ContentTypeUnsupported,
    Code::ContentEncodingUnsupported,
];

/// The schema of an answer, once there is a generator to derive it with.
pub(super) type Derive = fn(&mut SchemaGenerator) -> schemars::Schema;

/// One operation of the API.
pub(crate) struct Operation {
    /// Never changes once published: programs that are generated name their functions after it.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) parameters: Vec<Parameter>,
    pub(super) bodies: Vec<Body>,
    pub(super) body_is_required: bool,
    /// Whether a body that says something is one thing too many.
    body_is_refused: bool,
    pub(super) answers: Vec<Answer>,
    pub(super) problems: Vec<Code>,
}

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header,
}

pub(super) struct Parameter {
    pub(super) place: Place,
    pub(super) name: &'static str,
    pub(super) schema: Schema,
}

/// One way to write a body.
pub(super) struct Body {
    pub(super) media_type: &'static str,
    /// By what its size is limited.
    pub(super) extent: Extent,
    pub(super) schema: Schema,
    pub(super) example: Value,
}

/// Which of the settings limits a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// That of most requests.
    One,
    /// That of a batch.
    Batch,
}

/// One happy end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) description: &'static str,
    pub(super) headers: Vec<&'static str>,
    /// `None`: it has no body.
    pub(super) schema: Option<Derive>,
}

impl Operation {
    /// An operation that takes nothing so far and has no happy end.
    pub(crate) fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            description: "",
            parameters: Vec::new(),
            bodies: Vec::new(),
            body_is_required: true,
            body_is_refused: false,
            answers: Vec::new(),
            problems: ALWAYS.to_vec(),
        }
    }

    /// What it does, for people: paragraphs with an empty line between them; `code` is the only markup.
    pub(crate) fn about(self, description: &'static str) -> Self {
        Self {
            description,
            ..self
        }
    }

    /// Is about the one thing whose id or name stands in the path.
    pub(crate) fn one(self, name: &'static str, schema: Schema) -> Self {
        self.parameter(Place::Path, name, schema)
            .problem(Code::NotFound)
    }

    /// Takes a parameter, which may be absent.
    pub(crate) fn query(self, name: &'static str, schema: Schema) -> Self {
        self.parameter(Place::Query, name, schema)
    }

    /// Takes a header, which may be absent.
    pub(crate) fn header(self, name: &'static str, schema: Schema) -> Self {
        self.parameter(Place::Header, name, schema)
    }

    /// May be asked to change only what was read.
    pub(crate) fn conditional(self) -> Self {
        let tag = text().example("\"5f3a\"").about(
            "An `ETag` that was told before, or several separated by commas: the change is made only if that is the version still.",
        );
        self.header("If-Match", tag)
            .problem(Code::PreconditionFailed)
    }

    /// Is a list that is read page by page: see [`crate::pages`].
    pub(crate) fn paged(self, cursor: Schema) -> Self {
        let limit = number(1..=u64::from(LIMIT_MAX))
            .default(LIMIT_DEFAULT)
            .about("How many items a page has at most.");
        self.query("limit", limit).query(
            "cursor",
            cursor.about("Where the page begins: `next_cursor` of the page before."),
        )
    }

    /// Takes a JSON body.
    pub(crate) fn body(self, schema: Schema, example: Value) -> Self {
        self.body_as(JSON, Extent::One, schema, example)
    }

    /// Takes a body that is written like this; more than one way may be told.
    pub(crate) fn body_as(
        mut self,
        media_type: &'static str,
        extent: Extent,
        schema: Schema,
        example: Value,
    ) -> Self {
        self.bodies.push(Body {
            media_type,
            extent,
            schema,
            example,
        });
        WITH_BODY.into_iter().fold(self, Self::problem)
    }

    /// Its body may be left out.
    pub(crate) fn body_is_optional(self) -> Self {
        Self {
            body_is_required: false,
            ..self
        }
    }

    /// Takes no body: none but an object without members, which some clients send with every POST.
    pub(crate) fn no_body(self) -> Self {
        let refusing = Self {
            body_is_refused: true,
            ..self
        };
        WITH_BODY.into_iter().fold(refusing, Self::problem)
    }

    /// Ends like this, with a `T` as its body.
    pub(crate) fn answer<T: JsonSchema>(
        self,
        status: StatusCode,
        description: &'static str,
    ) -> Self {
        self.ends(
            status,
            description,
            Some(|generator| generator.subschema_for::<T>()),
        )
    }

    /// Ends with 204 and no body.
    pub(crate) fn no_content(self, description: &'static str) -> Self {
        self.ends(StatusCode::NO_CONTENT, description, None)
    }

    /// The happy end that was told last has this header, too.
    pub(crate) fn with_header(mut self, name: &'static str) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers.push(name);
        }
        self
    }

    /// May end in this problem as well.
    pub(crate) fn problem(mut self, code: Code) -> Self {
        if !self.problems.contains(&code) {
            self.problems.push(code);
        }
        self
    }

    /// Whether it reads anything that stands behind the question mark.
    pub(crate) fn takes_parameters(&self) -> bool {
        let mut places = self.parameters.iter().map(|parameter| parameter.place);
        places.any(|place| place == Place::Query)
    }

    /// Whether a body that says something is refused.
    pub(crate) fn refuses_a_body(&self) -> bool {
        self.body_is_refused
    }

    fn parameter(mut self, place: Place, name: &'static str, schema: Schema) -> Self {
        self.parameters.push(Parameter {
            place,
            name,
            schema,
        });
        self
    }

    fn ends(
        mut self,
        status: StatusCode,
        description: &'static str,
        schema: Option<Derive>,
    ) -> Self {
        self.answers.push(Answer {
            status,
            description,
            headers: Vec::new(),
            schema,
        });
        self
    }
}

/// The parameter by which most lists are narrowed to one type of event.
pub(crate) fn event_type_parameter() -> Schema {
    super::values::EventTypeName::schema().about("Only of this type.")
}

/// The member by which whoever decides something says why.
pub(crate) fn reason(chars_max: usize) -> Schema {
    text()
        .chars(1..=chars_max)
        // A character besides blanks: what is left after trimming must say something.
        .pattern(r"\S")
        .about("Why. It is kept in the audit log.")
}
