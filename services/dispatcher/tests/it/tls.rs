//! TLS inside the tunnel.

use std::path::PathBuf;

use zyven_dispatcher::Config;
use zyven_testkit::{Receiver, TestCa};

use crate::support::{Stage, config};

/// A file that is gone with the test.
pub(crate) struct CaFile(PathBuf);

impl CaFile {
    pub(crate) fn holding(text: &str) -> CaFile {
        let name = format!("zyven-ca-{}-{:p}.pem", std::process::id(), text.as_ptr());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        CaFile(path)
    }

    pub(crate) fn trusted_by(&self, config: Config) -> Config {
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
