//! Connections to Redis, with a limit on every wait.
//!
//! The pool is bb8's and its connections are made by bb8-redis; [`Manager`] adds what a frozen, restarted or
//! replaced server asks for. A connection that was left amid a command (error, time-out, caller
//! dropped) is not used again, and one failure condemns all connections older than it, so that after a
//! restart of Redis the first error is also the last.
//!
//! A single server, or one that Sentinels name, has all shards, and what is asked of several shards is one
//! pipeline. In a cluster each shard is asked by itself. A shard whose node does not work is then left out:
//! one task finds out when it works again, and nobody else waits for it meanwhile. One that refuses, being full
//! or about to give the slot away, is left out too; only claims still go to it, as they make room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::{Duration, Instant};

use bb8_redis::RedisConnectionManager;
use bb8_redis::bb8::{ManageConnection, Pool, RunError};
use futures_util::future::{join_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value};

use crate::failure::{Failure, Failures, QueueError};
use crate::keys::Shard;
use crate::locate::{Locator, slot_of};
use crate::place::{Place, Tls};
use crate::site::Site;

/// How long to wait for a connection.
pub(crate) const CONNECTION_TIME_MAX: Duration = Duration::from_millis(800);
/// How long to wait for the answers.
pub(crate) const ANSWER_TIME_MAX: Duration = Duration::from_millis(1_200);
/// The longest any operation of the queue takes.
pub const OPERATION_TIME_MAX: Duration = Duration::from_millis(2_000);
const _: () = assert!(
    CONNECTION_TIME_MAX.as_millis() + ANSWER_TIME_MAX.as_millis() == OPERATION_TIME_MAX.as_millis()
);

/// Between two looks whether a node works again.
const REVIVAL_WAIT: Duration = Duration::from_millis(500);

/// Changes nothing, and is refused by whatever refuses a push: it names the keys that every script names, and
/// writes as far as Redis can tell.
static PROBE: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.call('ZADD', KEYS[4], 'XX', 0, '')"));

/// One command, or one call of a script.
pub(crate) struct Question {
    shard: usize,
    command: Cmd,
    script: Option<&'static Script>,
}

impl Question {
    pub(crate) fn command(shard: &Shard, name: &str) -> Self {
        Self {
            shard: shard.index,
            command: redis::cmd(name),
            script: None,
        }
    }

    /// `arguments` is how many will follow, roughly.
    pub(crate) fn script(shard: &Shard, script: &'static Script, arguments: usize) -> Self {
        let keys = shard.script_keys();
        let mut command = Cmd::with_capacity(3 + keys.len() + arguments, 256 + 16 * arguments);
        command
            .arg("EVALSHA")
            .arg(script.get_hash())
            .arg(keys.len())
            .arg(&keys);
        Self {
            shard: shard.index,
            command,
            script: Some(script),
        }
    }

    pub(crate) fn arg(&mut self, argument: impl redis::ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Whether a node that answers so is left out, as long as another one works.
    fn leaves_out(&self, error: &QueueError) -> bool {
        // Without its scripts a node is of no use; without a question about its memory it is.
        let is_about_work = !error.is_forbidden() || self.script.is_some();
        is_about_work && error.is_transient()
    }

    async fn put(&self, mut redis: MultiplexedConnection) -> RedisResult<Value> {
        let answer = self.command.query_async(&mut redis).await;
        match (&answer, self.script) {
            // A restarted Redis knows no scripts; the call did nothing.
            (Err(error), Some(script))
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                script.load_async(&mut redis).await?;
                self.command.query_async(&mut redis).await
            }
            _ => answer,
        }
    }
}

/// The pools. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections {
    /// One for all shards, or one for each.
    homes: Arc<[Home]>,
    shared: Arc<Shared>,
}

/// What the homes have in common; ends with the last clone of the queue.
#[derive(Default)]
struct Shared {
    failures: Failures,
    revivals: AtomicU64,
    waits: Arc<Waits>,
}

/// Who is told of each wait for a connection.
type Waits = OnceLock<Box<dyn Fn(Duration) + Send + Sync>>;

impl Connections {
    pub(crate) fn new(
        url: &str,
        tls: &Tls,
        pool_size: u32,
        shards: &[Shard],
    ) -> Result<Self, QueueError> {
        let locator = Arc::new(Locator::new(Place::parse(url, tls)?));
        let homes_count = if locator.is_cluster() {
            shards.len()
        } else {
            1
        };
        let shared = Arc::<Shared>::default();
        let homes = (shards[..homes_count].iter())
            .map(|shard| {
                let site = Site::new(Arc::clone(&locator), slot_of(&shard.hash_tag()));
                Home::new(Arc::new(site), Arc::clone(&shared.waits), pool_size)
            })
            .collect();
        Ok(Self { homes, shared })
    }

