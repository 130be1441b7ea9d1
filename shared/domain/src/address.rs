//! Which addresses a delivery may go to. Pure: the caller resolves names and opens sockets.
//!
//! An endpoint's owner chooses where Zyven connects, and Zyven stands inside somebody's network. So
//! everything that is not a public unicast address is denied unless the operator opened it:
//!
//! - **IPv4** is public except for the blocks of the IANA special-purpose registry.
//! - **IPv6** is the other way round: only `2000::/3` is public, minus its special blocks.
//! - **An IPv6 address that carries an IPv4 address** is read as what it carries. The mapped form
//!   becomes that IPv4 address, NAT64's well-known prefix can be opened by the operator if the address
//!   inside passes as well, and every other form (compatible, translated, 6to4, Teredo, ISATAP, local
//!   NAT64) is denied for good.
//! - **Cloud metadata services stay closed** whatever the operator's lists say, and so does
//!   everything that is no unicast destination at all.
//!
//! [`classify`] is the only way to get a [`Vetted`] address, and the proxy's dialer takes nothing
//! else. The predicates of the standard library are not used: they are unstable in part, and they
//! call a mapped loopback address global.

mod blocks;
mod cidr;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blocks::{IPV4_BLOCKS, IPV6_BLOCKS, Opening};
pub use cidr::{Cidr, Cidrs, ParseCidrError};

/// What an address is for, as far as delivering to it is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Public unicast: anybody may be there.
    Global,
    /// `0.0.0.0/8` and `::`. Connecting to it reaches this very host on most systems.
    ThisHost,
    /// `127.0.0.0/8` and `::1`.
    Loopback,
    /// RFC 1918.
    Private,
    /// Shared address space behind carrier-grade NAT, RFC 6598.
    CarrierGradeNat,
    /// `fc00::/7`, IPv6's private addresses.
    UniqueLocal,
    /// `fec0::/10`, what unique local addresses replaced.
    SiteLocal,
    /// `169.254.0.0/16` and `fe80::/10`; most clouds serve instance credentials here.
    LinkLocal,
    /// An address outside the link-local blocks at which a cloud serves instance metadata.
    Metadata,
    /// Blocks the IETF keeps for protocols, such as `192.0.0.0/24` and `2001::/23`.
    IetfProtocol,
    /// Addresses for use in examples.
    Documentation,
    /// Measuring network equipment.
    Benchmarking,
    /// Anycast sinks for reverse look-ups of private addresses.
    As112,
    /// Automatic multicast tunnelling, `192.52.193.0/24`.
    MulticastTunnel,
    /// One to many.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// `240.0.0.0/4`, retired blocks, and IPv6 that nobody allocated.
    Reserved,
    /// `100::/64` and its neighbour: packets are dropped.
    Discard,
    /// `5f00::/16`, segment identifiers.
    SegmentRouting,
    /// `::a.b.c.d`, deprecated.
    Ipv4Compatible,
    /// `::ffff:0:a.b.c.d`, stateless translation.
    Ipv4Translated,
    /// `64:ff9b::/96`, the well-known prefix of NAT64.
    Nat64,
    /// `64:ff9b:1::/48`, NAT64 with a layout only its operator knows.
    LocalNat64,
    /// `2002::/16`.
    SixToFour,
    /// `2001::/32`.
    Teredo,
    /// An interface identifier that embeds an IPv4 address, RFC 5214.
    Isatap,
}

impl AddressClass {
    /// The name used in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::ThisHost => "this_host",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::CarrierGradeNat => "carrier_grade_nat",
            Self::UniqueLocal => "unique_local",
            Self::SiteLocal => "site_local",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::IetfProtocol => "ietf_protocol",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::As112 => "as112",
            Self::MulticastTunnel => "multicast_tunnel",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
            Self::Discard => "discard",
            Self::SegmentRouting => "segment_routing",
            Self::Ipv4Compatible => "ipv4_compatible",
            Self::Ipv4Translated => "ipv4_translated",
            Self::Nat64 => "nat64",
            Self::LocalNat64 => "local_nat64",
            Self::SixToFour => "six_to_four",
            Self::Teredo => "teredo",
            Self::Isatap => "isatap",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The operator's say over addresses.
///
/// An address is looked up in this order: what stays closed for good, `deny_cidrs`, `allow_cidrs`,
/// and last its class. The default opens and closes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Special-purpose blocks to open: the self-hoster's own network, loopback in a local stack.
    pub allow_cidrs: Cidrs,
    /// Public blocks to close, such as the operator's own ingress. Beats `allow_cidrs`.
    pub deny_cidrs: Cidrs,
}

