//! The OpenAPI document, put together from the table of routes.

use std::collections::BTreeMap;

use http::{HeaderName, StatusCode};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use zyven_domain::api_key::Scope;

use super::examples::Examples;
use super::operation::{Answer, Body, Extent, Operation, Parameter, Place};
use crate::config::{HEAD_BYTES_MAX, HEAD_LINES_MAX, Limits};
use crate::problem::{ANSWERED_AS, Code, Problem, ProblemView};
use crate::router::{Route, described};

/// Collections of the API, by what stands after `/v1/` in their paths, in the order in which they are shown.
const TAGS: [(&str, &str, &str); 9] = [
    (
        "events",
        "Events",
        "Publish events, and see what became of them.",
    ),
    (
        "deliveries",
        "Deliveries",
        "One event for one endpoint: its attempts, why it waits, sending it once more.",
    ),
    (
        "replays",
        "Replays",
        "Sending many dead letters back to the start, and seeing how far that has come.",
    ),
    (
        "endpoints",
        "Endpoints",
        "Where events go: URLs with their patterns, secrets and limits.",
    ),
    (
        "event-types",
        "Event types",
        "What events of a type look like, as JSON Schema.",
    ),
    ("api-keys", "API keys", "Who may do what."),
    (
        "view-links",
        "View links",
        "Keys for customers' browsers, for a while.",
    ),
    (
        "statistics",
        "Statistics",
        "How deliveries have gone lately, and what waits.",
    ),
    ("audit-log", "Audit log", "Who has changed what."),
];

/// The document of an API with these limits.
pub(super) fn document(limits: &Limits) -> Value {
    let mut assembly = Assembly {
        generator: SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into())
            .for_serialize()
            .into_generator(),
        limits,
        problems: BTreeMap::new(),
    };
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (route, operation) in described() {
        let method = route.method.as_str().to_ascii_lowercase();
        let said = assembly.operation(&route, operation);
        paths.entry(route.path).or_default().insert(method, said);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": info(limits),
        "servers": [{ "url": "/", "description": "Where this document was read." }],
        "security": [{ "api_key": [] }],
        "tags": TAGS.map(|(_, name, about)| json!({ "name": name, "description": about })),
        "paths": paths,
        "components": assembly.components(),
    });
    Examples::fill(&mut document);
    document
}

fn info(limits: &Limits) -> Value {
    let description = format!(
        "Zyven takes events and delivers them as signed HTTP requests. `202` means that it owns the event from then on.\n\n\
         Send `Authorization: Bearer zyk_…`. A key belongs to one tenant, and has scopes; each operation says which one it needs, if it does. \
         What belongs to another tenant does not exist (404).\n\n\
         Members and parameters that are not described are refused. Members may be added to answers, so clients pass over those they do not know.\n\n\
         Errors are problem documents (RFC 9457) with a stable `code`. Each answer to a request has an `x-request-id`, which is that of the request if it has one.\n\n\
         A path that exists answers other methods with 405 and `Allow`, a path that does not with 404. A request head of more than \
         {HEAD_BYTES_MAX} bytes or {HEAD_LINES_MAX} lines is answered 431 without a body. With more than {} open connections, the next one is answered 503.",
        limits.connections_max,
    );
    json!({
        "title": "Zyven",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "Durable event delivery",
        "description": description,
        "license": { "name": "MIT", "identifier": "MIT" },
    })
}

struct Assembly<'a> {
    generator: SchemaGenerator,
    limits: &'a Limits,
    /// Answers that several operations share, by their names.
    problems: BTreeMap<String, Value>,
}

