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

/// Not a test of its own: what the next one starts and kills.
#[tokio::test]
#[ignore = "hangs until it is killed"]
async fn a_test_that_hangs_with_a_child() {
    let child = shell().start(["-c", "exec sleep 1000"]);
    println!("child={}", child.id());
    std::future::pending::<()>().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_test_takes_its_children_along() {
    let test = std::env::current_exe().expect("a running test knows its own path");
    let name = "children::a_test_that_hangs_with_a_child";
    let mut hanging = Binary::at(test).start(["--exact", name, "--ignored", "--nocapture"]);
    hanging.says("child=", SOON).await;
    let said = hanging.stdout();
    let (_, rest) = said.split_once("child=").expect("it has been said");
    let child: u32 = rest
        .lines()
        .next()
        .and_then(|id| id.parse().ok())
        .expect("a process id");
    assert!(
        matches!(state_of(child), Some('R' | 'S')),
        "it runs or sleeps"
    );
    hanging.kill();
    // Nobody may be there to collect it: dead is enough.
    wait_until("the child is dead", SOON, async || match state_of(child) {
        None | Some('Z' | 'X') => Ok(()),
        state => Err(state),
    })
    .await;
}

/// The kernel's letter for a process' state.
#[cfg(target_os = "linux")]
fn state_of(process: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
