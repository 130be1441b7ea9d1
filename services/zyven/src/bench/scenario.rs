//! One scenario from its endpoints' making to their deletion.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::api::Api;
use super::outcome::{Cost, MemberCost, Outcome};
use super::phase::Phase;
use super::plan::{Length, Load, Plan, Share};
use super::processes::{MemoryWatch, Sample, Stack, machine_cpu_s};
use super::receiver::{Receiver, Route};
use super::template::{Tag, Template};
use super::{Args, Error};

/// How long a look at the stack takes to tell whether it rests.
const REST_LOOK: Duration = Duration::from_millis(200);
/// A stack that uses less of one core is at rest.
const REST_CORES: f64 = 0.1;
/// After that long, measuring begins or ends although the stack is still busy.
const REST_TIME_MAX: Duration = Duration::from_secs(5);
/// A warm-up's failures would only delay it.
const WARM_UP_FAILURES: Share = Share::NONE;
/// The side load runs until it is told to stop.
const UNTIL_STOPPED: Length = Length::For(Duration::from_secs(86_400));

/// Everything that scenarios share.
pub(super) struct Bench {
    api: Rc<Api>,
    receiver: Receiver,
    stack: Stack,
    this_process: Stack,
    /// Begins the types of all events of this run: nobody else's endpoints match.
    run: String,
    scenarios: Cell<u32>,
    /// Ids of endpoints that exist.
    endpoints: RefCell<Vec<String>>,
    drain_limit: Duration,
}

/// CPU time of the machine, the stack and this process at one moment.
struct Moment {
    at: Instant,
    machine_s: Option<f64>,
    stack: Sample,
    this_process: Sample,
}

/// Events for an endpoint that never answers, until it is dropped.
struct DeadLoad {
    phase: Rc<Phase>,
    sending: JoinHandle<Result<(), Error>>,
}

impl Drop for DeadLoad {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

impl Bench {
    pub(super) async fn start(args: &Args, api: Rc<Api>, stack: Stack) -> Result<Self, Error> {
        Ok(Self {
            api,
            receiver: Receiver::start(args.listen, args.receiver_url.as_deref()).await?,
            stack,
            this_process: Stack::this_process(),
            run: format!("bench.{}", Tag::of_this_moment()),
            scenarios: Cell::new(0),
            endpoints: RefCell::default(),
            drain_limit: args.drain_limit,
        })
    }

    /// Runs one scenario.
    ///
    /// # Errors
    ///
    /// The API cannot be used. What goes missing is no error here.
    pub(super) async fn run(&self, plan: &Plan) -> Result<Outcome, Error> {
        self.scenarios.set(self.scenarios.get() + 1);
        let prefix = format!("{}.{}", self.run, self.scenarios.get());
        let healthy = format!("{prefix}.healthy");
        // A new endpoint is work for the stack, for a minute.
        let endpoints = match plan.load {
            Load::Idle => 0,
            Load::Closed { .. } | Load::Open { .. } => plan.fan_out,
        };
        for endpoint in 0..endpoints {
            self.subscribe(&healthy, Route::Counted { endpoint })
                .await?;
        }
        let dead = match plan.dead_rate {
            None => None,
            Some(events_per_s) => {
                let event_type = format!("{prefix}.dead");
                self.subscribe(&event_type, Route::Silent).await?;
                Some(self.start_dead_load(plan, &event_type, events_per_s))
            }
        };
        self.warm_up(plan, &healthy).await?;
        if dead.is_none() {
            self.rest().await;
        }
        let outcome = self.measure(plan, &healthy, dead.as_ref()).await;
        drop(dead);
        self.delete_endpoints().await?;
        self.rest().await;
        outcome
    }

    async fn warm_up(&self, plan: &Plan, event_type: &str) -> Result<(), Error> {
        if plan.warm_up.is_zero() || plan.load == Load::Idle {
            return Ok(());
        }
        let phase = self.phase(plan, event_type, plan.fan_out, WARM_UP_FAILURES);
        self.receiver.enter(&phase);
        phase
            .send(&self.api, plan.load, Length::For(plan.warm_up))
            .await?;
        phase.drain(self.drain_limit).await;
        Ok(())
    }

