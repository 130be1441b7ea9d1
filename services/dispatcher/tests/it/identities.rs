//! Client certificates.

use zyven_domain::credential::{ClientCertificate, SecretText};
use zyven_domain::id::EndpointId;
use zyven_store::CredentialKind;
use zyven_testkit::{Receiver, TestCa, TestCertificate, wait_until};

use crate::support::{PATIENCE, Stage, Terms};
use crate::tls::CaFile;

async fn show(stage: &Stage, endpoint: EndpointId, certificate: &TestCertificate) {
    let sealed = ClientCertificate {
        certificate_pem: certificate.certificate_pem.clone(),
        private_key_pem: SecretText::new(certificate.private_key_pem.clone()),
        not_after_s: 4_000_000_000,
    };
    let kind = CredentialKind::ClientCertificate;
    stage
        .set_credential(endpoint, kind, &sealed.to_bytes())
        .await;
}

/// A stage whose receiver wants certificates of the authority, which the dispatcher trusts, too.
async fn strict(ca: &TestCa) -> (Stage, CaFile) {
    let config = ca.strict_server_config(&["127.0.0.1"]);
    let stage = Stage::with(Receiver::start_tls_with(config).await).await;
    (stage, CaFile::holding(&ca.certificate_pem()))
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_wants_one() {
    let ca = TestCa::new();
    let (stage, file) = strict(&ca).await;
    let certificate = ca.client_certificate("zyven", (2020, 2090));
    let endpoint = stage.endpoint("/hook").await;
    show(&stage, endpoint, &certificate).await;
    let dispatcher = stage.start_with(file.trusted_by(stage.config()));
    let (event, _) = stage.first_attempt().await;
    assert_eq!(stage.delivery(event).await.state, "DELIVERED");
    let shown = stage.receiver.requests()[0].client_certificate.clone();
    assert_eq!(shown, Some(certificate.certificate_der));
    dispatcher.stop().await;
}

#[tokio::test]
async fn without_the_right_certificate_the_handshake_fails_and_nothing_is_sent() {
    let (ca, stranger) = (TestCa::new(), TestCa::new());
    for certificate in [
        None,
        Some(stranger.client_certificate("zyven", (2020, 2090))),
    ] {
        let (stage, file) = strict(&ca).await;
        let terms = Terms {
            attempts_max: 1,
            ..Terms::default()
        };
        let url = stage.receiver.url("/hook");
        let endpoint = stage.endpoint_at(&url, terms).await;
        if let Some(certificate) = &certificate {
            show(&stage, endpoint, certificate).await;
        }
        let dispatcher = stage.start_with(file.trusted_by(stage.config()));
        let (event, attempt) = stage.first_attempt().await;
        assert_eq!(attempt.error.as_deref(), Some("tls"), "{attempt:?}");
        assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
        assert_eq!(stage.receiver.request_count(), 0);
        dispatcher.stop().await;
    }
}

/// The same server, the same authority, the same moment; two of the endpoints even have the same
/// certificate.
#[tokio::test]
async fn a_connection_with_one_endpoints_certificate_never_carries_anothers_request() {
    const EVENTS: usize = 30;
    let ca = TestCa::new();
    let (stage, file) = strict(&ca).await;
    let first = ca.client_certificate("first", (2020, 2090));
    let second = ca.client_certificate("second", (2020, 2090));
    let paths = [("/a", &first), ("/b", &second), ("/c", &second)];
    for (path, certificate) in paths {
        let endpoint = stage.endpoint(path).await;
        show(&stage, endpoint, certificate).await;
    }
    let dispatcher = stage.start_with(file.trusted_by(stage.config()));
    // In turn, so that there are idle connections to take, and then all at once.
    for number in 1..=5 {
        stage.publish("{}").await;
        stage.receiver.wait_for_requests(3 * number, PATIENCE).await;
    }
    for _ in 5..EVENTS {
        stage.publish_silently("{}").await;
    }
    stage.offer().await;
    let requests = stage.receiver.wait_for_requests(3 * EVENTS, PATIENCE).await;
    let mut connections: Vec<(u64, &str)> = Vec::new();
    for request in &requests {
        let (_, certificate) = paths
            .iter()
            .find(|(path, _)| *path == request.path)
            .unwrap();
        let shown = request.client_certificate.as_ref();
        assert_eq!(
            shown,
            Some(&certificate.certificate_der),
            "{}",
            request.path
        );
        connections.push((request.connection, &request.path));
    }
    connections.sort_unstable();
    connections.dedup();
    let of_one_endpoint = connections.len();
    connections.dedup_by_key(|(connection, _)| *connection);
    assert_eq!(
        connections.len(),
        of_one_endpoint,
        "a connection with two endpoints"
    );
    assert!(connections.len() < requests.len(), "connections are reused");
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_and_the_old_ones_connections_are_left() {
    let ca = TestCa::new();
    let (stage, file) = strict(&ca).await;
    let endpoint = stage.endpoint("/hook").await;
    let old = ca.client_certificate("old", (2020, 2090));
    show(&stage, endpoint, &old).await;
    let dispatcher = stage.start_with(file.trusted_by(stage.config()));
    stage.first_attempt().await;
    let new = ca.client_certificate("new", (2020, 2090));
    show(&stage, endpoint, &new).await;
    wait_until("the new certificate is shown", PATIENCE, async || {
        stage.first_attempt().await;
        let requests = stage.receiver.requests();
        let shown = requests.last().unwrap().client_certificate.clone();
        shown.as_ref() == Some(&new.certificate_der)
    })
    .await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn over_http_an_endpoint_with_a_certificate_is_not_delivered_to() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    let certificate = TestCa::new().client_certificate("zyven", (2020, 2090));
    show(&stage, endpoint, &certificate).await;
    let dispatcher = stage.start();
    stage.publish("{}").await;
    stage.wait_until_put_off().await;
    assert_eq!(stage.receiver.request_count(), 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn certificates_that_end_soon_are_counted() {
    let ca = TestCa::new();
    for (ends_in_days, counted) in [(13, 1), (15, 0)] {
        let (stage, file) = strict(&ca).await;
        let endpoint = stage.endpoint("/hook").await;
        let certificate = ca.client_certificate("zyven", (2020, 2090));
        let ends = chrono::Utc::now() + chrono::TimeDelta::days(ends_in_days);
        let sealed = ClientCertificate {
            certificate_pem: certificate.certificate_pem,
            private_key_pem: SecretText::new(certificate.private_key_pem),
            not_after_s: ends.timestamp(),
        };
        let kind = CredentialKind::ClientCertificate;
        stage
            .set_credential(endpoint, kind, &sealed.to_bytes())
            .await;
        let dispatcher = stage.start_with(file.trusted_by(stage.config()));
        stage.first_attempt().await;
        let gauge = "zyven_dispatcher_client_certificates_ending";
        assert_eq!(dispatcher.count(gauge), counted, "{ends_in_days} days");
        dispatcher.stop().await;
    }
}
