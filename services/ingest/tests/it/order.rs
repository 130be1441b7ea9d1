//! The order of checks, as seen from outside: a request that is wrong in every way is refused for the
//! first reason; mended there, for the next one.

use crate::support::Api;
use crate::wire::{JSON, Wire, request};

const LIMIT: (&str, &str) = ("ZYVEN_INGEST_BODY_BYTES_MAX", "1000");

#[tokio::test]
async fn a_request_that_is_wrong_in_every_way_is_refused_for_the_first_reason() {
    let api = Api::with(&[LIMIT]).await;
    let tenant = api.tenant().await;
    let reader = tenant.key_with(&[zyven_domain::api_key::Scope::Read]).await;
    let used = r#"{"type":"a","payload":"used"}"#;
    tenant.publish_with_key(used, "k").await.expect(202);

    let key = tenant.key.as_str();
    let (wrong_type, packed) = ("content-type: text/plain\r\n", "content-encoding: gzip\r\n");
    let repeated = "idempotency-key: k\r\n";
    let large_garbage = "\u{fffd}".repeat(400);
    let everything_wrong = format!("{wrong_type}{packed}{repeated}");
    let json_packed = format!("{JSON}{packed}{repeated}");
    let json = format!("{JSON}{repeated}");
    let steps = [
        (
            "/v1/event",
            "zyk_x",
            &everything_wrong,
            &large_garbage[..],
            404,
            "not_found",
        ),
        (
            "/v1/events",
            "zyk_x",
            &everything_wrong,
            &large_garbage,
            401,
            "unauthenticated",
        ),
        (
            "/v1/events",
            &reader,
            &everything_wrong,
            &large_garbage,
            403,
            "scope_missing",
        ),
        (
            "/v1/events",
            key,
            &everything_wrong,
            &large_garbage,
            415,
            "content_type_unsupported",
        ),
        (
            "/v1/events",
            key,
            &json_packed,
            &large_garbage,
            415,
            "content_encoding_unsupported",
        ),
        (
            "/v1/events",
            key,
            &json,
            &large_garbage,
            413,
            "body_too_large",
        ),
        ("/v1/events", key, &json, "{\u{1}", 400, "body_not_json"),
        (
            "/v1/events",
            key,
            &json,
            r#"{"type":"","payload":1}"#,
            422,
            "invalid",
        ),
        (
            "/v1/events",
            key,
            &json,
            r#"{"type":"a","payload":1}"#,
            409,
            "idempotency_conflict",
        ),
        ("/v1/events", key, &json, used, 200, ""),
    ];
    for (path, key, lines, body, status, code) in steps {
        let mut wire = Wire::to(api.address).await;
        wire.send(request("POST", path, key, lines, body)).await;
        wire.answer().await.expect(status, code);
    }

    // UTF-8 comes after size and before JSON.
    let mut wire = Wire::to(api.address).await;
    let head = format!("{JSON}content-length: 2\r\n");
    wire.send(request("POST", "/v1/events", key, &head, ""))
        .await;
    wire.send(b"{\xff").await;
    wire.answer().await.expect(400, "body_not_utf8");
    let mut wire = Wire::to(api.address).await;
    let head = format!("{JSON}content-length: 1001\r\n");
    wire.send(request("POST", "/v1/events", key, &head, ""))
        .await;
    wire.send([0xff; 1001]).await;
    wire.answer().await.expect(413, "body_too_large");
}

/// Whatever else is wrong with it, and however its body is written: the same words.
#[tokio::test]
async fn who_has_no_key_learns_nothing_but_that() {
    let api = Api::with(&[LIMIT]).await;
    let bodies = ["", "{}", "{", "\u{0}", &"x".repeat(5000)];
    let kinds = [
        "",
        JSON,
        "content-type: text/plain\r\n",
        "content-encoding: gzip\r\n",
        "idempotency-key: \u{1f600}\r\n",
        "expect: 100-continue\r\n",
        "accept: nothing/at-all\r\n",
    ];
    let mut answers = Vec::new();
    for route in zyven_ingest::routes() {
        let path = route.path.replace("{id}", "x").replace("{name}", "x");
        for body in bodies {
            for kind in kinds {
                let mut wire = Wire::to(api.address).await;
                let method = route.method.as_str();
                wire.send(request(method, &path, "zyk_x", kind, body)).await;
                let answer = wire.answer().await;
                answer.expect(401, "unauthenticated");
                answers.push(answer.body);
            }
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}
