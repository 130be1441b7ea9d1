//! The API's description of itself: complete, true, and there for everybody.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use zyven_domain::api_key::Scope;
use zyven_ingest::{Route, routes};

use crate::conformance::{DOCUMENT, mismatches, operation, resolved};
use crate::routes::{Things, body_of, prepare, send};
use crate::support::{Answer, Api, Tenant};

const NO_MEMBER: &str = "is not a member of this request";

/// Every operation of the document, with its method and path.
fn described() -> Vec<(String, &'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        let operations = methods.iter();
        operations.map(|(method, said)| (method.to_ascii_uppercase(), path.as_str(), said))
    });
    operations.collect()
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let described: BTreeSet<String> = described()
        .iter()
        .map(|(method, path, said)| {
            let scope = said["x-required-scope"].as_str();
            format!("{method} {path} {scope:?}")
        })
        .collect();
    let routes: BTreeSet<String> = routes()
        .iter()
        .map(|route| {
            let scope = route.scope.map(Scope::as_str);
            format!("{} {} {scope:?}", route.method, route.path)
        })
        .collect();
    assert_eq!(described, routes);
}

#[test]
fn every_operation_says_what_it_is() {
    let mut ids = BTreeSet::new();
    for (method, path, said) in described() {
        let about = format!("{method} {path}");
        let id = said["operationId"].as_str().expect("an id");
        assert!(ids.insert(id), "{about}: there is another {id}");
        assert!(
            said["summary"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{about}"
        );
        let scopes: Vec<&Value> = said.get("x-required-scope").into_iter().collect();
        assert_eq!(said["security"], json!([{ "api_key": scopes }]), "{about}");
        assert_eq!(
            resolved(&said["responses"]["403"]).is_null(),
            scopes.is_empty(),
            "{about}"
        );
        let places: Vec<&str> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let parameters = said["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        let named: Vec<&str> = in_path.filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(places, named, "{about}");
        let answers = said["responses"].as_object().expect("responses");
        assert!(
            answers.keys().any(|status| status.starts_with('2')),
            "{about}"
        );
    }
}

#[test]
fn every_problem_is_described_where_it_can_happen_and_for_people() {
    let mut where_it_happens = BTreeSet::new();
    for (_, _, said) in described() {
        for (status, answer) in said["responses"].as_object().expect("responses") {
            let content = &resolved(answer)["content"]["application/problem+json"];
            for (code, example) in content["examples"].as_object().into_iter().flatten() {
                assert_eq!(example["value"]["status"].to_string(), *status, "{code}");
                where_it_happens.insert((code.clone(), status.clone()));
            }
        }
    }
    // Of a path rather than of an operation.
    where_it_happens.insert(("method_not_allowed".to_owned(), "405".to_owned()));
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/operations/problems.md"
    );
    let document = std::fs::read_to_string(path).expect("docs/operations/problems.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let code = cells.next()?.trim().trim_end_matches('`').to_owned();
        Some((code, cells.next()?.trim().to_owned()))
    });
    assert_eq!(where_it_happens, rows.collect());
    let codes = where_it_happens.iter().map(|(code, _)| code.as_str());
    let known = DOCUMENT["components"]["schemas"]["ProblemCode"]["enum"].as_array();
    let known = known.expect("codes").iter().filter_map(Value::as_str);
    assert_eq!(codes.collect::<BTreeSet<_>>(), known.collect());
}

#[test]
fn every_example_is_one() {
    let mut found = 0;
    for (method, path, said) in described() {
        let answers = said["responses"].as_object().expect("responses").values();
        let bodies = answers.map(resolved).chain([&said["requestBody"]]);
        for content in bodies.flat_map(|body| body["content"].as_object().into_iter().flatten()) {
            let (media_type, content) = content;
            let several = content["examples"].as_object().into_iter().flatten();
            let several = several.map(|(_, example)| &example["value"]);
            for example in several.chain(content.get("example")) {
                let wrong = mismatches(&content["schema"], example);
                assert!(
                    wrong.is_empty(),
                    "{method} {path} {media_type}: {wrong:?} {example}"
                );
                found += 1;
            }
        }
    }
    assert!(found > 100, "only {found} examples");
}

