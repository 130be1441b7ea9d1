//! Arbitrary requests at the real listener: never a 5xx, never a hang, never an answer to the wrong
//! request; and what is acknowledged is stored as it was sent.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use tokio::io::AsyncWriteExt as _;
use zyven_domain::payload;

use crate::support::{Api, Tenant};
use crate::wire::{JSON, Wire, WireAnswer, publishing, request};

/// Runs an async check for many inputs against one API.
fn check<S, F>(cases: u32, inputs: &S, test: &F)
where
    S: Strategy,
    F: AsyncFn(&Tenant<'_>, S::Value) -> Result<(), TestCaseError>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let api = runtime.block_on(Api::start());
    let tenant = runtime.block_on(api.tenant());
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(inputs, |input| runtime.block_on(test(&tenant, input)));
    if let Err(found) = outcome {
        panic!("{found}");
    }
    // The database is dropped with the runtime still there.
    let _inside = runtime.enter();
    drop(api);
}

/// Everything the other side says until it closes.
async fn conversation(tenant: &Tenant<'_>, sent: &[&[u8]], first_is_head: bool) -> Vec<WireAnswer> {
    let mut wire = Wire::to(tenant.api.address).await;
    for bytes in sent {
        wire.send(bytes).await;
    }
    // From here on nothing can be waited for: whoever still waits hangs.
    let _ = wire.stream.shutdown().await;
    let mut answers: Vec<WireAnswer> = Vec::new();
    while let Some(answer) = wire
        .answer_to(first_is_head && answers.iter().all(|known| known.status < 200))
        .await
    {
        answers.push(answer);
    }
    answers
}

fn blameless(answers: &[WireAnswer], tenant: &Tenant<'_>) -> Result<(), TestCaseError> {
    for answer in answers {
        prop_assert!(answer.status < 500, "{answer:?}");
        for leak in [
            "SELECT",
            "INSERT",
            "zyven.",
            "panicked",
            ".rs:",
            &tenant.key[..],
        ] {
            prop_assert!(!answer.body.contains(leak), "{leak:?} in {answer:?}");
        }
    }
    Ok(())
}

// A request that is framed correctly, whatever it says ----------------------------------------------

/// Stands for the tenant's key, which is made later.
const KEY: &[u8] = b"Bearer KEY";

#[derive(Debug, Clone)]
struct Framed {
    method: String,
    target: String,
    lines: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// Empty: with a length. Otherwise in chunks of these sizes, in turn.
    chunks: Vec<usize>,
}

impl Framed {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!(
            "{} {} HTTP/1.1\r\nhost: zyven.test\r\n",
            self.method, self.target
        )
        .into_bytes();
        for (name, value) in &self.lines {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if self.chunks.is_empty() {
            bytes.extend_from_slice(
                format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes(),
            );
            bytes.extend_from_slice(&self.body);
        } else {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            bytes.extend_from_slice(&in_chunks(&self.body, &self.chunks));
        }
        bytes
    }

    /// It asked for the end of the connection, or for a leave to send that it did not wait for.
    fn may_end_the_connection(&self) -> bool {
        let ends = ["connection", "expect", "upgrade"];
        self.lines
            .iter()
            .any(|(name, _)| ends.contains(&name.as_str()))
    }
}

fn in_chunks(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut rest, mut sizes) = (body, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = (*sizes.next().expect("some sizes")).clamp(1, rest.len());
        bytes.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        bytes.extend_from_slice(&rest[..size]);
        bytes.extend_from_slice(b"\r\n");
        rest = &rest[size..];
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn targets() -> impl Strategy<Value = String> {
    let paths: Vec<&'static str> = zyven_ingest::routes()
        .iter()
        .map(|route| route.path)
        .collect();
    let filled = (
        select(paths),
        "[!-~&&[^#{}]]{0,60}",
        "(\\?[!-~&&[^#]]{0,60})?",
    )
        .prop_map(|(path, id, query)| {
            let mut filled = String::new();
            for piece in path.split_inclusive(['{', '}']) {
                match piece.strip_suffix('}') {
                    Some(_) => filled.push_str(&id),
                    None => filled.push_str(piece.trim_end_matches('{')),
                }
            }
            format!("{filled}{query}")
        });
    prop_oneof![3 => filled, 1 => "/[!-~&&[^#]]{0,100}"]
}

fn header_values() -> impl Strategy<Value = Vec<u8>> {
    let readable = select(vec![
        "application/json",
        "application/x-ndjson",
        "text/plain; charset=utf-8",
        "gzip",
        "identity",
        "100-continue",
        "close",
        "keep-alive",
        "h2c",
        "Bearer",
        "00-ff",
        "0",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ]);
    prop_oneof![
        readable.prop_map(|text| text.as_bytes().to_vec()),
        // Whatever a header's value may consist of (RFC 9110, section 5.5).
        vec(
            prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8],
            0..80
        ),
    ]
}