impl Assembly<'_> {
    fn operation(&mut self, route: &Route, operation: Operation) -> Value {
        let scope = route.scope.map(Scope::as_str);
        let needs = match scope {
            Some(scope) => format!("Needs a key with the scope `{scope}`."),
            None => "Any good key may ask.".to_owned(),
        };
        // Whoever needs no scope lacks none.
        let problems: Vec<Code> = operation
            .problems
            .iter()
            .copied()
            .filter(|code| scope.is_some() || *code != Code::ScopeMissing)
            .collect();
        let mut said = json!({
            "operationId": operation.id,
            "summary": operation.summary,
            "description": format!("{}\n\n{needs}", operation.description).trim(),
            "tags": [tag_of(route.path)],
            "security": [{ "api_key": scope.into_iter().collect::<Vec<_>>() }],
            "responses": self.responses(&operation.answers, &problems),
        });
        if let Some(scope) = scope {
            said["x-required-scope"] = scope.into();
        }
        if !operation.parameters.is_empty() {
            said["parameters"] = operation.parameters.into_iter().map(parameter).collect();
        }
        if !operation.bodies.is_empty() {
            said["requestBody"] = self.body(operation.bodies, operation.body_is_required);
        }
        said
    }

    fn responses(&mut self, answers: &[Answer], problems: &[Code]) -> Value {
        let mut responses = Map::new();
        for answer in answers {
            let mut said = json!({
                "description": answer.description,
                "headers": headers(answer.headers.iter().copied()),
            });
            if let Some(schema) = answer.schema {
                let schema = schema(&mut self.generator);
                said["content"] = json!({ super::operation::JSON: { "schema": schema } });
            }
            responses.insert(answer.status.as_str().to_owned(), said);
        }
        let mut by_status: BTreeMap<StatusCode, Vec<Code>> = BTreeMap::new();
        for code in Code::ALL {
            if problems.contains(&code) {
                by_status.entry(code.status()).or_default().push(code);
            }
        }
        for (status, codes) in by_status {
            let name = self.problem(&codes);
            let place = format!("#/components/responses/{name}");
            responses.insert(status.as_str().to_owned(), json!({ "$ref": place }));
        }
        Value::Object(responses)
    }

    /// The name of the answer that is one of these problems, which have one status.
    fn problem(&mut self, codes: &[Code]) -> String {
        let names: Vec<String> = codes.iter().map(|code| type_name(code.as_str())).collect();
        let name = names.join("Or");
        if !self.problems.contains_key(&name) {
            let meanings = codes
                .iter()
                .map(|code| format!("`{}`: {}.", code.as_str(), code.title()));
            let known: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
            let problem = self.generator.subschema_for::<ProblemView<'_>>();
            let mut special: Vec<HeaderName> = codes
                .iter()
                .filter_map(|code| Some(code.header()?.0))
                .collect();
            special.dedup();
            let said = json!({
                "description": meanings.collect::<Vec<_>>().join(" "),
                "headers": headers(special.iter().map(HeaderName::as_str)),
                "content": { ANSWERED_AS: {
                    "schema": { "allOf": [problem, { "properties": { "code": { "enum": known } } }] },
                    "examples": codes.iter().map(|code| (code.as_str(), json!({ "value": example(*code) }))).collect::<BTreeMap<_, _>>(),
                } },
            });
            self.problems.insert(name.clone(), said);
        }
        name
    }

    fn body(&self, bodies: Vec<Body>, required: bool) -> Value {
        let bytes_max = |extent| match extent {
            Extent::One => self.limits.body_bytes_max,
            Extent::Batch => self.limits.batch_bytes_max,
        };
        let largest = bodies.iter().map(|body| bytes_max(body.extent)).max();
        let content: Map<String, Value> = bodies
            .into_iter()
            .map(|body| {
                let mut schema = Value::from(body.schema);
                if body.extent == Extent::Batch && schema["type"] == "array" {
                    schema["maxItems"] = self.limits.batch_events_max.into();
                }
                let said = json!({ "schema": schema, "example": body.example });
                (body.media_type.to_owned(), said)
            })
            .collect();
        json!({
            "required": required,
            "description": format!("At most {} bytes, in UTF-8, without `Content-Encoding`.", largest.unwrap_or_default()),
            "content": content,
        })
    }

    fn components(mut self) -> Value {
        let schemas = self.generator.take_definitions(true);
        json!({
            "schemas": schemas,
            "responses": self.problems,
            "headers": {
                "x-request-id": header("The request's id, as it stands in the log. The request's own, if it has a \
                     plain one of up to 128 characters."),
                "ratelimit-policy": perhaps("Where a limit is set: its name (`events` or `requests`), how many its bucket holds (`q`), and \
                     in how many seconds it fills (`w`)."),
                "ratelimit": perhaps("Where a limit is set: its name, how many are left (`r`), and in how many seconds the bucket is \
                     full again (`t`)."),
                "retry-after": header("Seconds after which the request may be sent again."),
                "www-authenticate": header("How to show a key: `Bearer`."),
                "etag": header("The version that the answer shows. Sent as `If-Match` with a change, that is made only if \
                     there has been none in between."),
                "idempotent-replayed": header("`true`: the answer tells of an event that was accepted before."),
            },
            "securitySchemes": { "api_key": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "zyk_…",
                "description": "An API key. `zyven admin create-tenant` makes a tenant's first one, `POST \
                     /v1/api-keys` the others.",
            } },
        })
    }
}

fn example(code: Code) -> Value {
    let problem = match code {
        Code::Invalid => Problem::one_invalid("type", "is missing"),
        other => Problem::new(other, "…"),
    };
    json!(problem.view())
}

fn parameter(parameter: Parameter) -> Value {
    let mut schema = Value::from(parameter.schema);
    // Where tools look for it.
    let about = schema
        .as_object_mut()
        .and_then(|schema| schema.remove("description"));
    let place = match parameter.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": parameter.place == Place::Path,
        "description": about,
        "schema": schema,
    })
}

/// What any answer to a request with a key may have in its head.
const ON_EVERY_ANSWER: [&str; 3] = ["x-request-id", "ratelimit-policy", "ratelimit"];

fn headers<'a>(special: impl Iterator<Item = &'a str>) -> Value {
    special
        .chain(ON_EVERY_ANSWER)
        .map(|name| {
            (
                name.to_owned(),
                json!({ "$ref": format!("#/components/headers/{name}") }),
            )
        })
        .collect::<Map<String, Value>>()
        .into()
}

fn header(about: &str) -> Value {
    json!({ "description": about, "required": true, "schema": Value::from(super::schema::text()) })
}

/// One that is not always there.
fn perhaps(about: &str) -> Value {
    json!({ "description": about, "required": false, "schema": Value::from(super::schema::text()) })
}

fn tag_of(path: &str) -> &'static str {
    let collection = path.split('/').nth(2);
    let found = TAGS.iter().find(|(name, ..)| Some(*name) == collection);
    found
        .map(|(_, tag, _)| *tag)
        .expect("every collection is among TAGS, as a test sees")
}

/// `body_too_large` as `BodyTooLarge`.
fn type_name(code: &str) -> String {
    let capitalised = code.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    capitalised.collect()
}
