//! What a stack does while nothing happens: little, and it is awake as soon as something does.

use std::time::{Duration, Instant};

use serde_json::json;
use zyven_testkit::wait_until;

use crate::stack::{PATIENCE, Spread, Stack};

/// Long enough for everything that comes round every five seconds or more often.
const WINDOW: Duration = Duration::from_secs(10);
/// Of all processes together in one window: the relay's look and the dispatcher's beat each second, ingest's question
/// every other second, the scrubber's two every five, and what counts them. One more each second is too many.
const STATEMENTS_MAX: i64 = 40;
/// Likewise: the epoch and the dispatcher's claim each second, the scrubber's few every five, bells, and what counts them.
const REDIS_READS_MAX: i64 = 40;
/// Rests grow for a minute, and for that long changed endpoints are looked for.
const CALM_WITHIN: Duration = Duration::from_secs(150);
/// A look that finds it takes a second. Without one it would be half a minute.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// What the servers have been asked since they were started.
#[derive(Debug, Clone, Copy)]
struct Asked {
    statements: i64,
    redis_reads: i64,
}

impl Asked {
    async fn so_far(stack: &Stack) -> Self {
        let transactions = "SELECT xact_commit + xact_rollback
                              FROM pg_stat_database
                             WHERE datname = current_database()";
        let sql = stack.database.client().await;
        let row = sql.query_one(transactions, &[]).await.expect("a count");
        let info = stack.redis.info("stats").await.expect("an answer");
        let reads = (info.lines()).find_map(|line| line.strip_prefix("total_reads_processed:"));
        Self {
            statements: row.get(0),
            redis_reads: reads.expect("told").trim().parse().expect("a number"),
        }
    }

    async fn in_a_window(stack: &Stack) -> Self {
        let before = Self::so_far(stack).await;
        // This is what is measured, and not a wait for something.
        tokio::time::sleep(WINDOW).await;
        let after = Self::so_far(stack).await;
        Self {
            statements: after.statements - before.statements,
            redis_reads: after.redis_reads - before.redis_reads,
        }
    }

    const fn is_little(&self) -> bool {
        self.statements <= STATEMENTS_MAX && self.redis_reads <= REDIS_READS_MAX
    }
}

#[tokio::test]
async fn an_idle_stack_asks_little_and_hears_of_an_event_that_nobody_rings_for() {
    let stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    let asked = wait_until("the stack has calmed down", CALM_WITHIN, async || {
        let asked = Asked::in_a_window(&stack).await;
        if asked.is_little() {
            Ok(asked)
        } else {
            Err(asked)
        }
    })
    .await;
    // A beat and a look each second at least, a claim and the epoch likewise; or nothing was counted.
    let seconds = i64::try_from(WINDOW.as_secs()).expect("few");
    assert!(asked.statements >= 3 * seconds / 2, "{asked:?}");
    assert!(asked.redis_reads >= 3 * seconds / 2, "{asked:?}");

    let published_at = Instant::now();
    let publish = "SELECT zyven.publish(zyven.typed_id('ten', id), 'a.b', '{}') FROM zyven.tenants";
    let sql = stack.database.client().await;
    sql.query_one(publish, &[]).await.expect("published");
    let arrived = stack.receiver.wait_for_requests(1, PATIENCE).await;
    assert_eq!(arrived[0].path, "/hook");
    let took = arrived[0].arrived_at.duration_since(published_at);
    assert!(took < HEARD_WITHIN, "{took:?}");
    stack.assert_settled().await;
}
