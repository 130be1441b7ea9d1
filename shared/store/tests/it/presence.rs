//! Dispatchers that live, that fall silent, and whose leases end early.

use zyven_domain::lease::DispatcherNumber;
use zyven_store::{EndedLease, Settled, Settlement};

use crate::fixture::{Fixture, TOKEN, record, settling};

fn number(number: i64) -> DispatcherNumber {
    DispatcherNumber::from_i64(number).expect("a number")
}

async fn registered(fixture: &Fixture, of: i64) -> DispatcherNumber {
    let number = number(of);
    let registered = fixture.store.register_dispatcher(number).await;
    assert!(registered.expect("registered"), "{number} is free");
    number
}

async fn beat_of(fixture: &Fixture, number: DispatcherNumber) -> i64 {
    let beats = fixture.store.dispatcher_beats().await.expect("beats");
    let found = beats.iter().find(|it| it.number == number);
    found.expect("it is registered").beat
}

async fn die(fixture: &Fixture, number: DispatcherNumber) {
    let beat = beat_of(fixture, number).await;
    let declared = fixture.store.declare_dead(number, beat).await;
    assert!(declared.expect("asked"), "declared dead");
}

#[tokio::test]
async fn a_number_belongs_to_the_first_who_registers_it() {
    let fixture = Fixture::new().await;
    let first = registered(&fixture, 7).await;
    assert!(
        !fixture
            .store
            .register_dispatcher(first)
            .await
            .expect("asked")
    );
    registered(&fixture, 8).await;
}

#[tokio::test]
async fn a_dispatcher_that_has_beaten_since_is_not_declared_dead() {
    let fixture = Fixture::new().await;
    let it = registered(&fixture, 7).await;
    let seen = beat_of(&fixture, it).await;
    assert!(fixture.store.beat(it).await.expect("beaten"));
    assert_ne!(beat_of(&fixture, it).await, seen);
    assert!(!fixture.store.declare_dead(it, seen).await.expect("asked"));
    assert!(fixture.store.beat(it).await.expect("beaten"), "it lives on");
}

#[tokio::test]
async fn the_beat_of_a_dispatcher_that_was_declared_dead_tells_it_so() {
    let fixture = Fixture::new().await;
    let it = registered(&fixture, 7).await;
    die(&fixture, it).await;
    assert!(!fixture.store.beat(it).await.expect("asked"));
    // It cannot leave either: somebody is ending its leases.
    fixture.store.leave(it).await.expect("asked");
    let beats = fixture.store.dispatcher_beats().await.expect("beats");
    assert!(beats[0].is_dead);
    fixture.store.forget_dispatcher(it).await.expect("asked");
    assert!(!fixture.store.beat(it).await.expect("asked"));
    assert_eq!(fixture.store.dispatcher_beats().await.expect("beats"), []);
}

#[tokio::test]
async fn a_beat_that_is_given_up_takes_its_connection_with_it() {
    let fixture = Fixture::new().await;
    let it = registered(&fixture, 7).await;
    assert!(fixture.store.beat(it).await.expect("beaten"));
    let sessions = "SELECT pid FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE '%SET beat = beat + 1%'
                       AND pid <> pg_backend_pid()";
    let session = fixture.sql.query_one(sessions, &[]).await.expect("one");
    let session: i32 = session.get(0);
    // Polled once: it is sent, and cannot be answered yet.
    tokio::select! {
        biased;
        _ = fixture.store.beat(it) => panic!("answered at once"),
        () = std::future::ready(()) => {}
    }
    let lives = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let row = fixture.sql.query_one(lives, &[&session]).await;
        if row.expect("asked").get::<_, i64>(0) == 0 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it is kept");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(fixture.store.beat(it).await.expect("by another one"));
}

#[tokio::test]
async fn who_lives_is_not_forgotten_and_can_leave() {
    let fixture = Fixture::new().await;
    let it = registered(&fixture, 7).await;
    fixture.store.forget_dispatcher(it).await.expect("asked");
    assert!(fixture.store.beat(it).await.expect("beaten"));
    fixture.store.leave(it).await.expect("asked");
    assert_eq!(fixture.store.dispatcher_beats().await.expect("beats"), []);
}

