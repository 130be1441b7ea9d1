//! Connections that are encrypted, and what is checked before anything is sent.

use std::time::Duration;

use zyven_store::{DatabaseTls, Store, StoreConfig, StoreError};
use zyven_testkit::{Postgres, TestCa, TestDatabase, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

fn authority(ca: &TestCa) -> DatabaseTls {
    DatabaseTls {
        authorities_pem: Some(ca.certificate_pem().into_bytes()),
        identity_pem: None,
    }
}

fn connect(url: &str, tls: DatabaseTls) -> Result<Store, StoreError> {
    Store::connect(&StoreConfig {
        url: url.to_owned(),
        tls,
        pool_size: 1,
    })
}

/// The database's URL by this host name, with this mode.
fn url(database: &TestDatabase, host: &str, mode: &str) -> String {
    let address = database.address();
    let there = database.url().replacen(
        &address.to_string(),
        &format!("{host}:{}", address.port()),
        1,
    );
    format!("{there}?sslmode={mode}")
}

/// What PostgreSQL says of the one connection of this store: whether it is encrypted, and whose certificate it has seen.
async fn session(database: &TestDatabase, store: &Store) -> (bool, Option<String>) {
    store.health().await.expect("a connection");
    let sql = database.client().await;
    let row = sql
        .query_one(
            "SELECT ssl, client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'zyven'",
            &[],
        )
        .await
        .expect("one connection");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn connections_are_encrypted_when_the_url_says_so_and_only_then() {
    let ca = TestCa::new();
    let server = Postgres::private_with_tls(&ca, &["localhost", "127.0.0.1"]).await;
    let database = server.database().await;
    let closed = async || {
        let sql = database.client().await;
        wait_until("the last connection is gone", PATIENCE, async || {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zyven'";
            let row = sql.query_one(left, &[]).await.expect("a count");
            row.get::<_, i64>(0) == 0
        })
        .await;
    };
    for (host, mode, is_encrypted) in [
        ("127.0.0.1", "require", true),
        ("localhost", "verify-full", true),
        ("127.0.0.1", "disable", false),
        ("127.0.0.1", "prefer", false),
    ] {
        let tls = match is_encrypted {
            true => authority(&ca),
            false => DatabaseTls::default(),
        };
        let store = connect(&url(&database, host, mode), tls).expect("a store");
        assert_eq!(
            session(&database, &store).await,
            (is_encrypted, None),
            "{mode}"
        );
        drop(store);
        closed().await;
    }

    let client = ca.client_certificate("ingest", (2020, 2050));
    let tls = DatabaseTls {
        identity_pem: Some((
            client.certificate_pem.into_bytes(),
            client.private_key_pem.into_bytes(),
        )),
        ..authority(&ca)
    };
    let store = connect(&url(&database, "localhost", "require"), tls).expect("a store");
    let (is_encrypted, shown) = session(&database, &store).await;
    assert!(is_encrypted);
    assert!(shown.is_some_and(|name| name.contains("CN=ingest")));
}

#[tokio::test]
async fn a_server_that_cannot_be_known_is_not_used() {
    let ca = TestCa::new();
    let server = Postgres::private_with_tls(&ca, &["elsewhere.example"]).await;
    let database = server.database().await;
    let plain = Postgres::private().await;
    let unencrypted = plain.database().await;
    for (place, tls, why) in [
        (&database, authority(&ca), "NotValidForName"),
        (&database, authority(&TestCa::new()), "InvalidCertificate"),
        (&unencrypted, authority(&ca), "server does not support TLS"),
    ] {
        let store = connect(&url(place, "127.0.0.1", "require"), tls).expect("a store");
        let error = store.health().await.expect_err("nobody it knows");
        assert!(error.is_transient(), "it may be given another certificate");
        assert!(format!("{error:?}").contains(why), "{why}: {error:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let url = "postgres://u@localhost/d?sslmode=require";
    let ca = TestCa::new();
    let client = ca.client_certificate("ingest", (2020, 2050));
    let other = ca.client_certificate("relay", (2020, 2050));
    let pair = |certificate: &str, key: &str| DatabaseTls {
        identity_pem: Some((certificate.into(), key.into())),
        ..authority(&ca)
    };
    let text = |pem: &str| DatabaseTls {
        authorities_pem: Some(pem.into()),
        identity_pem: None,
    };
    for (url, tls, rule) in [
        (
            "postgres://u@localhost/d",
            authority(&ca),
            "must have sslmode=require",
        ),
        (url, text(""), "no certificate authority"),
        (url, text("-----BEGIN CERTIFICATE-----\nAAAA"), "not PEM"),
        (
            url,
            pair(&client.certificate_pem, "nothing"),
            "belong together",
        ),
        (
            url,
            pair(&client.certificate_pem, &other.private_key_pem),
            "belong together",
        ),
    ] {
        let error = connect(url, tls).map(drop).expect_err(rule);
        assert!(matches!(error, StoreError::Tls(_)), "{error:?}");
        assert!(error.to_string().contains(rule), "{error}");
    }
    connect(url, pair(&client.certificate_pem, &client.private_key_pem)).expect("in order");
}