/// An address that may be dialled. Only [`classify`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vetted {
    ip: IpAddr,
    class: AddressClass,
}

impl Vetted {
    /// The address in canonical form: a mapped IPv4 address has become IPv4.
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// [`AddressClass::Global`], or the class the operator opened.
    pub const fn class(self) -> AddressClass {
        self.class
    }
}

/// An address that must not be dialled. Says what kind of address it is, never which: this may end up
/// in front of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{reason} ({class})")]
pub struct Denied {
    /// What the address is for.
    pub class: AddressClass,
    /// The rule that closes it.
    pub reason: DenialReason,
}

/// The rule that closes an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DenialReason {
    /// No setting opens it.
    #[error("this kind of address is never delivered to")]
    ClosedForGood,
    /// It lies in one of the operator's `deny_cidrs`.
    #[error("the operator denies this address")]
    DenyList,
    /// It is not public, and no entry of `allow_cidrs` opens it.
    #[error("only public addresses are delivered to")]
    SpecialPurpose,
}

/// Decides whether an address may be dialled.
///
/// # Errors
///
/// [`Denied`] with the class of the address and the rule that closes it.
pub fn classify(ip: IpAddr, policy: &AddressPolicy) -> Result<Vetted, Denied> {
    let ip = canonical(ip);
    let (class, opening) = look_up(ip);
    let denied = |reason| Err(Denied { class, reason });

    if opening == Opening::Never {
        return denied(DenialReason::ClosedForGood);
    }
    if policy.deny_cidrs.contains(ip) {
        return denied(DenialReason::DenyList);
    }
    if opening == Opening::ByOperator && !policy.allow_cidrs.contains(ip) {
        return denied(DenialReason::SpecialPurpose);
    }
    if let (AddressClass::Nat64, IpAddr::V6(ip)) = (class, ip) {
        // The translator will connect to the address inside, so that one has to pass too: a NAT64
        // opened by the operator must not lead to a metadata service or into the private network.
        classify(IpAddr::V4(last_32_bits(ip)), policy)?;
    }
    Ok(Vetted { ip, class })
}

/// Turns the mapped form `::ffff:a.b.c.d` into the IPv4 address it stands for; a socket connected to
/// either speaks IPv4 to the same host.
fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
    }
}

/// The first matching row of the tables; they list exceptions before what they are exceptions to.
fn look_up(ip: IpAddr) -> (AddressClass, Opening) {
    match ip {
        IpAddr::V4(ip) => IPV4_BLOCKS
            .iter()
            .find(|block| block.contains(ip))
            .map_or((AddressClass::Global, Opening::Always), |block| {
                (block.class, block.opening)
            }),
        // The identifier may stand under any prefix, a public one included.
        IpAddr::V6(ip) if is_isatap(ip) => (AddressClass::Isatap, Opening::Never),
        IpAddr::V6(ip) => IPV6_BLOCKS
            .iter()
            .find(|block| block.contains(ip))
            .map_or((AddressClass::Reserved, Opening::ByOperator), |block| {
                (block.class, block.opening)
            }),
    }
}

/// RFC 5214, section 6.1: `0000:5efe` or, with the universal bit, `0200:5efe` before the IPv4 address.
fn is_isatap(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    segments[4] & !0x0200 == 0 && segments[5] == 0x5efe
}

fn last_32_bits(ip: Ipv6Addr) -> Ipv4Addr {
    let octets = ip.octets();
    Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15])
}

#[cfg(test)]
mod tests;