    /// For each server to be listened to: which it is, and the shards it has.
    pub(crate) fn sites<'a>(
        &self,
        shards: &'a [Shard],
    ) -> impl Iterator<Item = (Arc<Site>, &'a [Shard])> {
        let size = shards.len() / self.homes.len();
        let sites: Vec<_> = self
            .homes
            .iter()
            .map(|home| Arc::clone(&home.site))
            .collect();
        sites.into_iter().zip(shards.chunks(size))
    }

    /// Puts all questions at once, those to one server in this order, and returns the answers in the same
    /// order. What a node does not answer that is left out is `None`, as long as another node works; any other
    /// error hides all answers. Cancel-safe towards the pool; what was sent is done.
    pub(crate) async fn ask(
        &self,
        questions: &[Question],
    ) -> Result<Vec<Option<Value>>, QueueError> {
        if let [home] = &*self.homes {
            let questions: Vec<&Question> = questions.iter().collect();
            let answers = self.ask_at(home, &questions).await?;
            return Ok(answers.into_iter().map(Some).collect());
        }
        // One that refuses to write would still answer some questions: that it has no epoch, for one, which it
        // cannot be given now. All of that is seen to when it takes writes again.
        let is_left_out: Vec<bool> = match self.has_a_node_that_works() {
            true => (self.homes.iter())
                .map(|home| home.site.left_out().is_some())
                .collect(),
            false => vec![false; self.homes.len()],
        };
        let is_asked = |home: usize| !is_left_out[home];
        let mut answers = Vec::with_capacity(questions.len());
        for (question, answer) in questions
            .iter()
            .zip(self.ask_homes(questions, is_asked).await)
        {
            answers.push(match answer {
                None => None,
                Some(Ok(answer)) => Some(answer),
                Some(Err(error)) if question.leaves_out(&error) && self.has_a_node_that_works() => {
                    None
                }
                Some(Err(error)) => return Err(error),
            });
        }
        Ok(answers)
    }

    /// Like [`Connections::ask`], with every answer by itself: to one server all are answered or none is. A node
    /// that refuses some things is asked all the same.
    pub(crate) async fn ask_each(&self, questions: &[Question]) -> Vec<Result<Value, QueueError>> {
        let answers = self.ask_homes(questions, |_| true).await;
        (answers.into_iter().flatten()).collect() // all were asked
    }

    /// Asks some homes only; the answers of the others are `None`.
    async fn ask_homes(
        &self,
        questions: &[Question],
        is_asked: impl Fn(usize) -> bool,
    ) -> Vec<Option<Result<Value, QueueError>>> {
        let mut by_home: Vec<Vec<&Question>> = vec![Vec::new(); self.homes.len()];
        let home_of = |question: &Question| question.shard % self.homes.len();
        for question in questions {
            if is_asked(home_of(question)) {
                by_home[home_of(question)].push(question);
            }
        }
        let asked = self
            .homes
            .iter()
            .zip(&by_home)
            .map(async |(home, questions)| match questions.is_empty() {
                true => Ok(Vec::new()),
                false => self.ask_at(home, questions).await,
            });
        let mut answers: Vec<_> = (join_all(asked).await.into_iter())
            .map(|answers| answers.map(Vec::into_iter))
            .collect();
        (questions.iter())
            .map(|question| match &mut answers[home_of(question)] {
                _ if !is_asked(home_of(question)) => None,
                Ok(answers) => Some(Ok(answers.next().expect("an answer for each question"))),
                Err(error) => Some(Err(error.clone())),
            })
            .collect()
    }

    /// For questions about one of several shards: `None` if its node is left out.
    pub(crate) async fn ask_one(
        &self,
        questions: &[Question],
    ) -> Result<Option<Vec<Value>>, QueueError> {
        Ok(self.ask(questions).await?.into_iter().collect())
    }

    fn has_a_node_that_works(&self) -> bool {
        self.homes.len() > 1 && self.homes.iter().any(|home| home.site.left_out().is_none())
    }

    async fn ask_at(&self, home: &Home, questions: &[&Question]) -> Result<Vec<Value>, QueueError> {
        let has_others = self.homes.len() > 1;
        if has_others && let Some(away) = home.site.away() {
            return Err(away);
        }
        let answers = home.ask(questions).await;
        if let Err(error) = &answers {
            self.shared.failures.note(error);
            let leaves_out =
                has_others && (questions.iter()).any(|question| question.leaves_out(error));
            if leaves_out && !home.site.leave_out(Some(error.clone())) {
                // Ends when it works again, or with the queue.
                tokio::spawn(revive(
                    home.clone(),
                    questions[0].shard,
                    Arc::downgrade(&self.shared),
                ));
            }
        }
        answers
    }

    /// Why some of several nodes are left out.
    pub(crate) fn away(&self) -> Option<QueueError> {
        self.homes.iter().find_map(|home| home.site.left_out())
    }

    /// How often one of several nodes has come back.
    pub(crate) fn revivals(&self) -> u64 {
        self.shared.revivals.load(Ordering::Relaxed)
    }

    pub(crate) fn note_waits(&self, note: impl Fn(Duration) + Send + Sync + 'static) {
        drop(self.shared.waits.set(Box::new(note)));
    }

    pub(crate) fn failures(&self, failure: Failure) -> u64 {
        self.shared.failures.count(failure)
    }
}