fn header_lines() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let names = select(vec![
        "content-type",
        "content-encoding",
        "idempotency-key",
        "traceparent",
        "x-request-id",
        "accept",
        "expect",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "x-forwarded-for",
        "cookie",
        "authorization",
        "accept-encoding",
        "if-none-match",
        "range",
        "x-http-method-override",
    ]);
    let names =
        prop_oneof![4 => names.prop_map(str::to_owned), 1 => "x-[!#$%&'*+.^_`|~0-9a-z-]{1,40}"];
    let usual = [
        ("authorization".to_owned(), KEY.to_vec()),
        ("content-type".to_owned(), b"application/json".to_vec()),
    ];
    (vec((names, header_values()), 0..8), 0..4_u8).prop_map(move |(mut lines, left_out)| {
        let usual = usual
            .iter()
            .enumerate()
            .filter(|(at, _)| usize::from(left_out) != *at);
        lines.extend(usual.map(|(_, line)| line.clone()));
        lines
    })
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        json_texts().prop_map(String::into_bytes),
        json_texts()
            .prop_map(|payload| format!(r#"{{"type":"a","payload":{payload}}}"#).into_bytes()),
        json_texts()
            .prop_map(|payload| format!(r#"[{{"type":"a","payload":{payload}}}]"#).into_bytes()),
        (1..2000_usize).prop_map(|depth| "[".repeat(depth).into_bytes()),
        (1..2000_usize).prop_map(|depth| "{\"a\":".repeat(depth).into_bytes()),
    ]
}

fn framed() -> impl Strategy<Value = Framed> {
    let methods = prop_oneof![
        8 => select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]).prop_map(str::to_owned),
        1 => "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}".prop_filter("another answer", |method| method != "CONNECT"),
    ];
    (
        methods,
        targets(),
        header_lines(),
        bodies(),
        vec(1..200_usize, 0..4),
    )
        .prop_map(|(method, target, lines, body, chunks)| Framed {
            method,
            target,
            lines,
            body,
            chunks,
        })
}

#[test]
fn no_request_that_is_framed_correctly_gets_a_5xx_hangs_or_spoils_the_next_one() {
    const SENTINEL: &str = "the-next-request";
    check(
        400,
        &framed(),
        &async |tenant: &Tenant<'_>, mut given: Framed| {
            for (_, value) in &mut given.lines {
                if value == KEY {
                    *value = format!("Bearer {}", tenant.key).into_bytes();
                }
            }
            let lines = format!("x-request-id: {SENTINEL}\r\n");
            let next = request("GET", "/v1/api-keys", &tenant.key, &lines, "");
            let sent = [&given.bytes()[..], next.as_bytes()];
            let answers = conversation(tenant, &sent, given.method == "HEAD").await;
            blameless(&answers, tenant)?;
            let answers: Vec<&WireAnswer> = answers
                .iter()
                .filter(|answer| answer.status >= 200)
                .collect();
            match answers[..] {
                [_, next] => {
                    prop_assert_eq!(next.header("x-request-id"), Some(SENTINEL));
                    prop_assert_eq!(next.status, 200);
                }
                [only] => prop_assert!(
                    only.header("connection") == Some("close") || given.may_end_the_connection(),
                    "{:?} spoilt the connection: {:?}",
                    given,
                    only
                ),
                _ => prop_assert!(false, "{} answers: {:?}", answers.len(), answers),
            }
            Ok(())
        },
    );
}

