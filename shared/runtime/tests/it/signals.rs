use zyven_runtime::shutdown::{Shutdown, on_signals};

use crate::child::{Part, plays};

#[tokio::test]
#[ignore = "a part of the tests below"]
async fn part_that_stops_when_asked() {
    if !plays() {
        return;
    }
    let (trigger, shutdown) = Shutdown::new();
    on_signals(trigger).unwrap();
    println!("ready");
    shutdown.requested().await;
    println!("asked");
    std::process::exit(3);
}

#[tokio::test]
#[ignore = "a part of the tests below"]
async fn part_that_never_stops() {
    if !plays() {
        return;
    }
    let (trigger, shutdown) = Shutdown::new();
    on_signals(trigger).unwrap();
    println!("ready");
    shutdown.requested().await;
    println!("asked");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn either_signal_asks_for_the_shutdown() {
    for signal in ["TERM", "INT"] {
        let mut part = Part::start("signals::part_that_stops_when_asked", &[]);
        part.says("ready").await;
        part.signal(signal).await;
        part.says("asked").await;
        assert_eq!(part.ends().await.0, Some(3), "{signal}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    for (first, second, code) in [("TERM", "TERM", 143), ("TERM", "INT", 130)] {
        let mut part = Part::start("signals::part_that_never_stops", &[]);
        part.says("ready").await;
        part.signal(first).await;
        part.says("asked").await;
        part.signal(second).await;
        assert_eq!(part.ends().await.0, Some(code), "{first} {second}");
    }
}
