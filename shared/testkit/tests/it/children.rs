use std::time::Duration;

use zyven_testkit::{Binary, wait_until};

use crate::SOON;

/// Any program does: the shell stands for `zyven`.
fn shell() -> Binary {
    Binary::at("/bin/sh").with("GREETING", "hello")
}

#[tokio::test]
async fn a_program_runs_to_its_end_with_nothing_but_its_settings() {
    let script = "echo $GREETING; echo ${CARGO_MANIFEST_DIR-unset} >&2; exit 3";
    let finished = shell().run(["-c", script], SOON).await;
    assert_eq!(finished.status.code(), Some(3));
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("hello\n", "unset\n")
    );
}

#[tokio::test]
async fn a_running_program_is_heard_frozen_and_terminated() {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do read -r _ < /dev/null; sleep 0.01; done";
    let mut running = shell().start(["-c", script]);
    running.says("ready", SOON).await;
    running.freeze();
    running.terminate();
    assert!(running.is_running());
    running.thaw();
    assert_eq!(running.ended(SOON).await.expect_success(), "ready\nbye\n");
}

#[tokio::test]
async fn a_dropped_program_is_gone() {
    let running = shell().start(["-c", "exec sleep 1000"]);
    let folder = format!("/proc/{}", running.id());
    drop(running);
    assert!(!std::path::Path::new(&folder).exists());
}

/// The kernel sends the signal when the *thread* that started a child ends; the kit must not pass that on.
#[tokio::test]
async fn a_program_survives_the_thread_that_asked_for_it() {
    let asked = std::thread::spawn(|| shell().start(["-c", "echo up; exec sleep 1000"]));
    let mut running = asked.join().expect("no panic");
    running.says("up", SOON).await;
    tokio::time::timeout(
        Duration::from_millis(100),
        wait_until("it dies", SOON, async || !running.is_running()),
    )
    .await
    .expect_err("it is still alive");
}
