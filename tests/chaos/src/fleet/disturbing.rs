//! What can be done to servers and links. The history hears of all of it.

use std::net::SocketAddr;

use zyven_testkit::ChaosProxy;

use super::Fleet;
use crate::history::{History, Trouble};
use crate::service::Link;

impl Fleet {
    /// PostgreSQL is stopped at once (immediate shutdown): what was committed asynchronously may be forgotten.
    pub async fn crash_postgres(&mut self) {
        self.history.began(Trouble::PostgresCrashed);
        self.postgres.stop_at_once().await;
    }

    /// Starts PostgreSQL and returns when it takes connections.
    pub async fn restart_postgres(&mut self) {
        self.postgres.restart().await;
        self.history.ended(Trouble::PostgresCrashed);
    }

    /// SIGKILL for Redis.
    pub fn kill_redis(&mut self) {
        self.history.began(Trouble::RedisAway);
        self.redis.kill();
    }

    /// Starts Redis and returns when it answers.
    pub async fn restart_redis(&mut self) {
        self.redis.restart().await;
        self.history.ended(Trouble::RedisAway);
        self.history.ended(Trouble::RedisFrozen);
    }

    /// SIGSTOP for Redis.
    pub fn freeze_redis(&mut self) {
        self.history.began(Trouble::RedisFrozen);
        self.redis.freeze();
    }

    /// SIGCONT for Redis.
    pub fn thaw_redis(&mut self) {
        self.redis.thaw();
        self.history.ended(Trouble::RedisFrozen);
    }

    /// FLUSHALL.
    pub async fn flush_redis(&mut self) {
        self.redis.flush().await;
        self.history.happened(Trouble::RedisEmptied);
    }

    /// Does something to the connections of a link, such as `ChaosProxy::cut`, until [`Fleet::heal`].
    pub fn disturb(&mut self, link: Link, how: impl Fn(&ChaosProxy)) {
        self.history.began(Trouble::Link(link));
        self.links[&link].iter().for_each(how);
    }

    /// A link works again. Its connections are cut once, because one that lost replies has a hole in them.
    pub fn heal(&mut self, link: Link) {
        for proxy in &self.links[&link] {
            proxy.heal();
            proxy.cut_once();
        }
        self.history.ended(Trouble::Link(link));
    }

    /// Where the proxies of a link listen.
    pub fn addresses(&self, link: Link) -> impl Iterator<Item = SocketAddr> {
        self.links[&link].iter().map(ChaosProxy::address)
    }

    /// Marks the time in which the receiver does not answer as it should.
    pub fn history_mut(&mut self) -> &mut History {
        &mut self.history
    }

    /// What was done so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }
}