/// [`Answer::of`] compares; here is seen that each has a happy end.
#[tokio::test]
async fn every_operation_answers_a_good_request_as_described() {
    let api = Api::start().await;
    for route in routes() {
        let tenant = api.tenant().await;
        let mut things = Things::of(&tenant).await;
        prepare(&route, &tenant, &mut things).await;
        let (path, body) = (things.path(&route), body_of(&route));
        assert!(
            operation(route.method.as_str(), &path).is_some(),
            "{route:?}"
        );
        let answer = send(&api, Some(&tenant.key), &route, &path, body.as_ref()).await;
        assert!(answer.status.is_success(), "{route:?}: {answer:?}");
    }
}

#[tokio::test]
async fn the_examples_of_requests_are_good_requests() {
    let api = Api::start().await;
    for route in routes() {
        let Some((_, said)) = operation(route.method.as_str(), route.path) else {
            panic!("{route:?}");
        };
        let contents = said["requestBody"]["content"].as_object();
        for (media_type, content) in contents.into_iter().flatten() {
            let tenant = api.tenant().await;
            let mut things = Things::of(&tenant).await;
            prepare(&route, &tenant, &mut things).await;
            if route.path.ends_with("{name}") {
                let schema = json!({ "schema": {} });
                tenant
                    .patch(&things.path(&route), &schema)
                    .await
                    .expect(200);
            }
            let method = Method::from_bytes(route.method.as_str().as_bytes()).expect("a method");
            let text = match &content["example"] {
                Value::String(lines) => lines.clone(),
                other => other.to_string(),
            };
            let request = tenant
                .request(method, &things.path(&route))
                .header("content-type", media_type)
                .body(text);
            let answer = Answer::of(request).await;
            assert!(answer.status.is_success(), "{route:?}: {answer:?}");
        }
    }
}

/// A body that nobody would look at is a misunderstanding.
#[tokio::test]
async fn operations_without_a_body_refuse_one_that_says_something() {
    let api = Api::start().await;
    let mut tried = 0;
    for route in routes()
        .into_iter()
        .filter(|route| route.method == "POST" && body_of(route).is_none())
    {
        let tenant = api.tenant().await;
        let mut things = Things::of(&tenant).await;
        prepare(&route, &tenant, &mut things).await;
        let path = things.path(&route);
        let sent = async |content_type: Option<&str>, body: &'static str| {
            let mut request = tenant.request(Method::POST, &path).body(body);
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            Answer::of(request).await
        };
        let json = Some("application/json");
        for (body, fields) in [
            (r#"{"nonsense": 1}"#, &["nonsense"][..]),
            (
                r#"{"reason": "r", "overlap_s": 1}"#,
                &["reason", "overlap_s"],
            ),
            ("[]", &["body"]),
        ] {
            let refused = sent(json, body).await.expect_problem(422, "invalid");
            assert_eq!(refused.fields(), fields, "{route:?} {body}");
        }
        sent(json, "{").await.expect_problem(400, "body_not_json");
        let form = Some("application/x-www-form-urlencoded");
        sent(form, "a=b")
            .await
            .expect_problem(415, "content_type_unsupported");
        // What it has not said it has not done.
        let log = format!("/v1/audit-log?subject={}", things.get("endpoints"));
        let before = tenant.get(&log).await.expect(200).text;
        for (content_type, body) in [(json, " {} "), (form, ""), (None, "")] {
            let answer = sent(content_type, body).await;
            assert!(answer.status.is_success(), "{route:?} {body}: {answer:?}");
        }
        assert_ne!(tenant.get(&log).await.expect(200).text, before);
        // Of no length beforehand, and empty.
        let chunked = reqwest::Body::wrap_stream(futures_util::stream::empty::<
            Result<Vec<u8>, std::io::Error>,
        >());
        let request = tenant.request(Method::POST, &path).body(chunked);
        let answer = Answer::of(request).await;
        assert!(answer.status.is_success(), "{route:?}: {answer:?}");
        tried += 1;
    }
    assert_eq!(tried, 5);
}

