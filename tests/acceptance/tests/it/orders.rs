//! PostgreSQL and Redis go and come back in every order, also before anything was started. Nobody restarts a service.

use std::time::Duration;

use serde_json::json;
use zyven_testkit::{Postgres, wait_until};

use crate::load::{Load, wait_for_all};
use crate::stack::{PATIENCE, Spread, Stack};

const SERVICES: [&str; 4] = ["egress", "dispatcher", "relay", "ingest"];

/// How long their idleness is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// Of a core, by each service while it waits. A loop that does not rest takes all of one; on a machine four times
/// slower what is measured here (about 0.01) is still far below.
const CPU_SHARE_MAX: f64 = 0.25;
/// Resident, by each service.
const MEMORY_MAX_BYTES: f64 = 200.0 * 1024.0 * 1024.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Redis,
    Postgres,
}
use Server::{Postgres as Database, Redis};

struct Scene {
    postgres: Postgres,
    stack: Stack,
}

impl Scene {
    async fn stop(&mut self, server: Server) {
        match server {
            Redis => self.stack.redis.kill(),
            Database => self.postgres.kill().await,
        }
    }

    async fn start(&mut self, server: Server) {
        match server {
            Redis => self.stack.redis.restart().await,
            Database => self.postgres.restart().await,
        }
    }

    /// Every service says whether it misses something.
    async fn wait_for_readiness(&self, expected: [(&str, bool); 3]) {
        for (name, is_ready) in expected {
            let description = format!("{name} says that it is ready: {is_ready}");
            wait_until(&description, PATIENCE * 2, async || {
                let missing = self.stack.missing(name).await?;
                let is_empty = missing.as_object().is_some_and(serde_json::Map::is_empty);
                if is_empty == is_ready {
                    Ok(())
                } else {
                    Err(missing.to_string())
                }
            })
            .await;
        }
    }

    async fn assert_idle(&self) {
        let cpu = async |name| self.stack.metric(name, "process_cpu_seconds_total").await;
        let mut before = Vec::new();
        for name in SERVICES {
            before.push(cpu(name).await);
        }
        let watched = std::time::Instant::now();
        tokio::time::sleep(WATCHED).await;
        for (name, before) in SERVICES.into_iter().zip(before) {
            let share = (cpu(name).await - before) / watched.elapsed().as_secs_f64();
            eprintln!("{name} takes {share:.3} of a core while it waits");
            assert!(share < CPU_SHARE_MAX, "{name} takes {share:.3} of a core");
            let memory = self
                .stack
                .metric(name, "process_resident_memory_bytes")
                .await;
            assert!(memory < MEMORY_MAX_BYTES, "{name} has {memory} bytes");
        }
    }
}

#[tokio::test]
async fn redis_and_postgres_may_go_and_come_back_in_any_order() {
    let postgres = Postgres::private().await;
    let database = postgres.database().await;
    let stack = Stack::start_on(database, Spread::ProcessEach, &[]).await;
    stack.endpoint("/hook", json!({})).await;
    let mut scene = Scene { postgres, stack };
    let mut load = Load::start(&scene.stack);
    for (gone, back) in [
        ([Redis, Database], [Redis, Database]),
        ([Redis, Database], [Database, Redis]),
        ([Database, Redis], [Redis, Database]),
        ([Database, Redis], [Database, Redis]),
    ] {
        load.goes_on(20).await;
        println!("{gone:?} go, {back:?} come back");
        scene.stop(gone[0]).await;
        if gone[0] == Redis {
            let expected = [("ingest", true), ("relay", false), ("dispatcher", false)];
            scene.wait_for_readiness(expected).await;
            load.goes_on(5).await; // publishers notice nothing
        } else {
            let expected = [("ingest", false), ("relay", false), ("dispatcher", false)];
            scene.wait_for_readiness(expected).await;
        }
        scene.stop(gone[1]).await;
        let expected = [("ingest", false), ("relay", false), ("dispatcher", false)];
        scene.wait_for_readiness(expected).await;
        scene.start(back[0]).await;
        let expected = [
            ("ingest", back[0] == Database),
            ("relay", false),
            ("dispatcher", false),
        ];
        scene.wait_for_readiness(expected).await;
        scene.start(back[1]).await;
        let expected = [("ingest", true), ("relay", true), ("dispatcher", true)];
        scene.wait_for_readiness(expected).await;
    }
    let events = load.stop().await;
    wait_for_all(&scene.stack, &events).await;
    for name in SERVICES {
        scene.stack.wait_until_ready(name).await; // which is the process it was
    }
    scene.stack.assert_settled().await;
}

#[tokio::test]
async fn services_wait_quietly_for_servers_that_are_not_there_yet() {
    let postgres = Postgres::private().await;
    let database = postgres.database().await;
    let stack = Stack::start_on(database, Spread::ProcessEach, &[]).await;
    stack.endpoint("/hook", json!({})).await;
    let mut scene = Scene { postgres, stack };
    for back in [[Redis, Database], [Database, Redis]] {
        for name in SERVICES {
            drop(scene.stack.take_process(name));
        }
        scene.stop(Redis).await;
        scene.stop(Database).await;
        for name in SERVICES {
            scene.stack.start_service(name);
        }
        scene.stack.wait_until_ready("egress").await;
        let expected = [("ingest", false), ("relay", false), ("dispatcher", false)];
        scene.wait_for_readiness(expected).await;
        scene.assert_idle().await;
        scene.start(back[0]).await;
        scene.assert_idle().await;
        scene.start(back[1]).await;
        let expected = [("ingest", true), ("relay", true), ("dispatcher", true)];
        scene.wait_for_readiness(expected).await;
        let event = scene.stack.publish("a.b", json!({})).await;
        scene.stack.wait_for_state(&event, "DELIVERED").await;
    }
    scene.stack.assert_settled().await;
}
