//! Open tunnels: faithful, limited, and closed for a reason.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::{Answer, Proxy, SOON, assert_closes, assert_echoes, echo};

#[tokio::test]
async fn bytes_pass_unaltered_however_slowly_they_are_read() {
    let proxy = Proxy::start(&[]).await;
    let tunnel = proxy.connect(echo().await).await.opened();
    let (mut read, mut write) = tunnel.into_split();
    // More than all the socket buffers on the way hold, so that both directions stall.
    let sent: Vec<u8> = (0..16 * 1024 * 1024_u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write
        })
    };
    let mut received = vec![0; sent.len()];
    for chunk in received.chunks_mut(70_001) {
        timeout(SOON, read.read_exact(chunk))
            .await
            .unwrap()
            .unwrap();
    }
    assert!(received == sent, "altered on the way");
    writing.await.unwrap();
}

#[tokio::test]
async fn a_side_that_closes_ends_the_tunnel_behind_its_last_byte() {
    let proxy = Proxy::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();

    let mut caller = proxy.connect(target).await.opened();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    endpoint.write_all(b"goodbye").await.unwrap();
    drop(endpoint);
    let mut received = String::new();
    timeout(SOON, caller.read_to_string(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received, "goodbye");

    let mut caller = proxy.connect(target).await.opened();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    caller.write_all(b"never mind").await.unwrap();
    drop(caller);
    let mut received = String::new();
    timeout(SOON, endpoint.read_to_string(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received, "never mind");
}

/// The order in which a thread learns of a socket's two directions is chance, hence the repetitions.
#[tokio::test]
async fn what_an_endpoint_says_before_it_resets_amid_a_request_is_passed_on() {
    let proxy = Proxy::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    for round in 0..100 {
        let (mut read, mut write) = proxy.connect(target).await.opened().into_split();
        let (mut endpoint, _) = listener.accept().await.unwrap();
        let writing = tokio::spawn(async move {
            let request = vec![b'x'; 64 * 1024];
            while write.write_all(&request).await.is_ok() {}
            write
        });
        endpoint.read_exact(&mut [0; 1_000]).await.unwrap();
        endpoint.write_all(b"too much").await.unwrap();
        endpoint.set_zero_linger().unwrap();
        drop(endpoint);
        let mut received = [0; 8];
        let read = timeout(SOON, read.read_exact(&mut received)).await.unwrap();
        assert!(read.is_ok(), "round {round}: {read:?}");
        assert_eq!(&received, b"too much", "round {round}");
        writing.await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_and_a_used_one_is_not() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_IDLE", "200ms")]).await;
    let mut tunnel = proxy.connect(echo().await).await.opened();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(600) {
        assert_echoes(&mut tunnel).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let quiet_since = Instant::now();
    assert_closes(&mut tunnel).await;
    assert!(quiet_since.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn a_tunnel_is_cut_at_its_lifetime() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_TUNNEL_LIFETIME", "200ms")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut caller = proxy.connect(listener.local_addr().unwrap()).await.opened();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    // The caller keeps talking, so the tunnel is never between two requests.
    let talking = async { while caller.write_all(&[0; 64]).await.is_ok() {} };
    let mut sink = tokio::io::sink();
    let listening = tokio::io::copy(&mut endpoint, &mut sink);
    let _ = timeout(SOON, async { tokio::join!(talking, listening) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_tunnel_is_cut_at_its_bytes() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_TUNNEL_BYTES_MAX", "100000")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut caller = proxy.connect(listener.local_addr().unwrap()).await.opened();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    let talking = async { while endpoint.write_all(&[0; 1024]).await.is_ok() {} };
    let listening = async {
        let mut received = 0;
        let mut chunk = [0; 4096];
        while let Ok(bytes @ 1..) = caller.read(&mut chunk).await {
            received += bytes;
        }
        received
    };
    let ((), received) = timeout(SOON, async { tokio::join!(talking, listening) })
        .await
        .unwrap();
    assert_eq!(received, 100_000);
}

#[tokio::test]
async fn a_worn_out_tunnel_ends_between_two_requests() {
    let proxy = Proxy::start(&[
        ("ZYVEN_EGRESS_TUNNEL_BYTES_MAX", "16"),
        ("ZYVEN_EGRESS_IDLE", "200ms"),
    ])
    .await;
    let mut tunnel = proxy.connect(echo().await).await.opened();
    // Four bytes out and four back are half of what it may carry.
    assert_echoes(&mut tunnel).await;
    assert_closes(&mut tunnel).await;
}

#[tokio::test]
async fn one_host_cannot_take_all_places() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_TUNNELS_PER_HOST_MAX", "1")]).await;
    let echo = echo().await;
    let first = proxy.connect(echo).await.opened();
    proxy.connect(echo).await.refused(503, "host_busy");
    // Same port, other host.
    let other = format!("127.0.0.2:{}", echo.port());
    let answer = proxy.connect(other).await;
    assert_ne!(answer.reason(), "host_busy");

    drop(first);
    until_opened(&proxy, &echo.to_string()).await;
}

#[tokio::test]
async fn beyond_the_last_place_callers_are_told_and_not_queued() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_TUNNELS_MAX", "2")]).await;
    let echo = echo().await;
    let first = proxy.connect(echo).await.opened();
    let mut second = proxy.connect(echo).await.opened();
    proxy.connect(echo).await.refused(503, "overloaded");
    assert_echoes(&mut second).await;
    drop(first);
    until_opened(&proxy, &echo.to_string()).await;
}

#[tokio::test]
async fn callers_that_ask_for_nothing_are_limited_as_well() {
    // Each takes a descriptor on both sides, and both sides are this process.
    rlimit::increase_nofile_limit(4_096).unwrap();
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_TUNNELS_MAX", "1")]).await;
    // 512 who have not asked yet, beside the only tunnel.
    let mut silent = Vec::new();
    for _ in 0..=512 {
        silent.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    Answer::read(stream).await.refused(503, "overloaded");
    drop(silent);
    until_opened(&proxy, &echo().await.to_string()).await;
}

/// The proxy notices a closed connection a moment later.
async fn until_opened(proxy: &Proxy, target: &str) -> TcpStream {
    let opened = async {
        loop {
            let answer = proxy.connect(target).await;
            if answer.status == 200 {
                return answer.stream;
            }
        }
    };
    timeout(SOON, opened).await.unwrap()
}

#[tokio::test]
async fn a_stop_ends_quiet_tunnels_and_waits_for_the_others() {
    let proxy = Proxy::start(&[]).await;
    let mut quiet = proxy.connect(echo().await).await.opened();
    assert_echoes(&mut quiet).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut waiting = proxy.connect(listener.local_addr().unwrap()).await.opened();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    waiting.write_all(b"request").await.unwrap();
    endpoint.read_exact(&mut [0; 7]).await.unwrap();

    proxy.request_stop();
    assert_closes(&mut quiet).await;
    assert!(
        TcpStream::connect(proxy.address).await.is_err(),
        "nobody new is let in"
    );
    endpoint.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    timeout(SOON, waiting.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"answer");
    assert_closes(&mut waiting).await;
    proxy.stopped().await;
}

/// One request follows the other, without a pause in which the tunnel would be quiet.
#[tokio::test]
async fn a_stop_ends_a_busy_tunnel_in_front_of_a_request_and_passes_on_nothing_of_it() {
    let proxy = Proxy::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut caller = proxy.connect(listener.local_addr().unwrap()).await.opened();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    let answering = tokio::spawn(async move {
        let mut answered = 0_u32;
        while endpoint.read_exact(&mut [0; 7]).await.is_ok() {
            if endpoint.write_all(b"answer").await.is_err() {
                break;
            }
            answered += 1;
        }
        answered
    });

    let asking = tokio::spawn(async move {
        let mut heard = 0_u32;
        loop {
            let asked = caller.write_all(b"request").await;
            if asked.is_err() || caller.read_exact(&mut [0; 6]).await.is_err() {
                return heard;
            }
            heard += 1;
        }
    });
    proxy.request_stop();
    let heard = timeout(SOON, asking).await.unwrap().unwrap();
    let answered = timeout(SOON, answering).await.unwrap().unwrap();
    assert_eq!(
        heard, answered,
        "a request was passed on whose answer was not"
    );
    assert!(heard > 3, "a handshake may take three turns: {heard}");
    timeout(SOON, proxy.stopped()).await.unwrap();
}

#[tokio::test]
async fn a_stop_cuts_what_outlasts_the_grace_time() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_GRACE", "100ms")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut waiting = proxy.connect(listener.local_addr().unwrap()).await.opened();
    let (_endpoint, _) = listener.accept().await.unwrap();
    waiting.write_all(b"request").await.unwrap();
    proxy.request_stop();
    proxy.stopped().await;
    assert_closes(&mut waiting).await;
}
