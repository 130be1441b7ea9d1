//! Services are stopped and started under load, and nobody outside notices.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::json;
use zyven_testkit::{Answer, Binary, wait_until};

use crate::publishers::{Publishers, Told};
use crate::stack::{PATIENCE, Spread, Stack, free_port};

const SERVICES: [&str; 4] = ["ingest", "relay", "dispatcher", "egress"];

fn address(stack: &Stack) -> SocketAddr {
    let address = stack.api.trim_start_matches("http://");
    address.parse().expect("an address")
}

fn publishers(stack: &Stack, addresses: &[SocketAddr]) -> Publishers {
    Publishers::start(addresses, &stack.key, 8, Duration::from_millis(50))
}

/// Waits until this many more events were acknowledged: the load goes on.
async fn wait_for_more(publishers: &Publishers, more: usize) {
    let goal = publishers.acknowledged() + more;
    wait_until("publishers are served", PATIENCE, async || {
        let acknowledged = publishers.acknowledged();
        if acknowledged >= goal {
            Ok(())
        } else {
            Err(acknowledged)
        }
    })
    .await;
}

/// SIGTERM, the end in good order, and a new process.
async fn restart(stack: &mut Stack, service: &'static str) {
    let mut old = stack.take_process(service);
    old.terminate();
    let ended = old.ended(PATIENCE * 2).await;
    assert_eq!(ended.status.code(), Some(0), "{service}: {}", ended.stderr);
    stack.start_service(service);
    stack.wait_until_ready(service).await;
}

/// Every acknowledged event has arrived, exactly once, and nothing else has.
async fn assert_each_arrived_once(stack: &Stack, told: &Told) {
    assert_eq!(told.failures, [] as [String; 0]);
    let published: HashSet<&String> = told.acknowledged.iter().collect();
    wait_until("every event has arrived", PATIENCE * 2, async || {
        let requests = stack.receiver.requests();
        let arrived: HashSet<String> = (requests.iter())
            .map(|request| request.header("webhook-id").to_owned())
            .collect();
        let missing = published
            .iter()
            .filter(|id| !arrived.contains(**id))
            .count();
        if missing == 0 { Ok(()) } else { Err(missing) }
    })
    .await;
    stack.assert_settled().await;
    let mut times: HashMap<String, usize> = HashMap::new();
    for request in stack.receiver.requests() {
        *times
            .entry(request.header("webhook-id").to_owned())
            .or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "cut and sent again: {twice:?}");
    assert_eq!(times.len(), published.len());
}

/// From here on the API listens on a socket that outlives its processes; the program that is started on it.
async fn keep_the_socket(stack: &mut Stack) -> Binary {
    let mut old = stack.take_process("ingest");
    old.terminate();
    assert!(old.ended(PATIENCE).await.status.success());
    let socket = TcpListener::bind(address(stack)).expect("the port is free again");
    let passing = stack.binary.clone().listening_on(socket);
    let usual = std::mem::replace(&mut stack.binary, passing.clone());
    stack.start_service("ingest");
    stack.binary = usual;
    stack.wait_until_ready("ingest").await;
    passing
}

#[tokio::test]
async fn every_service_restarted_in_turn_under_load_fails_no_request_when_its_sockets_are_passed_on()
 {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    stack
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(100)));
    let usual = stack.binary.clone();
    let passing = keep_the_socket(&mut stack).await;

    let publishers = publishers(&stack, &[address(&stack)]);
    for _ in 0..2 {
        for service in SERVICES {
            wait_for_more(&publishers, 40).await;
            stack.binary = if service == "ingest" {
                passing.clone()
            } else {
                usual.clone()
            };
            restart(&mut stack, service).await;
        }
    }
    wait_for_more(&publishers, 40).await;
    let told = publishers.stop().await;
    assert_eq!(told.refused, 0, "connections wait for the next process");
    assert_each_arrived_once(&stack, &told).await;
}

#[tokio::test]
async fn with_a_second_instance_no_request_fails_while_the_first_is_restarted() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    let first = stack.take_process("ingest");
    let other = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listen = other.to_string();
    stack
        .start_another("ingest", &[("ZYVEN_INGEST_LISTEN", &listen)])
        .await;
    let addresses = [address(&stack), other];
    let publishers = publishers(&stack, &addresses);
    wait_for_more(&publishers, 40).await;
    let mut first = first;
    first.terminate();
    assert!(first.ended(PATIENCE).await.status.success());
    wait_for_more(&publishers, 40).await;
    let told = publishers.stop().await;
    assert_each_arrived_once(&stack, &told).await;
}

