//! What things are called in Redis. No other module, and no other crate, writes a key's name.

use std::fmt;

use uuid::Uuid;
use zyven_domain::id::EndpointId;

/// The names of one shard's keys. They share the hash tag `{zN}`, hence a slot of a Redis Cluster.
pub(crate) struct Shard {
    pub(crate) epoch: String,
    pub(crate) ring: String,
    pub(crate) leased: String,
    pub(crate) in_flight: String,
    pub(crate) bell: String,
    pub(crate) lane_prefix: String,
}

impl Shard {
    pub(crate) fn new(index: u16) -> Self {
        let name = |key: &str| format!("{{z{index}}}:{key}");
        Self {
            epoch: name("epoch"),
            ring: name("ring"),
            leased: name("leased"),
            in_flight: name("in_flight"),
            bell: name("bell"),
            lane_prefix: name("lane:"),
        }
    }

    /// The keys every script gets, in the order in which the scripts list them.
    pub(crate) fn script_keys(&self) -> [&str; 5] {
        [
            &self.epoch,
            &self.ring,
            &self.leased,
            &self.in_flight,
            &self.bell,
        ]
    }
}

/// A lane's name: the endpoint's id as 32 hexadecimal digits.
pub(crate) struct LaneName(pub(crate) EndpointId);

impl LaneName {
    /// Reads back what Redis returned; `None` for a name this crate did not write.
    pub(crate) fn parse(name: &[u8]) -> Option<EndpointId> {
        Uuid::try_parse_ascii(name).ok().map(EndpointId::from_uuid)
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.uuid().as_simple().fmt(f)
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
        let endpoint = EndpointId::new();
        let name = LaneName(endpoint).to_string();
        assert_eq!(name.len(), 32);
        assert_eq!(LaneName::parse(name.as_bytes()), Some(endpoint));
        assert_eq!(LaneName::parse(b"somebody else's"), None);
    }

    #[test]
    fn all_keys_of_a_shard_share_one_hash_tag() {
        let shard = Shard::new(7);
        for key in shard
            .script_keys()
            .into_iter()
            .chain([shard.lane_prefix.as_str()])
        {
            assert!(key.starts_with("{z7}:"), "{key}");
        }
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
