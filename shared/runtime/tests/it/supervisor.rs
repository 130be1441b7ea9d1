//! Time is paused: it jumps to the next timer when everybody waits.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::supervisor::{Cause, Failures, Supervisor};

const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("lost its mind")]
struct Lost(#[source] std::fmt::Error);

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A service that takes so long to stop.
    fn service(
        &self,
        name: &'static str,
        takes: Duration,
    ) -> impl FnOnce(Shutdown) -> futures::Stopping + use<> {
        let diary = self.clone();
        move |shutdown| {
            Box::pin(async move {
                shutdown.requested().await;
                diary.note(format!("{name} asked"));
                sleep(takes).await;
                diary.note(format!("{name} ended"));
                Ok(())
            })
        }
    }
}

mod futures {
    use std::convert::Infallible;
    use std::pin::Pin;

    pub(super) type Stopping = Pin<Box<dyn Future<Output = Result<(), Infallible>> + Send>>;
}

fn causes(failures: &Failures) -> Vec<String> {
    failures
        .failures()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn services_stop_in_reverse_order_each_after_the_next_has_ended() {
    let (trigger, stop) = Shutdown::new();
    let diary = Diary::default();
    let mut supervisor = Supervisor::new();
    for name in ["egress", "dispatcher", "ingest"] {
        supervisor.start(name, GRACE, diary.service(name, GRACE / 2));
    }
    trigger.request();
    supervisor.run(stop).await.unwrap();
    let expected = [
        "ingest asked",
        "ingest ended",
        "dispatcher asked",
        "dispatcher ended",
        "egress asked",
        "egress ended",
    ];
    assert_eq!(diary.read(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_outlasts_its_grace_time_is_cut_and_the_others_are_not() {
    let (trigger, stop) = Shutdown::new();
    let diary = Diary::default();
    let mut supervisor = Supervisor::new();
    supervisor.start("egress", GRACE, diary.service("egress", GRACE / 2));
    supervisor.start("dispatcher", GRACE, diary.service("dispatcher", GRACE * 2));
    let began = Instant::now();
    trigger.request();
    let failures = supervisor.run(stop).await.unwrap_err();
    assert_eq!(causes(&failures), ["dispatcher outlasted its grace time"]);
    assert_eq!(
        diary.read(),
        ["dispatcher asked", "egress asked", "egress ended"]
    );
    assert_eq!(began.elapsed(), GRACE + GRACE / 2);
}

/// Runs a service beside a good one, without anybody asking for an end.
async fn beside_a_good_one<E: std::error::Error + Send + Sync + 'static>(
    bad: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Failures {
    let (_trigger, stop) = Shutdown::new();
    let diary = Diary::default();
    let mut supervisor = Supervisor::new();
    supervisor.start("bad", GRACE, |_| bad);
    supervisor.start("good", GRACE, diary.service("good", GRACE / 2));
    let failures = supervisor.run(stop).await.unwrap_err();
    assert_eq!(diary.read(), ["good asked", "good ended"]);
    failures
}

#[tokio::test(start_paused = true)]
async fn a_service_that_ends_unasked_stops_all() {
    let failures = beside_a_good_one(async { Ok::<_, Infallible>(()) }).await;
    assert!(matches!(failures.failures()[0].cause, Cause::EndedUnasked));
    assert_eq!(failures.to_string(), "bad ended unasked");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_stops_all() {
    let failures = beside_a_good_one(async { Err(Lost(std::fmt::Error)) }).await;
    assert!(matches!(failures.failures()[0].cause, Cause::Failed(_)));
    let expected = format!("bad failed: lost its mind: {}", std::fmt::Error);
    assert_eq!(failures.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_stops_all() {
    let panicking = async {
        sleep(GRACE).await;
        if Instant::now().elapsed() < GRACE {
            panic!("on purpose");
        }
        Ok::<_, Infallible>(())
    };
    let failures = beside_a_good_one(panicking).await;
    assert!(matches!(failures.failures()[0].cause, Cause::Panicked));
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_while_the_others_stop_is_reported_too() {
    let (trigger, stop) = Shutdown::new();
    let diary = Diary::default();
    let mut supervisor = Supervisor::new();
    supervisor.start("early", GRACE, |_| async {
        sleep(GRACE / 4).await;
        Ok::<_, Infallible>(())
    });
    supervisor.start("late", GRACE, |shutdown: Shutdown| async move {
        shutdown.requested().await;
        Err(Lost(std::fmt::Error))
    });
    supervisor.start("good", GRACE, diary.service("good", GRACE / 2));
    trigger.request();
    let failures = supervisor.run(stop).await.unwrap_err();
    let expected = ["early ended unasked", "late failed"];
    assert_eq!(causes(&failures), expected);
    assert_eq!(diary.read(), ["good asked", "good ended"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_run_ends_when_asked() {
    let (trigger, stop) = Shutdown::new();
    trigger.request();
    Supervisor::new().run(stop).await.unwrap();
}
