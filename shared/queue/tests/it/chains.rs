//! Order within an ordering key.

use std::time::Duration;

use zyven_queue::{Learned, NEAR_WINDOW, Next, Ticket};

use crate::support::{NOW, Stage, complete, done, keyed, new_lane, seqs, ticket};

const KEY: i64 = 0x7abc;

#[tokio::test]
async fn one_ticket_of_a_key_is_out_at_a_time_and_in_order() {
    let stage = Stage::new().await;
    let lane = new_lane();
    // Out of order, two keys, and one without.
    let tickets = [
        keyed(lane, 3, KEY),
        keyed(lane, 1, KEY),
        keyed(lane, 2, KEY),
        keyed(lane, 4, KEY + 1),
        ticket(lane, 5, NOW),
    ];
    assert_eq!(stage.offer(&tickets[1..]).await, 4);
    assert_eq!(stage.offer(&tickets[..1]).await, 1);
    let mut taken = stage.claim(100).await;
    taken.sort_unstable();
    assert_eq!(seqs(&taken), [1, 4, 5]);
    assert_eq!(taken[0].ordering_key, KEY);
    for next in [2, 3] {
        let one: Vec<_> = (taken.into_iter())
            .filter(|it| it.ordering_key == KEY)
            .collect();
        taken = stage.exchange(100, &done(&one)).await.tickets;
        assert_eq!(seqs(&taken), [next]);
    }
    assert_eq!(stage.exchange(100, &done(&taken)).await.tickets, []);
}

#[tokio::test]
async fn the_others_wait_while_the_first_is_retried() {
    let stage = Stage::new().await;
    let lane = new_lane();
    let tickets = [1, 2, 3].map(|seq| keyed(lane, seq, KEY));
    stage.offer(&tickets).await;
    let first = stage.claim(10).await;
    for wait in [
        Duration::from_secs(60),
        NEAR_WINDOW + Duration::from_secs(1),
    ] {
        let failed = complete(&first[0], Learned::Failed, Next::Retry(wait));
        assert_eq!(stage.exchange(10, &[failed]).await.tickets, []);
    }
    // The relay offers it when its time has come.
    let [due, ..] = tickets;
    stage.offer(&[due]).await;
    let again = stage.claim(10).await;
    assert_eq!(seqs(&again), [1]);
    assert_eq!(seqs(&stage.exchange(10, &done(&again)).await.tickets), [2]);
}

#[tokio::test]
async fn a_ticket_that_postgres_holds_back_is_asked_for_again() {
    let stage = Stage::new().await;
    let lane = new_lane();
    // Redis has lost what comes first, so this one seems to be it.
    stage.offer(&[keyed(lane, 2, KEY)]).await;
    let taken = stage.claim(10).await;
    assert_eq!(seqs(&taken), [2]);
    let blocked = |wait| complete(&taken[0], Learned::NothingSent, Next::Blocked(wait));
    assert_eq!(
        seqs(&stage.exchange(10, &[blocked(NOW)]).await.tickets),
        [2]
    );
    stage.give_back(&[blocked(Duration::from_secs(60))]).await;
    assert_eq!(stage.claim(10).await, []);
    // The first one turns up: it goes first, and the other one follows at once.
    stage.offer(&[keyed(lane, 1, KEY)]).await;
    let first = stage.claim(10).await;
    assert_eq!(seqs(&first), [1]);
    let rest = stage.exchange(10, &done(&first)).await;
    assert_eq!(rest.tickets, [], "it still waits for its time, which comes");
    assert!(rest.next_due_in.unwrap() <= Duration::from_secs(60));
}

#[tokio::test]
async fn a_chain_whose_first_ticket_is_lost_is_set_going_by_any_push() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage
        .offer(&[1, 2, 3].map(|seq| keyed(lane, seq, KEY)))
        .await;
    // Lanes are lost, chains are not.
    stage
        .command(&[
            "EVAL",
            "for _, k in ipairs(redis.call('KEYS', '*:fresh:*')) do redis.call('DEL', k) end",
            "0",
        ])
        .await;
    assert_eq!(stage.claim(10).await, []);
    assert_eq!(stage.offer(&[keyed(lane, 3, KEY)]).await, 1);
    assert_eq!(seqs(&stage.claim(10).await), [1]);
}

#[tokio::test]
async fn nothing_of_a_finished_chain_remains() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.offer(&[1, 2].map(|seq| keyed(lane, seq, KEY))).await;
    let mut taken = stage.claim(10).await;
    while !taken.is_empty() {
        taken = stage.exchange(10, &done(&taken)).await.tickets;
    }
    let mut redis = stage.redis.connection().await;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut redis)
        .await
        .unwrap();
    let left: Vec<&String> = (keys.iter())
        .filter(|key| {
            !["{z0}:v2:epoch", "{z0}:v2:retry_credit", "{z0}:v2:bell"].contains(&key.as_str())
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_is_known_to_be_the_first_waits_for_nothing_that_is_gone() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.offer(&[1, 2].map(|seq| keyed(lane, seq, KEY))).await;
    let first = stage.claim(10).await;
    let failed = complete(&first[0], Learned::Failed, Next::Retry(NEAR_WINDOW));
    stage.give_back(&[failed]).await;
    // Somebody cancels it meanwhile; the relay sees that nothing comes before the second one any more.
    let second = Ticket {
        is_first: true,
        ..keyed(lane, 2, KEY)
    };
    assert_eq!(stage.offer(&[second]).await, 1);
    let taken = stage.claim(10).await;
    assert_eq!(seqs(&taken), [2]);
    stage.give_back(&done(&taken)).await;
    assert_eq!(
        stage.queue.depth().await.unwrap().waiting,
        0,
        "nor does it stay"
    );
}

#[tokio::test]
async fn a_lost_line_comes_back_with_the_push_of_any_ticket_that_waits_in_it() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.offer(&[1, 2].map(|seq| keyed(lane, seq, KEY))).await;
    stage.command(&["DEL", "{z0}:v2:fresh_tenants"]).await;
    assert_eq!(stage.claim(10).await, []);
    assert_eq!(stage.offer(&[keyed(lane, 2, KEY)]).await, 0);
    assert_eq!(seqs(&stage.claim(10).await), [1]);
}