    async fn measure(
        &self,
        plan: &Plan,
        event_type: &str,
        dead: Option<&DeadLoad>,
    ) -> Result<Outcome, Error> {
        let memory = MemoryWatch::start(self.stack.clone());
        let before = self.moment();
        let dead_before = dead.map_or(0, |dead| dead.phase.acknowledged());
        let phase = self.phase(plan, event_type, plan.fan_out, plan.fail_first);
        self.receiver.enter(&phase);
        phase.send(&self.api, plan.load, plan.length).await?;
        let sending = phase.elapsed();
        let is_drained = phase.drain(self.drain_limit).await;
        let draining = phase.elapsed().saturating_sub(sending);
        // What comes after the limit is missing. Otherwise the books stay open until the stack rests,
        // for duplicates.
        let impatient = (!is_drained).then(|| phase.close());
        // What was acknowledged while the healthy ones arrived is what the stack worked on.
        let dead_acknowledged = dead.map_or(0, |dead| dead.phase.acknowledged()) - dead_before;
        if dead.is_none() {
            self.rest().await;
        }
        let cost = self.cost(&before, &self.moment(), &memory.stop());
        Ok(Outcome {
            plan: plan.clone(),
            rounds: 1,
            passed: impatient.unwrap_or_else(|| phase.close()),
            sending,
            draining,
            is_drained,
            dead_acknowledged,
            cost,
        })
    }

    /// Deletes what was made, so that nothing is tried any more.
    pub(super) async fn delete_endpoints(&self) -> Result<(), Error> {
        let endpoints = self.endpoints.take();
        let mut outcome = Ok(());
        for id in endpoints {
            // The others should go even if one cannot.
            outcome = outcome.and(self.api.delete_endpoint(&id).await);
        }
        self.receiver.clear();
        outcome
    }

    async fn subscribe(&self, event_type: &str, route: Route) -> Result<(), Error> {
        let url = self.receiver.add(route);
        let id = self.api.make_endpoint(&url, event_type).await?;
        self.endpoints.borrow_mut().push(id);
        Ok(())
    }

    fn phase(
        &self,
        plan: &Plan,
        event_type: &str,
        endpoints: usize,
        fail_first: Share,
    ) -> Rc<Phase> {
        let template = Template::new(
            Tag::of_this_moment(),
            event_type,
            plan.payload_bytes,
            plan.idempotency_keys,
        );
        Phase::new(template, plan, endpoints, fail_first)
    }

    fn start_dead_load(&self, plan: &Plan, event_type: &str, events_per_s: f64) -> DeadLoad {
        // Nothing of it is expected to arrive.
        let one_by_one = Plan {
            batch_events: None,
            ..plan.clone()
        };
        let phase = self.phase(&one_by_one, event_type, 0, Share::NONE);
        let (sender, api) = (Rc::clone(&phase), Rc::clone(&self.api));
        // Ends when the dead load is dropped.
        let sending = tokio::task::spawn_local(async move {
            sender
                .send(&api, Load::Open { events_per_s }, UNTIL_STOPPED)
                .await
        });
        DeadLoad { phase, sending }
    }

    /// Waits until the stack has finished what it was doing, settlements for example.
    async fn rest(&self) {
        let until = Instant::now() + REST_TIME_MAX;
        let mut before = self.moment();
        while Instant::now() < until {
            tokio::time::sleep(REST_LOOK).await;
            let now = self.moment();
            let used_s = now.stack.total_since(&before.stack).unwrap_or(0.0);
            if used_s < REST_CORES * now.at.duration_since(before.at).as_secs_f64() {
                return;
            }
            before = now;
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            at: Instant::now(),
            machine_s: machine_cpu_s(),
            stack: self.stack.sample(),
            this_process: self.this_process.sample(),
        }
    }

    fn cost(&self, before: &Moment, after: &Moment, memory_bytes_max: &[u64]) -> Cost {
        let members = self.stack.members.iter();
        let used = after.stack.since(&before.stack).into_iter();
        let stack_cpu_s = after.stack.total_since(&before.stack);
        let bench_cpu_s = after.this_process.total_since(&before.this_process);
        let other_cpu_s = || {
            let machine_s = after.machine_s? - before.machine_s?;
            // Ticks are counted by different clocks, so that nothing may come out as less.
            Some((machine_s - stack_cpu_s? - bench_cpu_s?).max(0.0))
        };
        Cost {
            wall: after.at.duration_since(before.at),
            stack_cpu_s,
            bench_cpu_s,
            other_cpu_s: other_cpu_s(),
            members: members
                .zip(used)
                .zip(memory_bytes_max)
                .map(|((member, cpu_s), memory_bytes_max)| MemberCost {
                    name: member.name.clone(),
                    cpu_s,
                    memory_bytes_max: *memory_bytes_max,
                })
                .collect(),
        }
    }
}
