//! The blocks, as rows. The first row that contains an address decides, so an exception stands before
//! the block it is taken from.
//!
//! Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries with their multicast, global
//! unicast and Teredo neighbours, and the metadata addresses the cloud providers document. Blocks the
//! registries call globally reachable (AS112, AMT, the anycast addresses in `192.0.0.0/24`) are listed
//! too: infrastructure lives there, never a webhook receiver.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::AddressClass::{self, *};

/// Who can open a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Open unless the operator denies it.
    Always,
    /// Closed unless the operator allows it.
    ByOperator,
    /// Nobody.
    Never,
}

/// A block, what it is for, and who can open it.
pub(super) struct Block<Address> {
    network: Address,
    prefix: u8,
    pub(super) class: AddressClass,
    pub(super) opening: Opening,
}

impl Block<Ipv4Addr> {
    pub(super) fn contains(&self, ip: Ipv4Addr) -> bool {
        same_prefix_32(self.network, ip, self.prefix)
    }

    /// First and last address.
    #[cfg(test)]
    pub(super) fn ends(&self) -> (Ipv4Addr, Ipv4Addr) {
        let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        (
            self.network,
            Ipv4Addr::from_bits(self.network.to_bits() | host),
        )
    }
}

impl Block<Ipv6Addr> {
    pub(super) fn contains(&self, ip: Ipv6Addr) -> bool {
        same_prefix_128(self.network, ip, self.prefix)
    }

    /// First and last address.
    #[cfg(test)]
    pub(super) fn ends(&self) -> (Ipv6Addr, Ipv6Addr) {
        let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        (
            self.network,
            Ipv6Addr::from_bits(self.network.to_bits() | host),
        )
    }
}

/// Whether two addresses agree in their first `prefix` bits, 0 to 32.
pub(super) fn same_prefix_32(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    let differing = a.to_bits() ^ b.to_bits();
    differing.leading_zeros() >= u32::from(prefix)
}

/// Whether two addresses agree in their first `prefix` bits, 0 to 128.
pub(super) fn same_prefix_128(a: Ipv6Addr, b: Ipv6Addr, prefix: u8) -> bool {
    let differing = a.to_bits() ^ b.to_bits();
    differing.leading_zeros() >= u32::from(prefix)
}

const fn v4(octets: [u8; 4], prefix: u8, class: AddressClass, opening: Opening) -> Block<Ipv4Addr> {
    let [a, b, c, d] = octets;
    Block {
        network: Ipv4Addr::new(a, b, c, d),
        prefix,
        class,
        opening,
    }
}

const fn v6(
    segments: [u16; 8],
    prefix: u8,
    class: AddressClass,
    opening: Opening,
) -> Block<Ipv6Addr> {
    let [a, b, c, d, e, f, g, h] = segments;
    Block {
        network: Ipv6Addr::new(a, b, c, d, e, f, g, h),
        prefix,
        class,
        opening,
    }
}

/// Everything in IPv4 that is not public. What no row contains is [`AddressClass::Global`].
#[rustfmt::skip]
pub(super) const IPV4_BLOCKS: &[Block<Ipv4Addr>] = &[
    v4([168,  63, 129,  16], 32, Metadata,         Opening::Never), // Azure; looks public
    v4([100, 100, 100, 200], 32, Metadata,         Opening::Never), // Alibaba Cloud
    v4([  0,   0,   0,   0],  8, ThisHost,         Opening::Never),
    v4([ 10,   0,   0,   0],  8, Private,          Opening::ByOperator),
    v4([100,  64,   0,   0], 10, CarrierGradeNat,  Opening::ByOperator),
    v4([127,   0,   0,   0],  8, Loopback,         Opening::ByOperator),
    v4([169, 254,   0,   0], 16, LinkLocal,        Opening::Never),
    v4([172,  16,   0,   0], 12, Private,          Opening::ByOperator),
    v4([192,   0,   0,   0], 24, IetfProtocol,     Opening::Never), // Oracle Cloud's metadata is 192.0.0.192
    v4([192,   0,   2,   0], 24, Documentation,    Opening::ByOperator),
    v4([192,  31, 196,   0], 24, As112,            Opening::ByOperator),
    v4([192,  52, 193,   0], 24, MulticastTunnel,  Opening::ByOperator),
    v4([192,  88,  99,   0], 24, SixToFour,        Opening::Never), // relays of 6to4 and 6a44
    v4([192, 168,   0,   0], 16, Private,          Opening::ByOperator),
    v4([192, 175,  48,   0], 24, As112,            Opening::ByOperator),
    v4([198,  18,   0,   0], 15, Benchmarking,     Opening::ByOperator),
    v4([198,  51, 100,   0], 24, Documentation,    Opening::ByOperator),
    v4([203,   0, 113,   0], 24, Documentation,    Opening::ByOperator),
    v4([224,   0,   0,   0],  4, Multicast,        Opening::Never),
    v4([255, 255, 255, 255], 32, Broadcast,        Opening::Never),
    v4([240,   0,   0,   0],  4, Reserved,         Opening::ByOperator),
];

/// What there is in IPv6, the public block last. What no row contains is unallocated and closed. The
/// mapped block `::ffff:0:0/96` is missing because its addresses have become IPv4 before anybody looks
/// here; ISATAP is missing because it is an interface identifier, not a block.
#[rustfmt::skip]
pub(super) const IPV6_BLOCKS: &[Block<Ipv6Addr>] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0],           128, ThisHost,       Opening::Never),
    v6([0, 0, 0, 0, 0, 0, 0, 1],           128, Loopback,       Opening::ByOperator),
    v6([0, 0, 0, 0, 0, 0, 0, 0],            96, Ipv4Compatible, Opening::Never),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0],       96, Ipv4Translated, Opening::Never),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0],    96, Nat64,          Opening::ByOperator),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0],    48, LocalNat64,     Opening::Never),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0],        64, Discard,        Opening::ByOperator),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0],        64, Discard,        Opening::ByOperator),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0],       32, Teredo,         Opening::Never),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0],       48, Benchmarking,   Opening::ByOperator),
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0],   48, As112,          Opening::ByOperator),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0],       23, IetfProtocol,   Opening::ByOperator), // ORCHID, AMT, DRIP, anycast
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0],   32, Documentation,  Opening::ByOperator),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0],       16, SixToFour,      Opening::Never),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, As112,        Opening::ByOperator),
    v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0],       16, Reserved,       Opening::ByOperator), // the retired 6bone
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0],       20, Documentation,  Opening::ByOperator),
    v6([0x2000, 0, 0, 0, 0, 0, 0, 0],        3, Global,         Opening::Always),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0],       16, SegmentRouting, Opening::ByOperator),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0],   32, Metadata,       Opening::Never), // Amazon
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Metadata,     Opening::Never), // Google
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, Metadata, Opening::Never), // Oracle
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0],        7, UniqueLocal,    Opening::ByOperator),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0],       10, LinkLocal,      Opening::Never),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0],       10, SiteLocal,      Opening::ByOperator),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0],        8, Multicast,      Opening::Never),
];