/// A value that is wrong for the schema's type, and those just beyond its bounds.
fn wrong_values(schema: &Value) -> Vec<Value> {
    let kinds = schema["type"].to_string();
    let mut wrong = Vec::new();
    if kinds.contains("string") || kinds.contains("array") || kinds.contains("boolean") {
        wrong.push(json!(17));
    }
    if kinds.contains("integer") || kinds.contains("object") {
        wrong.push(json!("x"));
    }
    if let (Some(least), Some(most)) = (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
        wrong.extend([json!(least - 1), json!(most + 1), json!(1.5)]);
    }
    let repeated = |count: &Value| usize::try_from(count.as_u64()? + 1).ok();
    if let Some(chars) = repeated(&schema["maxLength"]) {
        wrong.push(json!("x".repeat(chars)));
    }
    if schema["minLength"] == 1 {
        wrong.push(json!(""));
    }
    if let Some(items) = repeated(&schema["maxItems"]) {
        let item = schema["items"]["minimum"]
            .as_u64()
            .map_or(json!("x"), |item| json!(item));
        wrong.push(json!(vec![item; items]));
    }
    if schema["minItems"] == 1 {
        wrong.push(json!([]));
    }
    wrong
}

/// Every member that a request may have according to its description, with its schema; the items of an array are such requests.
fn members_of(route: &Route) -> Vec<(String, Value, bool)> {
    let (_, said) = operation(route.method.as_str(), route.path).expect("described");
    let mut schema = &said["requestBody"]["content"]["application/json"]["schema"];
    if schema["type"] == "array" {
        schema = &schema["items"];
    }
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let members = schema["properties"].as_object().into_iter().flatten();
    let members = members.map(|(name, member)| {
        let must = required.contains(&json!(name));
        (name.clone(), member.clone(), must)
    });
    members.collect()
}

/// The rules that are broken by the good request with one member that is different, or absent.
async fn objections(
    tenant: &Tenant<'_>,
    route: &Route,
    path: &str,
    (name, value): (&str, Option<&Value>),
) -> Vec<String> {
    let mut body = body_of(route).expect("it has one");
    let object = match &mut body {
        Value::Array(items) => &mut items[0],
        one => one,
    };
    match value {
        Some(value) => object[name] = value.clone(),
        None => drop(object.as_object_mut().expect("an object").remove(name)),
    }
    let answer = send(tenant.api, Some(&tenant.key), route, path, Some(&body)).await;
    if answer.status != 422 {
        return Vec::new();
    }
    let errors = answer.json()["errors"].clone();
    let about_it = |error: &&Value| {
        let field = error["field"].as_str().unwrap_or_default();
        let field = field.strip_prefix("[0].").unwrap_or(field);
        field
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
    };
    let errors = errors.as_array().expect("errors").clone();
    let rules = errors
        .iter()
        .filter(about_it)
        .map(|error| error["rule"].as_str());
    rules.map(|rule| rule.expect("a rule").to_owned()).collect()
}

#[tokio::test]
async fn what_requests_may_carry_is_what_is_described() {
    let api = Api::start().await;
    let mut tried = 0;
    for route in routes()
        .into_iter()
        .filter(|route| body_of(route).is_some())
    {
        let tenant = api.tenant().await;
        let things = Things::of(&tenant).await;
        let path = things.path(&route);
        let members = members_of(&route);
        assert!(!members.is_empty(), "{route:?}");
        for (name, schema, must) in &members {
            for wrong in wrong_values(schema) {
                let rules = objections(&tenant, &route, &path, (name, Some(&wrong))).await;
                let about = format!("{route:?} {name} {wrong:.60}: {rules:?}");
                assert!(!rules.is_empty(), "taken: {about}");
                assert!(rules.iter().all(|rule| rule != NO_MEMBER), "{about}");
                tried += 1;
            }
            for bound in [&schema["minimum"], &schema["maximum"]] {
                if bound.is_number() {
                    let rules = objections(&tenant, &route, &path, (name, Some(bound))).await;
                    let refused = rules.iter().any(|rule| rule.contains("whole number"));
                    assert!(!refused, "{route:?} {name} {bound}: {rules:?}");
                }
            }
            let may_be_null = mismatches(schema, &json!(null)).is_empty();
            let rules = objections(&tenant, &route, &path, (name, Some(&json!(null)))).await;
            assert_eq!(rules.is_empty(), may_be_null, "{route:?} {name}: {rules:?}");
            let rules = objections(&tenant, &route, &path, (name, None)).await;
            assert_eq!(
                !rules.is_empty(),
                *must,
                "{route:?} without {name}: {rules:?}"
            );
        }
        let unknown = ("not_described", Some(&json!(1)));
        let rules = objections(&tenant, &route, &path, unknown).await;
        assert_eq!(rules, [NO_MEMBER], "{route:?}");
    }
    assert!(tried > 100, "only {tried} values");
}

