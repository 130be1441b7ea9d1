//! What a receiver gets.

use bytes::Bytes;
use zyven_domain::id::DeliveryId;
use zyven_domain::signature::sign;

use crate::support::{PATIENCE, Stage, signing_key};

/// Nothing here survives a parser: order, duplicated blanks, escapes, numbers, other scripts.
const ODD_PAYLOAD: &str =
    "{ \"b\" : 1.0e+2,\n\t\"a\":\"\\u00e9 é 漢字 \\/ 😀\", \"n\": 12345678901234567890 }";

#[tokio::test]
async fn a_request_carries_the_exact_payload_signed_as_standard_webhooks() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook?key=a%20b&key=c").await;
    let dispatcher = stage.start();
    let event = stage.publish(ODD_PAYLOAD).await;

    let requests = stage.receiver.wait_for_requests(1, PATIENCE).await;
    let request = &requests[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/hook");
    assert_eq!(request.query.as_deref(), Some("key=a%20b&key=c"));
    assert_eq!(request.body, Bytes::from_static(ODD_PAYLOAD.as_bytes()));

    let delivery = DeliveryId::derive(event, endpoint);
    for (name, value) in [
        ("host", stage.receiver.address().to_string()),
        ("content-type", "application/json".into()),
        ("content-length", ODD_PAYLOAD.len().to_string()),
        (
            "user-agent",
            concat!("Zyven/", env!("CARGO_PKG_VERSION")).into(),
        ),
        ("webhook-id", event.to_string()),
        ("zyven-event-type", "invoice.paid".into()),
        ("zyven-delivery-id", delivery.to_string()),
        ("zyven-attempt", "1".into()),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        ),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    for absent in [
        "accept-encoding",
        "cookie",
        "proxy-authorization",
        "transfer-encoding",
    ] {
        assert_eq!(request.header(absent), "", "{absent}");
    }

    let timestamp_s: i64 = request.header("webhook-timestamp").parse().unwrap();
    assert!((chrono::Utc::now().timestamp() - timestamp_s).abs() < 60);
    assert_eq!(
        request.header("webhook-signature"),
        sign(
            &[signing_key()],
            &event.to_string(),
            timestamp_s,
            ODD_PAYLOAD.as_bytes()
        )
    );

    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!((delivered.attempts, delivered.http_status), (1, Some(200)));
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_retry_is_the_same_event_with_the_next_attempts_number() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let failing = zyven_testkit::Answer::status(500).body("out of paper");
    stage.receiver.answer_in_turn("/hook", [failing]);
    let dispatcher = stage.start();
    let event = stage.publish("[1]").await;

    let requests = stage.receiver.wait_for_requests(2, PATIENCE).await;
    assert_eq!(requests[0].header("zyven-attempt"), "1");
    assert_eq!(requests[1].header("zyven-attempt"), "2");
    assert_eq!(
        requests[0].header("webhook-id"),
        requests[1].header("webhook-id")
    );
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.attempts, 2);
    let attempts = stage.attempts(event).await;
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0].http_status, Some(500));
    assert_eq!(attempts[0].body.as_deref(), Some(&b"out of paper"[..]));
    assert_eq!(attempts[1].http_status, Some(200));
    dispatcher.stop().await;
}

#[tokio::test]
async fn many_events_all_arrive_once_and_share_connections() {
    const EVENTS: usize = 300;
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let dispatcher = stage.start();
    for number in 0..EVENTS {
        stage.publish_silently(&number.to_string()).await;
    }
    stage.offer().await;

    let requests = stage.receiver.wait_for_requests(EVENTS, PATIENCE).await;
    let mut numbers: Vec<usize> = requests
        .iter()
        .map(|request| str::from_utf8(&request.body).unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
    // No lane has more than 64 tickets out, so no more connections are needed.
    assert!(
        stage.receiver.connection_count() <= 64,
        "{} connections",
        stage.receiver.connection_count()
    );
    zyven_testkit::wait_until("the outbox is empty", PATIENCE, async || {
        match stage.sql.number("SELECT count(*) FROM zyven.outbox").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(stage.receiver.request_count(), EVENTS);
    let delivered = dispatcher.count("zyven_dispatcher_accepted_to_delivered_seconds_count");
    assert_eq!(delivered, EVENTS as u64);
    dispatcher.stop().await;
}