// Bytes that need not be a request -------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, Index),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let nasty = prop_oneof![
        select(vec![
            "\r\n",
            "\r",
            "\n",
            "\0",
            ":",
            " ",
            "\r\n\r\n",
            "content-length: 5\r\n",
            "transfer-encoding: chunked\r\n"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 1..20),
    ];
    let damage = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (any::<Index>(), nasty).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Cut(from, to)),
    ];
    vec(damage, 1..6)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        match damage {
            Damage::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Cut(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                bytes.drain(from.min(to)..from.max(to));
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_whatever_get_a_5xx_or_hang() {
    check(
        400,
        &damages(),
        &async |tenant: &Tenant<'_>, damages: Vec<Damage>| {
            let lines = format!("{JSON}transfer-encoding: chunked\r\n");
            let chunked = request(
                "POST",
                "/v1/events",
                &tenant.key,
                &lines,
                "5\r\n{\"typ\r\n0\r\n\r\n",
            );
            let whole = [publishing(&tenant.key), chunked, publishing(&tenant.key)].concat();
            let sent = damaged(whole.into_bytes(), &damages);
            let answers = conversation(tenant, &[&sent], false).await;
            blameless(&answers, tenant)
        },
    );
}

// Exact bytes ---------------------------------------------------------------------------------------

/// JSON as people and programs write it, and as they should not.
fn json_texts() -> impl Strategy<Value = String> {
    let numbers = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no such", |n| n.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "-?(0|[1-9][0-9]{0,140})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?",
    ];
    let characters = prop_oneof![
        8 => any::<char>().prop_filter("escaped below", |c| *c >= ' ' && *c != '"' && *c != '\\').prop_map(String::from),
        1 => select(vec!["\\n", "\\\"", "\\\\", "\\/", "\\u00e9", "\\ud83d\\ude00", "\\u0000", "\\ud800", "\\u003a"]).prop_map(str::to_owned),
    ];
    let strings = vec(characters, 0..12).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let blank = "[ \t\r\n]{0,2}";
    let leaf = prop_oneof![
        select(vec!["null", "true", "false"]).prop_map(str::to_owned),
        numbers,
        strings,
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let items = vec(
            (blank, inner.clone(), blank).prop_map(|(a, item, b)| format!("{a}{item}{b}")),
            0..6,
        )
        .prop_map(|items| format!("[{}]", items.join(",")));
        // Few names, so that some occur twice.
        let members = vec((blank, "[a-d]{1,2}", blank, inner), 0..6).prop_map(|members| {
            let mut text = String::new();
            for (at, (a, name, b, value)) in members.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let _ = write!(text, "{comma}{a}\"{name}\"{b}:{value}");
            }
            format!("{{{text}}}")
        });
        prop_oneof![items, members]
    })
}

#[test]
fn what_is_acknowledged_is_stored_byte_for_byte_and_what_is_not_is_not() {
    let inputs = (json_texts(), vec(1..64_usize, 0..5), "[ \t\r\n]{0,3}");
    let (accepted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    check(400, &inputs, &async |tenant: &Tenant<'_>,
                                (payload, chunks, blank): (
        String,
        Vec<usize>,
        String,
    )| {
        let body = format!("{{\"payload\":{blank}{payload}{blank},\"type\":\"a\"}}");
        let framed = Framed {
            method: "POST".to_owned(),
            target: "/v1/events".to_owned(),
            lines: vec![
                (
                    "authorization".to_owned(),
                    format!("Bearer {}", tenant.key).into_bytes(),
                ),
                ("content-type".to_owned(), b"application/json".to_vec()),
            ],
            body: body.into_bytes(),
            chunks,
        };
        let client = tenant.api.database.client().await;
        let answers = conversation(tenant, &[&framed.bytes()], false).await;
        prop_assert_eq!(answers.len(), 1);
        blameless(&answers, tenant)?;
        let stored = client
            .query("DELETE FROM zyven.events RETURNING payload", &[])
            .await
            .expect("asked");
        let stored: Vec<Vec<u8>> = stored.iter().map(|row| row.get(0)).collect();
        if payload::validate(payload.as_bytes()).is_ok() {
            prop_assert_eq!(answers[0].status, 202, "{:?}", answers);
            prop_assert_eq!(stored, vec![payload.into_bytes()]);
            accepted.fetch_add(1, Ordering::Relaxed);
        } else {
            prop_assert!(matches!(answers[0].status, 400 | 422), "{:?}", answers);
            prop_assert!(stored.is_empty());
            refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let both = (accepted.into_inner(), refused.into_inner());
    assert!(both.0 > 40 && both.1 > 40, "one-sided: {both:?}");
}
