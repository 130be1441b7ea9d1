//! Which server has a shard's keys now: asked anew for each connection.
//!
//! With Sentinels, all are asked at once and the one with the newest configuration is believed, so that one
//! that was cut off with an old primary misleads nobody; then the server itself is asked whether it is the
//! primary. In a cluster the first node that answers is believed: one that knows an old map sends
//! us to a node that knows better (MOVED), and that is where the next connection goes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, FromRedisValue, RedisError,
    RedisResult, ServerErrorKind, Value,
};

use crate::place::{Place, address, moved};

/// How long a Sentinel, or a node that is asked for the map, may take to connect and to answer. Two of these
/// and a connection fit into the time there is for one.
const DIRECTIONS_TIME_MAX: Duration = Duration::from_millis(300);
/// Most nodes of a cluster that are asked for the map.
const NODES_ASKED_MAX: usize = 16;

/// Slots of a Redis Cluster.
const SLOTS: u16 = 16_384;

pub(crate) struct Locator {
    place: Place,
    /// The nodes of the map that was seen last: seeds may be gone by now. Held for a copy only.
    nodes: Mutex<Vec<(String, u16)>>,
}

impl Locator {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            nodes: Mutex::default(),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.place, Place::Cluster { .. })
    }

    /// Whether the answer to [`Locator::find`] may change.
    pub(crate) fn is_asked(&self) -> bool {
        !matches!(self.place, Place::Server(_))
    }

    /// The server that has the keys of `slot`, as far as anybody knows.
    pub(crate) async fn find(&self, slot: u16) -> RedisResult<ConnectionInfo> {
        match &self.place {
            Place::Server(server) => Ok(server.clone()),
            Place::Sentinel {
                sentinels,
                service,
                server,
            } => {
                let (host, port) = primary(sentinels, service).await?;
                Ok(moved(server, &host, port))
            }
            Place::Cluster { seeds, server } => {
                let mut nodes = self.seen();
                nodes.extend(
                    seeds
                        .iter()
                        .filter(|seed| !nodes.contains(seed))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
                nodes.truncate(NODES_ASKED_MAX);
                let asked = nodes
                    .iter()
                    .map(|(host, port)| Box::pin(map(moved(server, host, *port))));
                let (map, _) = select_ok(asked).await?;
                let owner = map
                    .iter()
                    .find(|range| (range.first..=range.last).contains(&slot));
                let owner = owner.map(|range| range.owner.clone());
                self.remember(map);
                let (host, port) = owner.ok_or_else(|| {
                    let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
                    RedisError::from((kind, "no node has the slot"))
                })?;
                Ok(moved(server, &host, port))
            }
        }
    }

    /// The server at an address that an error has named.
    pub(crate) fn at(&self, host: &str, port: u16) -> ConnectionInfo {
        let (Place::Server(server)
        | Place::Sentinel { server, .. }
        | Place::Cluster { server, .. }) = &self.place;
        moved(server, host, port)
    }

    /// With Sentinels: sees to it that this is the primary, as they may be behind.
    pub(crate) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        if !matches!(self.place, Place::Sentinel { .. }) {
            return Ok(());
        }
        let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(()),
            _ => {
                let kind = ErrorKind::Server(ServerErrorKind::ReadOnly);
                Err((
                    kind,
                    "the server that the Sentinels name is not the primary",
                )
                    .into())
            }
        }
    }

    fn seen(&self) -> Vec<(String, u16)> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.clone()
    }

    fn remember(&self, map: Vec<Range>) {
        let mut nodes: Vec<_> = map.into_iter().map(|range| range.owner).collect();
        nodes.sort();
        nodes.dedup();
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }
}

async fn ask<T: FromRedisValue>(server: ConnectionInfo, words: &[&str]) -> RedisResult<T> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DIRECTIONS_TIME_MAX))
        .set_response_timeout(Some(DIRECTIONS_TIME_MAX));
    let mut connection = Client::open(server)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    redis::cmd(words[0])
        .arg(&words[1..])
        .query_async(&mut connection)
        .await
}

/// The primary of a service, as the Sentinel with the newest configuration has it.
async fn primary(sentinels: &[ConnectionInfo], service: &str) -> RedisResult<(String, u16)> {
    let asked = sentinels.iter().map(|sentinel| async {
        let of: HashMap<String, String> =
            ask(sentinel.clone(), &["SENTINEL", "MASTER", service]).await?;
        let number = |name: &str| of.get(name).and_then(|value| value.parse::<u64>().ok());
        let port = number("port").and_then(|port| u16::try_from(port).ok());
        match (of.get("ip"), port) {
            (Some(host), Some(port)) => Ok((number("config-epoch"), host.clone(), port)),
            _ => Err(RedisError::from((
                ErrorKind::UnexpectedReturnType,
                "a Sentinel named no address",
            ))),
        }
    });
    let mut newest = None;
    let mut failure = None;
    for told in join_all(asked).await {
        match told {
            Ok(told) => newest = newest.max(Some(told)),
            Err(error) => failure = Some(error),
        }
    }
    match (newest, failure) {
        (Some((_, host, port)), _) => Ok((host, port)),
        (None, Some(error)) => Err(error),
        (None, None) => Err((ErrorKind::EmptySentinelList, "there are no Sentinels").into()),
    }
}

/// Slots, and the node that has them.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    owner: (String, u16),
}

/// The map of a cluster, as one node has it.
async fn map(node: ConnectionInfo) -> RedisResult<Vec<Range>> {
    let asked = address(&node).map(|(host, _)| host).unwrap_or_default();
    let slots: Vec<Vec<Value>> = ask(node, &["CLUSTER", "SLOTS"]).await?;
    let map: Vec<Range> = slots
        .iter()
        .filter_map(|range| read(range, &asked))
        .collect();
    if map.is_empty() {
        // One that was reset, or has met nobody yet: another may know more.
        let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
        return Err((kind, "a node that knows no slots").into());
    }
    Ok(map)
}

/// First slot, last slot, the owner's host, port, and more; then replicas. Without a host, the node that was
/// asked means its own.
fn read(range: &[Value], asked: &str) -> Option<Range> {
    let [Value::Int(first), Value::Int(last), Value::Array(owner), ..] = range else {
        return None;
    };
    let [host, Value::Int(port), ..] = owner.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) if host == b"?" => return None, // it has no name that others may know
        Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
        _ => asked.to_owned(),
    };
    Some(Range {
        first: u16::try_from(*first).ok()?,
        last: u16::try_from(*last).ok()?,
        owner: (host, u16::try_from(*port).ok()?),
    })
}

/// The slot of keys with this hash tag: CRC-16 (XMODEM), as the cluster specification has it.
pub(crate) fn slot_of(tag: &str) -> u16 {
    let mut crc = 0_u16;
    for byte in tag.bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let is_set = crc & 0x8000 != 0;
            crc <<= 1;
            if is_set {
                crc ^= 0x1021;
            }
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of("123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12_182); // CLUSTER KEYSLOT foo
        assert_eq!(slot_of(""), 0);
    }

    #[test]
    fn a_range_without_a_host_is_on_the_node_that_was_asked() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |host| {
            [
                Value::Int(5),
                Value::Int(9),
                Value::Array(vec![host, Value::Int(7000)]),
            ]
        };
        let read = |host| read(&range(host), "asked").map(|range| range.owner.0);
        assert_eq!(read(text("told")), Some("told".to_owned()));
        assert_eq!(read(text("")), Some("asked".to_owned()));
        assert_eq!(read(Value::Nil), Some("asked".to_owned()));
        assert_eq!(read(text("?")), None);
    }
}