#[tokio::test]
async fn only_leases_of_the_dead_end_early() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let [dead, alive] = [registered(&fixture, 7).await, registered(&fixture, 8).await];
    let mut seqs = Vec::new();
    for token in [dead.token(1), alive.token(1), TOKEN, dead.token(2)] {
        let seq = fixture.accepted(&fixture.event("a", None)).await[0];
        fixture.claim_one(seq, token).await;
        seqs.push(seq);
    }
    let store = &fixture.store;
    assert_eq!(
        store.end_leases(dead, &seqs).await.expect("asked"),
        [],
        "nobody was declared dead"
    );
    die(&fixture, dead).await;
    assert_eq!(store.end_leases(alive, &seqs).await.expect("asked"), []);
    let mut ended = store.end_leases(dead, &seqs).await.expect("asked");
    ended.sort_unstable_by_key(|row| row.seq);
    let row = |seq| EndedLease {
        seq,
        tenant_id: fixture.tenant,
        endpoint_id: endpoint,
        ordering_key: 0,
    };
    assert_eq!(ended, [row(seqs[0]), row(seqs[3])]);
    assert_eq!(store.end_leases(dead, &seqs).await.expect("asked"), []);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_lease_that_was_ended_early_is_lost_and_the_attempt_counts() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let dead = registered(&fixture, 7).await;
    let seq = fixture.accepted(&fixture.event("a", None)).await[0];
    let first = fixture.claim_one(seq, dead.token(1)).await;
    die(&fixture, dead).await;
    let ended = fixture.store.end_leases(dead, &[seq]).await;
    assert_eq!(ended.expect("asked").len(), 1);
    // Its owner was frozen, not dead.
    let failure = Settlement::Retry {
        record: record(500),
        retry_in: std::time::Duration::ZERO,
    };
    let settled = fixture
        .store
        .settle(&[settling(&first, dead.token(1), failure)])
        .await;
    assert_eq!(settled.expect("asked"), [Settled::Superseded]);
    let second = fixture.claim_one(seq, TOKEN).await;
    assert_eq!(second.attempt, 2);
    // A success is a success, whoever brings it.
    let success = Settlement::Delivered(record(200));
    let settled = fixture
        .store
        .settle(&[settling(&first, dead.token(1), success)])
        .await;
    assert_eq!(settled.expect("asked"), [Settled::Done]);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_walk_finds_every_lease_of_one_dispatcher() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let it = registered(&fixture, 7).await;
    let rows = "INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
                SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid()
                  FROM generate_series(1, 10001)";
    fixture.sql.execute(rows, &[]).await.expect("rows");
    let lease = "UPDATE zyven.outbox
                    SET state = 'DISPATCHING', lease_token = $1, leased_until = now() + interval '1 hour'
                  WHERE seq IN (SELECT min(seq) FROM zyven.outbox UNION ALL SELECT max(seq) FROM zyven.outbox)";
    let token = it.token(3);
    assert_eq!(
        fixture.sql.execute(lease, &[&token]).await.expect("leased"),
        2
    );
    let first = fixture
        .store
        .leases_page(&[number(6), it], i64::MIN)
        .await
        .expect("a page");
    assert_eq!(first.leased.len(), 1);
    let second = fixture
        .store
        .leases_page(&[it], first.last_seq.expect("more"))
        .await
        .expect("a page");
    assert_eq!(second.leased, [second.last_seq.expect("one row")]);
    let third = fixture.store.leases_page(&[it], second.leased[0]).await;
    assert_eq!(third.expect("a page").last_seq, None);
    let stranger = fixture
        .store
        .leases_page(&[number(8), number(9)], i64::MIN)
        .await;
    assert_eq!(stranger.expect("a page").leased, [] as [i64; 0]);
}
