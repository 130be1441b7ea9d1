//! TLS inside the tunnel.

use std::path::PathBuf;

use zyven_dispatcher::Config;
use zyven_testkit::{Receiver, TestCa};

use crate::support::{Stage, Terms, config};

/// A file that is gone with the test.
struct CaFile(PathBuf);

impl CaFile {
    fn holding(text: &str) -> CaFile {
        let name = format!("zyven-ca-{}-{:p}.pem", std::process::id(), text.as_ptr());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        CaFile(path)
    }

    fn trusted_by(&self, config: Config) -> Config {
        Config {
            tls_ca_file: Some(self.0.clone()),
            ..config
        }
    }
}

impl Drop for CaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_it_is_configured() {
    let ca = TestCa::new();
    let stage = Stage::with(Receiver::start_tls(&ca, &["127.0.0.1"]).await).await;
    stage.endpoint("/hook").await;
    let file = CaFile::holding(&ca.certificate_pem());
    let dispatcher = stage.start_with(file.trusted_by(stage.config()));
    let (event, _) = stage.first_attempt().await;
    assert_eq!(stage.delivery(event).await.state, "DELIVERED");
    let (_, second) = stage.first_attempt().await;
    assert!(second.reused);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_an_unknown_authority_is_refused() {
    let ca = TestCa::new();
    let file = CaFile::holding(&ca.certificate_pem());
    for (name, is_trusted) in [("hooks.example.com", true), ("127.0.0.1", false)] {
        let stage = Stage::with(Receiver::start_tls(&ca, &[name]).await).await;
        let terms = Terms {
            attempts_max: 1,
            ..Terms::default()
        };
        stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
        let config = if is_trusted {
            file.trusted_by(stage.config())
        } else {
            stage.config()
        };
        let dispatcher = stage.start_with(config);
        let (event, attempt) = stage.first_attempt().await;
        assert_eq!(attempt.error.as_deref(), Some("tls"), "{name}");
        assert!(attempt.detail.unwrap().contains("certificate"), "{name}");
        assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
        assert_eq!(stage.receiver.request_count(), 0, "{name}");
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_tls_fails_its_attempt() {
    let stage = Stage::new().await;
    let terms = Terms {
        attempts_max: 1,
        timeout_ms: 2_000,
    };
    let address = stage.receiver.address();
    stage
        .endpoint_at(&format!("https://{address}/hook"), terms)
        .await;
    let dispatcher = stage.start();
    let (_, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.error.as_deref(), Some("tls"));
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_file_without_certificates_keeps_the_dispatcher_from_starting() {
    let stage = Stage::new().await;
    for text in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let file = CaFile::holding(text);
        let config = file.trusted_by(config(&[stage.proxy.address]));
        let error = stage.start_with(config).ended().await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("ZYVEN_DISPATCHER_TLS_CA_FILE"),
            "{error}"
        );
    }
}
