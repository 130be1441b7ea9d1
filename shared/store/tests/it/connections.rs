//! How long statements wait for their connections, as metrics are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use zyven_store::{ConnectionKind, DatabaseTls, Store, StoreConfig};

use crate::fixture::Fixture;

#[tokio::test]
async fn each_statement_says_how_long_it_waited_for_its_connection() {
    let fixture = Fixture::new().await;
    let store = Store::connect(&StoreConfig {
        url: fixture.database.url(),
        tls: DatabaseTls::default(),
        pool_size: 1,
    })
    .expect("a store");
    let noted = Arc::new(Mutex::new(Vec::new()));
    let waits = Arc::clone(&noted);
    store.note_connection_waits(move |kind, wait| {
        waits.lock().expect("nobody panics").push((kind, wait));
    });
    store.health().await.expect("healthy");
    // Whoever has the only connection waits for this lock until PostgreSQL gives up, after 0.2 s.
    let locking = "BEGIN; LOCK TABLE zyven.relay IN ACCESS EXCLUSIVE MODE";
    fixture.sql.batch_execute(locking).await.expect("locked");
    let (one, other) = tokio::join!(store.watermark(), store.watermark());
    assert!(one.is_err() && other.is_err());

    let noted = noted.lock().expect("nobody panics");
    let kinds: Vec<ConnectionKind> = noted.iter().map(|(kind, _)| *kind).collect();
    let [reads, relaxed] = [ConnectionKind::Reads, ConnectionKind::Relaxed];
    assert_eq!(kinds, [reads, relaxed, relaxed]);
    assert!(noted[2].1 >= Duration::from_millis(150), "{noted:?}");
    assert_eq!(store.connections(relaxed), 1);
    assert_eq!(store.connections(ConnectionKind::Durable), 0);
}
