//! What every test of this workspace stands on: real servers, a scripted outside world, and patience with a limit.
//!
//! Nothing of ours is replaced by a double. PostgreSQL and Redis are the real programs, started privately and gone
//! with the test; receivers are real sockets that behave as badly as the script says; a broken network is a
//! [`ChaosProxy`] in the path. The cast:
//!
//! * [`TestDatabase`] – a database of the test's own, cloned in milliseconds from a template that carries every
//!   migration. All tests share one server, which dies with the last of them.
//! * [`Postgres`] – a whole server of the test's own, for tests that stop it, kill it or need it durable; with standbys
//!   and base backups, and, where this machine lets us mount one, on a [`SmallDisk`] that can be full.
//! * [`TestRedis`] – a Redis server of the test's own: key names are fixed, so nothing can be shared.
//! * [`RedisSentinels`] and [`RedisCluster`] – several of them, which decide among themselves who is in charge.
//! * [`Receiver`] – an HTTP(S) server that records each request to the byte and answers by script.
//! * [`ChaosProxy`] – a TCP proxy that cuts, pauses, delays, and loses replies.
//! * [`Binary`] and [`Running`] – the `zyven` program as real child processes, to be killed, frozen and read.
//! * [`live_through`] – random stories, lived through on the real thing and on a model of it.
//! * [`wait_until`] – the only way a test waits: for a state, with a deadline, telling what it last saw.
//!
//! **Failure is a panic.** A test that cannot have its database has nothing to decide, so functions here panic with
//! what was being done and do not return errors.
//!
//! **Nothing leaks.** Children die with the test process even if that is killed ([`child`]); a shared server is
//! watched by `scripts/test-services.sh`. What is deliberately absent: sleeping as synchronisation, fixed ports,
//! mocks, and any import of the crates under test, which would make their tests compile twice.

mod binary;
mod chaos;
pub mod child;
mod disk;
mod environment;
mod postgres;
mod receiver;
mod redis_cluster;
mod redis_sentinels;
mod redis_server;
mod stories;
mod tls;
mod wait;

pub use binary::{Binary, Finished, Running, previous_program};
pub use chaos::ChaosProxy;
pub use disk::SmallDisk;
pub use environment::free_address;
pub use postgres::{BaseBackup, OnDisk, Postgres, Stop, TestDatabase};
pub use receiver::{Answer, ReceivedRequest, Receiver};
pub use redis_cluster::{RedisCluster, Replicas};
pub use redis_sentinels::RedisSentinels;
pub use redis_server::TestRedis;
pub use stories::live_through;
pub use tls::{TestCa, TestCertificate, self_signed_server_config};
pub use wait::{Observation, wait_until};
