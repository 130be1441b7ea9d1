use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;
use zyven_runtime::doorbell::{Bell, Doorbell, Peer, Wake};

use crate::child::SOON;

/// Long enough for a datagram on this machine, short enough to wait for none.
const SHORTLY: Duration = Duration::from_millis(50);

async fn doorbell() -> (Doorbell, SocketAddr) {
    let doorbell = Doorbell::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = doorbell.local_addr().unwrap();
    (doorbell, address)
}

#[tokio::test]
async fn a_ring_ends_the_wait() {
    let (doorbell, address) = doorbell().await;
    let hearing = tokio::spawn(async move { doorbell.rung(SOON).await });
    Bell::to([address]).unwrap().ring();
    assert_eq!(hearing.await.unwrap(), Wake::Rung);
}

#[tokio::test]
async fn many_rings_before_a_wait_are_one() {
    let (doorbell, address) = doorbell().await;
    let bell = Bell::to([address]).unwrap();
    for _ in 0..100 {
        bell.clone().ring();
    }
    assert_eq!(doorbell.rung(SOON).await, Wake::Rung);
    assert_eq!(doorbell.rung(SHORTLY).await, Wake::Quiet);
}

#[tokio::test]
async fn a_ring_during_a_dropped_wait_ends_the_next() {
    let (doorbell, address) = doorbell().await;
    assert!(timeout(SHORTLY, doorbell.rung(SOON)).await.is_err());
    Bell::to([address]).unwrap().ring();
    assert_eq!(doorbell.rung(SOON).await, Wake::Rung);
}

#[tokio::test]
async fn every_peer_hears_and_a_missing_one_harms_nobody() {
    let (first, first_address) = doorbell().await;
    let (gone, gone_address) = doorbell().await;
    let (last, last_address) = doorbell().await;
    drop(gone);
    let bell = Bell::to([first_address, gone_address, last_address]).unwrap();
    for _ in 0..3 {
        bell.ring();
        assert_eq!(first.rung(SOON).await, Wake::Rung);
        assert_eq!(last.rung(SOON).await, Wake::Rung);
    }
    // Nobody at all is fine, too.
    Bell::to::<Peer>([]).unwrap().ring();
}

#[tokio::test]
async fn a_peer_may_be_a_name() {
    let (doorbell, address) = doorbell().await;
    let peer: Peer = format!("localhost:{}", address.port()).parse().unwrap();
    let bell = Bell::to([peer]).unwrap();
    let heard = async {
        // Rings are lost until the name has been looked up.
        loop {
            bell.ring();
            if doorbell.rung(SHORTLY).await == Wake::Rung {
                return;
            }
        }
    };
    timeout(SOON, heard).await.unwrap();
}

#[tokio::test]
async fn ipv6_rings_where_there_is_any() {
    let Ok(doorbell) = Doorbell::bind("[::1]:0".parse().unwrap()).await else {
        return;
    };
    Bell::to([doorbell.local_addr().unwrap()]).unwrap().ring();
    assert_eq!(doorbell.rung(SOON).await, Wake::Rung);
}