#[tokio::test]
async fn a_stopping_process_says_at_once_that_it_is_not_ready_and_ends_kept_connections_gently() {
    let settings = [("ZYVEN_INGEST_LAME_DUCK", "10s")];
    let mut stack = Stack::start_with(Spread::OneProcess, &settings).await;
    stack.endpoint("/hook", json!({})).await;
    stack.publish("a.b", json!({})).await;
    let health = stack.probe_url("all", "healthz");
    let ready = stack.probe_url("all", "readyz");
    stack.process("all").terminate();
    wait_until("it says that it is stopping", PATIENCE, async || {
        let answer = stack.http.get(&ready).send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a text");
        if status == 503 && text.contains("stopping") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    // It lives, and serves who comes: the answer says that it is the last one here.
    assert!(
        stack
            .http
            .get(&health)
            .send()
            .await
            .expect("an answer")
            .status()
            .is_success()
    );
    let answer = stack
        .http
        .post(format!("{}/v1/events", stack.api))
        .bearer_auth(&stack.key)
        .json(&json!({ "type": "a.b", "payload": {} }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 202);
    assert_eq!(answer.headers()["connection"], "close");
    let ended = stack.take_process("all").ended(PATIENCE * 2).await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

/// Stops the services in this order, each once the one before it has begun to stop, and starts them again.
async fn stop_in_order(stack: &mut Stack, order: [&'static str; 4], passing: &Binary) {
    let mut stopping = Vec::new();
    for service in order {
        let mut process = stack.take_process(service);
        process.terminate();
        process.says("stopping", PATIENCE).await;
        stopping.push((service, process));
    }
    for (service, process) in stopping {
        let ended = process.ended(PATIENCE * 2).await;
        assert_eq!(
            ended.status.code(),
            Some(0),
            "{service} of {order:?}: {}",
            ended.stderr
        );
    }
    let usual = stack.binary.clone();
    for service in ["egress", "dispatcher", "relay"] {
        stack.start_service(service);
    }
    stack.binary = passing.clone();
    stack.start_service("ingest");
    stack.binary = usual;
    for service in SERVICES {
        stack.wait_until_ready(service).await;
    }
}

/// All orders that begin with this service, while events are published.
async fn every_order_that_begins_with(first: &'static str) {
    let settings = [("ZYVEN_INGEST_LAME_DUCK", "100ms")];
    let mut stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    stack.endpoint("/hook", json!({})).await;
    stack
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(100)));
    let passing = keep_the_socket(&mut stack).await;
    let others: Vec<_> = SERVICES.into_iter().filter(|it| *it != first).collect();
    let publishers = publishers(&stack, &[address(&stack)]);
    for [a, b, c] in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        // Under way, waiting, and not handed over yet when the stop begins.
        wait_for_more(&publishers, 20).await;
        let order = [first, others[a], others[b], others[c]];
        stop_in_order(&mut stack, order, &passing).await;
    }
    wait_for_more(&publishers, 20).await;
    let told = publishers.stop().await;
    assert_eq!(told.refused, 0, "connections wait for the next process");
    assert_each_arrived_once(&stack, &told).await;
}

#[tokio::test]
async fn in_every_order_that_begins_with_ingest_a_stop_cuts_and_loses_nothing() {
    every_order_that_begins_with("ingest").await;
}

#[tokio::test]
async fn in_every_order_that_begins_with_the_relay_a_stop_cuts_and_loses_nothing() {
    every_order_that_begins_with("relay").await;
}

#[tokio::test]
async fn in_every_order_that_begins_with_the_dispatcher_a_stop_cuts_and_loses_nothing() {
    every_order_that_begins_with("dispatcher").await;
}

#[tokio::test]
async fn in_every_order_that_begins_with_the_proxy_a_stop_cuts_and_loses_nothing() {
    every_order_that_begins_with("egress").await;
}

#[tokio::test]
async fn a_second_signal_ends_a_process_at_once() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": 30_000 }))
        .await;
    stack.receiver.answer(Answer::hang());
    stack.publish("a.b", json!({})).await;
    stack.receiver.wait_for_requests(1, PATIENCE).await;
    let mut dispatcher = stack.take_process("dispatcher");
    dispatcher.terminate();
    dispatcher
        .says("finishing what is under way", PATIENCE)
        .await;
    dispatcher.terminate();
    // It would have waited for the hanging request.
    let ended = dispatcher.ended(Duration::from_secs(15)).await;
    assert_eq!(ended.status.code(), Some(143), "{}", ended.stderr);
}

#[tokio::test]
async fn a_process_asked_to_stop_while_it_starts_ends_in_good_order() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    for pause_ms in [0, 5, 20, 60, 150] {
        for service in SERVICES {
            let mut old = stack.take_process(service);
            old.terminate();
            assert!(old.ended(PATIENCE * 2).await.status.success());
            stack.start_service(service);
            // Whatever it has come to by then.
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let mut young = stack.take_process(service);
            young.terminate();
            let ended = young.ended(PATIENCE * 2).await;
            // Before anything has begun the system's own way of ending is as good as any.
            let by_signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
            assert!(
                ended.status.success() || by_signal == Some(15),
                "{service}: {:?} {}",
                ended.status,
                ended.stderr
            );
            stack.start_service(service);
        }
    }
    for service in SERVICES {
        stack.wait_until_ready(service).await;
    }
    let event = stack.publish("a.b", json!({})).await;
    stack.wait_for_state(&event, "DELIVERED").await;
    stack.assert_settled().await;
}
