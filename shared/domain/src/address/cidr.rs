//! Address blocks as operators write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::blocks::{same_prefix_32, same_prefix_128};

/// A block of addresses in one family, such as `10.0.0.0/8`. A bare address is a block of one.
///
/// An own type because the usual ones let a careless line open too much: here host bits must be zero,
/// a mapped block such as `::ffff:10.0.0.0/104` means the IPv4 block it stands for, and a mapped block
/// that would be all of IPv4 is refused rather than understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Whether the block contains an address of its own family. Compare canonical addresses only:
    /// [`super::classify`] sees to that.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => same_prefix_32(network, ip, self.prefix),
            (IpAddr::V6(network), IpAddr::V6(ip)) => same_prefix_128(network, ip, self.prefix),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The text is not an address block. The message names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    /// The part before the slash.
    #[error("\"{0}\" is not an IPv4 or IPv6 address")]
    Address(String),
    /// The part behind the slash.
    #[error("\"{text}\" is not a prefix length from 0 to {longest}")]
    Prefix {
        /// What stands there.
        text: String,
        /// The longest prefix of the family.
        longest: u8,
    },
    /// The address reaches into the host part, so the line means less than its writer believes.
    #[error("has bits set behind the prefix; the block that contains it is {0}")]
    HostBits(Cidr),
    /// `::ffff:0:0/96`.
    #[error("would be all of IPv4; write 0.0.0.0/0 if that is meant")]
    MappedAllOfIpv4,
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = address
            .parse()
            .map_err(|_| ParseCidrError::Address(address.to_owned()))?;
        let longest = match ip {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let prefix = match prefix {
            Some(prefix) => parse_prefix(prefix, longest)?,
            None => longest,
        };

        let network = masked(ip, prefix);
        if network != ip {
            return Err(ParseCidrError::HostBits(unmapped(network, prefix)?));
        }
        unmapped(network, prefix)
    }
}

fn parse_prefix(text: &str, longest: u8) -> Result<u8, ParseCidrError> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|prefix| digits_only && canonical && *prefix <= longest)
        .ok_or_else(|| ParseCidrError::Prefix {
            text: text.to_owned(),
            longest,
        })
}

fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

/// Turns a mapped block into the IPv4 block it stands for. A network inside the mapped block always
/// has a prefix of at least 96 bits, because shorter ones leave the marker `ffff` in the host part.
fn unmapped(network: IpAddr, prefix: u8) -> Result<Cidr, ParseCidrError> {
    let mapped = match network {
        IpAddr::V4(_) => None,
        IpAddr::V6(network) => network.to_ipv4_mapped(),
    };
    match mapped {
        None => Ok(Cidr { network, prefix }),
        Some(_) if prefix <= 96 => Err(ParseCidrError::MappedAllOfIpv4),
        Some(network) => Ok(Cidr {
            network: IpAddr::V4(network),
            prefix: prefix - 96,
        }),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A list of blocks, written with commas between them. The empty text is the empty list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cidrs(Vec<Cidr>);

impl Cidrs {
    /// Whether any block contains the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|cidr| cidr.contains(ip))
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Cidr> for Cidrs {
    fn from_iter<I: IntoIterator<Item = Cidr>>(cidrs: I) -> Self {
        Self(cidrs.into_iter().collect())
    }
}

impl FromStr for Cidrs {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|cidr| cidr.trim().parse()).collect()
    }
}

impl fmt::Display for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cidr) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{cidr}")?;
        }
        Ok(())
    }
}
