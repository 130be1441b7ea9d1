//! Dispatchers that fall silent, and what they held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use zyven_domain::lease::DispatcherNumber;
use zyven_queue::{Queue, QueueConfig};
use zyven_store::Store;
use zyven_testkit::{Postgres, RedisCluster, Replicas, wait_until};

use crate::stage::{NEVER, PATIENCE, Running, Stage, metric};

/// So long that nothing here comes back because its lease has ended.
const LEASE: Duration = Duration::from_secs(600);
const LOST: &str = "zyven_relay_dispatchers_lost_total";

async fn register(stage: &Stage, number: i64) -> DispatcherNumber {
    let number = DispatcherNumber::from_i64(number).unwrap();
    assert!(stage.store.register_dispatcher(number).await.unwrap());
    number
}

/// Beats as a dispatcher does, until it is aborted.
fn beat(store: &Store, number: DispatcherNumber) -> JoinHandle<()> {
    let store = store.clone();
    tokio::spawn(async move {
        loop {
            // Away for the moment is not dead.
            let _ = store.beat(number).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
}

/// Takes tickets and rows as a dispatcher does.
async fn hold(stage: &Stage, number: DispatcherNumber, count: usize) -> BTreeSet<i64> {
    let mut held = BTreeSet::new();
    wait_until("there are tickets to take", PATIENCE, async || {
        let claimed = stage
            .queue
            .claim(count - held.len(), LEASE, &[])
            .await
            .unwrap();
        held.extend(claimed.tickets.iter().map(|ticket| ticket.seq));
        held.len() == count
    })
    .await;
    let seqs: Vec<i64> = held.iter().copied().collect();
    let claim = stage
        .store
        .claim(&seqs, number.token(1), LEASE)
        .await
        .unwrap();
    assert_eq!(claim.claimed.len(), count);
    held
}

async fn leading(stage: &Stage) -> Running {
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    wait_until("it leads", PATIENCE, async || {
        metric(&relay.metrics, "zyven_relay_leading") > 0.0
    })
    .await;
    relay
}

async fn wait_until_forgotten(stage: &Stage, number: DispatcherNumber) {
    wait_until("nobody remembers the dead", PATIENCE, async || {
        let beats = stage.store.dispatcher_beats().await.unwrap();
        beats.iter().all(|it| it.number != number)
    })
    .await;
}

#[tokio::test]
async fn what_a_silent_dispatcher_held_is_offered_long_before_its_leases_end() {
    let stage = Stage::new().await;
    let relay = leading(&stage).await;
    stage.accept(30).await;
    let (silent, living) = (register(&stage, 7).await, register(&stage, 8).await);
    let beating = [beat(&stage.store, silent), beat(&stage.store, living)];
    let of_the_silent = hold(&stage, silent, 20).await;
    let of_the_living = hold(&stage, living, 10).await;

    beating[0].abort();
    let died_at = Instant::now();
    // Exactly these, and none of the living one's.
    stage.wait_for_tickets(&of_the_silent).await;
    let took = died_at.elapsed();
    assert!(
        took > Duration::from_secs(1),
        "not before it was silent: {took:?}"
    );
    assert!(took < LEASE / 20, "{took:?}");
    wait_until_forgotten(&stage, silent).await;
    let seqs: Vec<i64> = of_the_living.iter().copied().collect();
    let leased = stage
        .seqs("WHERE seq = ANY ($1) AND leased_until > now()", &[&seqs])
        .await;
    assert_eq!(leased, of_the_living);
    assert!((metric(&relay.metrics, LOST) - 1.0).abs() < f64::EPSILON);
    beating[1].abort();
    relay.stop().await;
}

#[tokio::test]
async fn tickets_that_redis_could_not_take_back_are_given_back_when_it_can() {
    let mut stage = Stage::new().await;
    let relay = leading(&stage).await;
    stage.accept(10).await;
    let silent = register(&stage, 7).await;
    let held = hold(&stage, silent, 10).await;
    // Frozen, not emptied: it still takes the tickets for leased.
    stage.redis.freeze();
    wait_until("the leases have ended", PATIENCE * 2, async || {
        stage.seqs("WHERE lease_token <> 0", &[]).await.is_empty()
    })
    .await;
    stage.redis.thaw();
    stage.wait_for_tickets(&held).await;
    wait_until_forgotten(&stage, silent).await;
    relay.stop().await;
}

async fn node_that_holds_leases(redis: &RedisCluster, shards: u16) -> usize {
    for shard in 0..shards {
        let key = format!("{{z{shard}}}:v2:leased");
        let node = redis.primary_of(redis.slot_of(&key).await);
        if redis.nodes[node].command(&["EXISTS", &key]).await == redis::Value::Int(1) {
            return node;
        }
    }
    panic!("no node holds a lease");
}

#[tokio::test]
async fn what_the_dead_held_on_a_node_that_is_away_is_given_back_when_it_is_there_again() {
    const SHARDS: u16 = 3;
    let mut redis = RedisCluster::start(Replicas::None).await;
    let mut stage = Stage::new().await;
    stage.queue = Queue::connect(&QueueConfig {
        url: redis.url(),
        shards: SHARDS,
        ..QueueConfig::default()
    })
    .unwrap();
    let relay = leading(&stage).await;
    stage.accept(10).await;
    let silent = register(&stage, 7).await;
    let held = hold(&stage, silent, 10).await;
    let node = node_that_holds_leases(&redis, SHARDS).await;
    // Frozen, not emptied: it still takes the tickets for leased. The other nodes answer.
    redis.nodes[node].freeze();
    wait_until("the leases have ended", PATIENCE * 2, async || {
        stage.seqs("WHERE lease_token <> 0", &[]).await.is_empty()
    })
    .await;
    let beats = stage.store.dispatcher_beats().await.unwrap();
    assert!(beats.iter().any(|it| it.number == silent && it.is_dead));
    redis.nodes[node].thaw();
    stage.wait_for_tickets(&held).await;
    wait_until_forgotten(&stage, silent).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_new_leader_finishes_what_the_last_one_has_begun() {
    let stage = Stage::new().await;
    let relay = leading(&stage).await;
    stage.accept(10).await;
    let dead = register(&stage, 7).await;
    let held = hold(&stage, dead, 10).await;
    relay.kill().await;
    assert!(stage.store.declare_dead(dead, 0).await.unwrap());
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.wait_for_tickets(&held).await;
    wait_until_forgotten(&stage, dead).await;
    relay.stop().await;
}

#[tokio::test]
async fn an_outage_of_postgres_kills_no_dispatcher() {
    let mut postgres = Postgres::private().await;
    let stage = Stage::on(postgres.database().await).await;
    let relay = leading(&stage).await;
    let number = register(&stage, 7).await;
    let beating = beat(&stage.store, number);
    let is_beaten = async |since: i64| match stage.store.dispatcher_beats().await {
        Ok(beats) => beats[0].beat > since,
        Err(_) => false,
    };
    wait_until("it beats", PATIENCE, async || is_beaten(2).await).await;
    beating.abort();
    postgres.kill().await;
    // How long the outage lasts: longer than any silence that is tolerated.
    tokio::time::sleep(Duration::from_secs(4)).await;
    postgres.restart().await;

    // The relay is back first, and looks. The dispatcher's old beat is all there is.
    let looks = async |sql: &tokio_postgres::Client| {
        let sql = sql
            .query_one(
                "SELECT holder_until::text FROM zyven.relay WHERE holder_until > now()",
                &[],
            )
            .await;
        sql.ok().map(|row| row.get::<_, String>(0))
    };
    let sql = wait_until("PostgreSQL answers", PATIENCE, async || {
        tokio_postgres::connect(&stage.database.url(), tokio_postgres::NoTls)
            .await
            .ok()
    })
    .await;
    let (sql, connection) = sql;
    tokio::spawn(connection);
    let first = wait_until("somebody leads", PATIENCE, async || looks(&sql).await).await;
    wait_until("it has looked and renewed its lead", PATIENCE, async || {
        looks(&sql).await.is_some_and(|until| until != first)
    })
    .await;
    let beating = beat(&stage.store, number);
    let beats = stage.store.dispatcher_beats().await.unwrap();
    wait_until(
        "it beats on for as long as a silence may last",
        PATIENCE,
        async || is_beaten(beats[0].beat + 12).await,
    )
    .await;
    assert!(metric(&relay.metrics, LOST) < 1.0);
    assert!(
        stage.store.beat(number).await.unwrap(),
        "nobody has declared it dead"
    );
    beating.abort();
    relay.stop().await;
}

#[tokio::test]
async fn a_follower_has_listened_when_it_takes_the_lead() {
    let stage = Stage::new().await;
    let first = leading(&stage).await;
    let second = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    second.wait_until_ready().await;
    stage.accept(10).await;
    let silent = register(&stage, 7).await;
    let held = hold(&stage, silent, 10).await;
    // The leader and the dispatcher die together.
    let died_at = Instant::now();
    first.kill().await;
    stage.wait_for_tickets(&held).await;
    let took = died_at.elapsed();
    assert!(took < LEASE / 20, "{took:?}");
    second.stop().await;
}

#[tokio::test]
async fn tickets_whose_holder_died_between_redis_and_postgres_are_given_back_too() {
    let stage = Stage::new().await;
    let relay = leading(&stage).await;
    stage.accept(10).await;
    let dead = register(&stage, 7).await;
    let held = hold(&stage, dead, 10).await;
    let held: Vec<i64> = held.iter().copied().collect();
    // Claimed in Redis, not in PostgreSQL; finished in PostgreSQL, not in Redis; to be retried, which Redis
    // was not told.
    let free =
        "UPDATE zyven.outbox SET lease_token = 0, leased_until = '-infinity' WHERE seq = ANY ($1)";
    stage.sql.execute(free, &[&&held[..6]]).await.unwrap();
    stage
        .sql
        .execute(
            "DELETE FROM zyven.outbox WHERE seq = ANY ($1)",
            &[&&held[2..4]],
        )
        .await
        .unwrap();
    let later = "UPDATE zyven.outbox
                    SET state = 'RETRY_SCHEDULED', due_at = now() + interval '10 minutes' WHERE seq = ANY ($1)";
    stage.sql.execute(later, &[&&held[4..6]]).await.unwrap();
    wait_until_forgotten(&stage, dead).await;
    let expected = [&held[..2], &held[6..]].concat();
    let depth = stage.queue.depth().await.unwrap();
    assert_eq!(
        (depth.leased, depth.waiting),
        (0, expected.len() as u64 + 2)
    );
    stage
        .wait_for_tickets(&expected.into_iter().collect())
        .await;
    relay.stop().await;
}