/// Waits until a node that was left out takes writes again.
async fn revive(home: Home, shard: usize, shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(REVIVAL_WAIT).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // About its keys, so that a node that lacks the slot does not count.
        let shard = Shard::new(u16::try_from(shard).expect("there are few shards"));
        match home.ask(&[&Question::script(&shard, &PROBE, 0)]).await {
            Ok(_) => {
                home.site.leave_out(None);
                shared.revivals.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) => {
                shared.failures.note(&error);
                home.site.leave_out(Some(error));
            }
        }
    }
}

/// The connections to one server.
#[derive(Clone)]
struct Home {
    pool: Pool<Manager>,
    site: Arc<Site>,
    waits: Arc<Waits>,
}

impl Home {
    fn new(site: Arc<Site>, waits: Arc<Waits>, pool_size: u32) -> Self {
        let pool = Pool::builder()
            .max_size(pool_size)
            .min_idle(0)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(CONNECTION_TIME_MAX)
            .build_unchecked(Manager(Arc::clone(&site)));
        Self { pool, site, waits }
    }

    async fn ask(&self, questions: &[&Question]) -> Result<Vec<Value>, QueueError> {
        let began = Instant::now();
        let taken = self.pool.get().await;
        if let Some(note) = self.waits.get() {
            note(began.elapsed());
        }
        let mut connection = taken.map_err(|error| match error {
            RunError::User(error) => QueueError::NoConnection(Some(error)),
            RunError::TimedOut => QueueError::NoConnection(self.site.last_failure()),
        })?;
        connection.is_amid_command = true;
        let redis = &connection.redis;
        // The connection writes them one after the other without waiting: a pipeline.
        let answers = try_join_all(questions.iter().map(|question| question.put(redis.clone())));
        let answers = tokio::time::timeout(ANSWER_TIME_MAX, answers).await;
        match answers {
            Ok(Ok(answers)) => {
                connection.is_amid_command = false;
                Ok(answers)
            }
            failed => {
                self.site.condemn_older_connections();
                Err(match failed {
                    Ok(Err(error)) => {
                        self.site.learn(&error);
                        QueueError::of(error)
                    }
                    _ => QueueError::NoAnswer,
                })
            }
        }
    }
}

struct Manager(Arc<Site>);

struct Connection {
    redis: MultiplexedConnection,
    generation: u64,
    opened: Instant,
    /// Set from before the first byte is sent until the last answer is here.
    is_amid_command: bool,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let generation = self.0.generation();
        let opened = self
            .0
            .open(async |server| RedisConnectionManager::new(server)?.connect().await);
        let mut redis = opened.await?;
        redis.set_response_timeout(ANSWER_TIME_MAX);
        Ok(Connection {
            redis,
            generation,
            opened: Instant::now(),
            is_amid_command: false,
        })
    }

    /// Asked before each use, so it must not cost a round trip.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        if connection.generation != self.0.generation() {
            return Err((ErrorKind::Io, "a connection to the same server failed").into());
        }
        if self.0.is_too_old(connection.opened.elapsed()) {
            return Err((ErrorKind::Io, "the server may be another one by now").into());
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.is_amid_command
    }
}
