//! Time is paused: it jumps to the next timer when everybody waits.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use zyven_runtime::doorbell::{Bell, Doorbell};
use zyven_runtime::pace::{self, Backoff, Rest};
use zyven_runtime::shutdown::{Shutdown, Trigger};

use crate::log::Log;

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(&'static str, #[source] Option<Box<Failed>>);

fn failed(what: &'static str) -> Result<Rest, Failed> {
    Err(Failed(what, None))
}

/// A caretaker as services have them: state, a step, a plan of answers.
struct Caretaker {
    plan: std::vec::IntoIter<Result<Rest, Failed>>,
    trigger: Trigger,
    began: Instant,
    /// When each step began.
    steps: Vec<Duration>,
}

impl Caretaker {
    fn new(trigger: Trigger, plan: Vec<Result<Rest, Failed>>) -> Self {
        Self {
            plan: plan.into_iter(),
            trigger,
            began: Instant::now(),
            steps: Vec::new(),
        }
    }

    async fn step(&mut self) -> Result<Rest, Failed> {
        tokio::task::yield_now().await;
        self.steps.push(self.began.elapsed());
        self.plan.next().unwrap_or_else(|| {
            self.trigger.request();
            Ok(Rest::For(MINUTE))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_follows_at_once_after_work_and_later_after_a_rest() {
    let (trigger, shutdown) = Shutdown::new();
    let plan = vec![Ok(Rest::None), Ok(Rest::For(MINUTE)), Ok(Rest::None)];
    let mut caretaker = Caretaker::new(trigger, plan);
    pace::run("test", shutdown, Backoff::default(), async || {
        caretaker.step().await
    })
    .await;
    let expected = [Duration::ZERO, Duration::ZERO, MINUTE, MINUTE];
    assert_eq!(caretaker.steps, expected);
    assert_eq!(caretaker.began.elapsed(), MINUTE, "the last rest was cut");
}

#[tokio::test(start_paused = true)]
async fn the_loop_can_be_spawned() {
    let (trigger, shutdown) = Shutdown::new();
    let mut caretaker = Caretaker::new(trigger, vec![Ok(Rest::None), failed("away")]);
    let backoff = Backoff::default();
    let task = tokio::spawn(async move {
        pace::run("test", shutdown, backoff, async || caretaker.step().await).await;
        caretaker.steps.len()
    });
    assert_eq!(task.await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_step_is_taken_after_the_request() {
    let (trigger, shutdown) = Shutdown::new();
    trigger.request();
    let mut caretaker = Caretaker::new(trigger, vec![]);
    pace::run("test", shutdown, Backoff::default(), async || {
        caretaker.step().await
    })
    .await;
    assert_eq!(caretaker.steps, []);
}

#[tokio::test(start_paused = true)]
async fn a_step_under_way_is_finished() {
    let (trigger, shutdown) = Shutdown::new();
    let mut finished = 0;
    let step = async || {
        trigger.request();
        tokio::time::sleep(MINUTE).await;
        finished += 1;
        Ok::<_, Failed>(Rest::None)
    };
    pace::run("test", shutdown, Backoff::default(), step).await;
    assert_eq!(finished, 1);
}

#[tokio::test(start_paused = true)]
async fn delays_grow_while_it_fails_and_start_over_after() {
    let (trigger, shutdown) = Shutdown::new();
    let backoff = Backoff {
        min: Duration::from_secs(1),
        max: Duration::from_secs(4),
    };
    let mut plan: Vec<_> = (0..5).map(|_| failed("away")).collect();
    plan.extend([Ok(Rest::None), failed("away")]);
    let mut caretaker = Caretaker::new(trigger, plan);
    pace::run("test", shutdown, backoff, async || caretaker.step().await).await;
    let delays = caretaker.steps.windows(2).map(|pair| pair[1] - pair[0]);
    for (delay, seconds) in delays.zip([1_u32, 2, 4, 4, 4, 0, 1]) {
        let most = Duration::from_secs(1) * seconds;
        // The clock counts whole milliseconds.
        let ends = most / 2..=most + Duration::from_millis(1);
        assert!(ends.contains(&delay), "{delay:?} {ends:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_error_every_change_and_the_recovery_are_logged() {
    let log = Log::collect();
    let (trigger, shutdown) = Shutdown::new();
    let cause = Box::new(Failed("connection refused", None));
    let plan = vec![
        Ok(Rest::None),
        failed("away"),
        failed("away"),
        failed("away"),
        Err(Failed("slow", Some(cause))),
        Ok(Rest::None),
        Ok(Rest::None),
        failed("away"),
    ];
    let mut caretaker = Caretaker::new(trigger, plan);
    pace::run("scrub", shutdown, Backoff::default(), async || {
        caretaker.step().await
    })
    .await;
    let lines = log.lines();
    let expected = [
        "WARN step failed pace=\"scrub\" error=\"away\" failures=1 ",
        "WARN step failed pace=\"scrub\" error=\"slow: connection refused\" failures=4 ",
        "INFO step works again pace=\"scrub\" failures=4 ",
        "WARN step failed pace=\"scrub\" error=\"away\" failures=1 ",
        "INFO step works again pace=\"scrub\" failures=1 ",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_alarm_ends_a_rest_but_not_the_delay_after_a_failure() {
    let (trigger, shutdown) = Shutdown::new();
    let notify = Notify::new();
    let plan = vec![Ok(Rest::For(MINUTE)), failed("away"), Ok(Rest::For(MINUTE))];
    let mut caretaker = Caretaker::new(trigger, plan);
    let backoff = Backoff {
        min: MINUTE,
        max: MINUTE,
    };
    let step = async || {
        let rest = caretaker.step().await;
        // Rung during every step: it ends the rest that follows, or else the next one.
        notify.notify_one();
        rest
    };
    let alarm = |at_most| pace::notified(&notify, at_most);
    pace::run_with_alarm("test", shutdown, backoff, alarm, step).await;
    let steps = caretaker.steps;
    assert_eq!(steps[1], Duration::ZERO, "rung");
    assert!(steps[2] >= MINUTE / 2, "not rung: {steps:?}");
    assert_eq!(steps[3], steps[2], "rung again");
}

#[tokio::test]
async fn a_doorbell_is_an_alarm() {
    let (trigger, shutdown) = Shutdown::new();
    let doorbell = Doorbell::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let bell = Bell::to([doorbell.local_addr().unwrap()]).unwrap();
    let mut steps = 0;
    let alarm = async |at_most| {
        doorbell.rung(at_most).await;
    };
    let step = async || {
        steps += 1;
        if steps == 3 {
            trigger.request();
        }
        bell.ring();
        Ok::<_, Failed>(Rest::For(MINUTE))
    };
    let began = Instant::now();
    pace::run_with_alarm("test", shutdown, Backoff::default(), alarm, step).await;
    assert!(began.elapsed() < MINUTE);
    assert_eq!(steps, 3);
}