#[tokio::test]
async fn parameters_are_those_that_are_described() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::of(&tenant).await;
    for route in routes() {
        let (_, said) = operation(route.method.as_str(), route.path).expect("described");
        let parameters = said["parameters"].as_array().into_iter().flatten();
        for parameter in parameters.filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().expect("a name");
            let path = format!("{}?{name}=%00", things.path(&route));
            let refused = tenant.get(&path).await.expect_problem(422, "invalid");
            assert_eq!(refused.fields(), [name], "{route:?}");
            let rule = refused.json()["errors"][0]["rule"].clone();
            let rule = rule.as_str().expect("a rule");
            assert!(
                !rule.contains("not a parameter"),
                "{route:?} {name}: {rule}"
            );
        }
        let path = format!("{}?not_described=1", things.path(&route));
        let body = body_of(&route);
        let answer = send(&api, Some(&tenant.key), &route, &path, body.as_ref()).await;
        let refused = answer.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), ["not_described"], "{route:?}");
        let answer = send(&api, None, &route, &path, body.as_ref()).await;
        answer.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn anybody_may_read_the_document_and_ask_whether_it_has_changed() {
    let api = Api::with(&[("ZYVEN_INGEST_BATCH_EVENTS_MAX", "77")]).await;
    let read = async |tag: Option<&str>| {
        let request = api.http.get(api.url("/openapi.json"));
        Answer::of(match tag {
            Some(tag) => request.header("if-none-match", tag),
            None => request,
        })
        .await
    };
    let first = read(None).await.expect(200);
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("cache-control"), Some("public, max-age=300"));
    let document = first.json();
    let batch = &document["paths"]["/v1/events/batch"]["post"]["requestBody"]["content"];
    assert_eq!(
        batch["application/json"]["schema"]["maxItems"], 77,
        "as it is set here"
    );
    let tag = first.header("etag").expect("a tag").to_owned();
    for known in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"x\", {tag}"),
        "*".to_owned(),
    ] {
        let same = read(Some(&known)).await.expect(304);
        assert_eq!(
            (same.header("etag"), same.text.as_str()),
            (Some(tag.as_str()), "")
        );
    }
    assert_eq!(read(Some("\"x\"")).await.expect(200).text, first.text);
    let written = Answer::of(api.http.put(api.url("/openapi.json"))).await;
    let refused = written.expect_problem(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn the_reference_is_one_page_that_needs_nothing_else() {
    let api = Api::start().await;
    let page = Answer::of(api.http.get(api.url("/docs"))).await.expect(200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    for part in [
        "<script", " src=", "<link", "<img", "url(", "@import", "style=\"",
    ] {
        assert!(!page.text.contains(part), "{part}");
    }
    for (_, path, said) in described() {
        for words in [path, said["summary"].as_str().expect("a summary")] {
            assert!(page.text.contains(words), "{words}");
        }
    }
    let ids: BTreeSet<&str> = attributes(&page.text, " id=\"").collect();
    for place in attributes(&page.text, " href=\"#") {
        assert!(ids.contains(place), "#{place} leads nowhere");
    }
    assert_eq!(
        ids.len(),
        attributes(&page.text, " id=\"").count(),
        "ids are unique"
    );
    // Of the ways to write a body the usual one is shown.
    let publishing = page.text.split(" id=\"publishEvent\"").nth(1);
    let sent = publishing.and_then(|section| section.split("Content-Type: ").nth(1));
    assert!(
        sent.is_some_and(|sent| sent.starts_with("application/json'")),
        "{sent:.40?}"
    );
    let tag = page.header("etag").expect("a tag");
    let again = api.http.get(api.url("/docs")).header("if-none-match", tag);
    Answer::of(again).await.expect(304);
}

fn attributes<'a>(page: &'a str, before: &'static str) -> impl Iterator<Item = &'a str> {
    let parts = page.split(before).skip(1);
    parts.filter_map(|rest| rest.split('"').next())
}
