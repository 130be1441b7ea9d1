//! What things are called in Redis. No other module, and no other crate, writes a key's name.

use std::fmt;

use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};

use crate::Lane;

/// What all keys of one generation of scripts have in their names. Programs with another one may run beside
/// this one during an upgrade: each finds its own keys only, an epoch among them, and whichever relay
/// leads gives everything a ticket in its own. To be changed with the meaning of any key.
const LAYOUT: &str = "v2";

/// The names of one shard's keys. They share the hash tag `{zN}`, hence a slot of a Redis Cluster.
pub(crate) struct Shard {
    pub(crate) index: usize,
    pub(crate) epoch: String,
    pub(crate) tenants: [String; 2],
    pub(crate) leased: String,
    pub(crate) in_flight: String,
    pub(crate) bell: String,
    pub(crate) lead_bell: String,
    pub(crate) settings: String,
    pub(crate) retry_credit: String,
    /// What the keys of one tenant, lane or ordering key begin with.
    pub(crate) prefix: String,
}

impl Shard {
    pub(crate) fn new(index: u16) -> Self {
        let name = |key: &str| format!("{{z{index}}}:{LAYOUT}:{key}");
        Self {
            index: usize::from(index),
            epoch: name("epoch"),
            tenants: [name("fresh_tenants"), name("retries_tenants")],
            leased: name("leased"),
            in_flight: name("in_flight"),
            bell: name("bell"),
            lead_bell: name("lead_bell"),
            settings: name("settings"),
            retry_credit: name("retry_credit"),
            prefix: name(""),
        }
    }

    /// What decides about the slot of all its keys.
    pub(crate) fn hash_tag(&self) -> String {
        format!("z{}", self.index)
    }

    /// The keys every script gets, in the order in which the scripts list them.
    pub(crate) fn script_keys(&self) -> [&str; 8] {
        [
            &self.epoch,
            &self.tenants[0],
            &self.tenants[1],
            &self.leased,
            &self.in_flight,
            &self.bell,
            &self.settings,
            &self.retry_credit,
        ]
    }

    /// The tickets of a lane: fresh ones, retries.
    pub(crate) fn tickets(&self, lane: &str) -> [String; 2] {
        ["fresh", "retries"].map(|class| format!("{}{class}:{lane}", self.prefix))
    }

    /// What a lane has learned of its endpoint.
    pub(crate) fn state(&self, lane: &str) -> String {
        format!("{}state:{lane}", self.prefix)
    }

    /// The sequence numbers of a lane that have this ordering key.
    pub(crate) fn chain(&self, lane: &str, ordering_key: i64) -> String {
        format!("{}chain:{lane}:{ordering_key:x}", self.prefix)
    }

    /// The lanes of a tenant that can be served: for fresh tickets, for retries.
    pub(crate) fn lanes(&self, tenant: &str) -> [String; 2] {
        ["fresh", "retries"].map(|class| format!("{}{class}_lanes:{tenant}", self.prefix))
    }
}

/// Digits of an id in a key.
pub(crate) const ID_LENGTH: usize = 32;

/// A lane's name: the tenant's id and the endpoint's, 32 hexadecimal digits each.
pub(crate) struct LaneName(pub(crate) Lane);

impl LaneName {
    /// Reads back what Redis returned; `None` for a name this crate did not write.
    pub(crate) fn parse(name: &[u8]) -> Option<Lane> {
        let (tenant, endpoint) = name.split_at_checked(ID_LENGTH)?;
        Some(Lane {
            tenant_id: TenantId::from_uuid(Uuid::try_parse_ascii(tenant).ok()?),
            endpoint_id: EndpointId::from_uuid(Uuid::try_parse_ascii(endpoint).ok()?),
        })
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tenant_id.uuid().as_simple().fmt(f)?;
        self.0.endpoint_id.uuid().as_simple().fmt(f)
    }
}

/// A ticket's name: its sequence number, and its ordering key if it has one.
pub(crate) struct TicketName {
    pub(crate) seq: i64,
    pub(crate) ordering_key: i64,
}

impl TicketName {
    /// Reads back what Redis returned; `None` for a name this crate did not write.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        let name = str::from_utf8(name).ok()?;
        let (seq, ordering_key) = match name.split_once('@') {
            None => (name, 0),
            Some((seq, key)) => (seq, i64::from_str_radix(key, 16).ok()?),
        };
        Some(Self {
            seq: seq.parse().ok()?,
            ordering_key,
        })
    }
}

impl fmt::Display for TicketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ordering_key {
            0 => write!(f, "{}", self.seq),
            key => write!(f, "{}@{key:x}", self.seq),
        }
    }
}

/// The shard of an endpoint. The low half of a UUIDv7 is chance, so its rest is evenly spread.
pub(crate) fn shard_index(endpoint_id: EndpointId, shards: usize) -> usize {
    let (_, chance) = endpoint_id.uuid().as_u64_pair();
    // The top two bits are the variant, always the same.
    usize::try_from((chance & 0xffff_ffff) % shards as u64).expect("less than the number of shards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_name_survives_its_text_form() {
        let lane = Lane {
            tenant_id: TenantId::new(),
            endpoint_id: EndpointId::new(),
        };
        let name = LaneName(lane).to_string();
        assert_eq!(name.len(), 2 * ID_LENGTH);
        assert_eq!(LaneName::parse(name.as_bytes()), Some(lane));
        assert_eq!(LaneName::parse(b"somebody else's"), None);
    }

    #[test]
    fn a_ticket_name_survives_its_text_form() {
        for (seq, ordering_key, text) in [
            (7, 0, "7"),
            (7, 255, "7@ff"),
            (i64::MAX, i64::MAX, "9223372036854775807@7fffffffffffffff"),
        ] {
            let name = TicketName { seq, ordering_key }.to_string();
            assert_eq!(name, text);
            let parsed = TicketName::parse(name.as_bytes()).unwrap();
            assert_eq!((parsed.seq, parsed.ordering_key), (seq, ordering_key));
        }
        for wrong in ["", "x", "7@", "7@g", "@1", "7@1@1"] {
            assert!(TicketName::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn all_keys_of_a_shard_share_one_hash_tag() {
        let shard = Shard::new(7);
        for key in shard
            .script_keys()
            .into_iter()
            .chain([shard.prefix.as_str()])
        {
            assert!(key.starts_with("{z7}:v2:"), "{key}");
        }
        assert_eq!(shard.hash_tag(), "z7");
    }

    #[test]
    fn endpoints_spread_over_all_shards() {
        let mut counts = [0_u32; 4];
        for _ in 0..4_000 {
            counts[shard_index(EndpointId::new(), 4)] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }
}
