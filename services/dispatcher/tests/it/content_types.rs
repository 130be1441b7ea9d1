//! What a request says its body is.

use http::HeaderName;
use zyven_domain::id::EventId;
use zyven_store::CredentialKind;
use zyven_testkit::{Answer, ReceivedRequest};

use crate::credentials::headers;
use crate::support::Stage;

const CLOUD_EVENT: &str =
    r#"{"specversion":"1.0","type":"invoice.paid","source":"/s","id":"1","data":{"n": 1.10}}"#;

async fn publish_cloud_event(stage: &Stage) -> EventId {
    let tenant = stage.tenant;
    let sql = format!(
        "SELECT zyven.publish('{tenant}', 'invoice.paid', '{CLOUD_EVENT}', content_type => 'application/cloudevents+json')"
    );
    let event = stage.sql.text(&sql).await.parse().unwrap();
    stage.offer().await;
    event
}

fn content_types(request: &ReceivedRequest) -> Vec<&str> {
    let values = request
        .headers
        .get_all(HeaderName::from_static("content-type"));
    values.iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_cloud_event_says_so_on_the_first_attempt_on_a_retry_and_after_a_replay() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    // More than the API lets through: a row may have been written past it.
    let contradicting = headers(&[("content-type", "text/plain")]);
    stage
        .set_credential(endpoint, CredentialKind::Headers, &contradicting)
        .await;
    let refusals = [Answer::status(503), Answer::status(400)];
    stage.receiver.answer_in_turn("/hook", refusals);
    let dispatcher = stage.start();
    let event = publish_cloud_event(&stage).await;
    assert_eq!(stage.wait_for_dead(event).await, "rejected");
    // The dead letter has a copy of its own, and needs the event no more.
    stage
        .sql
        .run(
            "DELETE FROM zyven.events;
             SELECT zyven.replay(delivery, 'mended') FROM zyven.dead_letters",
        )
        .await;
    stage.offer().await;
    stage.wait_for(event, "DELIVERED").await;

    let requests = stage.receiver.requests();
    let attempts: Vec<&str> = requests.iter().map(|r| r.header("zyven-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "1"]);
    for request in &requests {
        assert_eq!(content_types(request), ["application/cloudevents+json"]);
        assert_eq!(request.body, CLOUD_EVENT);
    }
    // The next one on the same connection is what it is, too.
    let other = stage.publish(CLOUD_EVENT).await;
    stage.wait_for(other, "DELIVERED").await;
    let last = stage.receiver.requests().pop().unwrap();
    assert_eq!(content_types(&last), ["application/json"]);
    dispatcher.stop().await;
}
