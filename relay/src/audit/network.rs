//! The network of an address, as far as one site reaches: what a login vouches for, and what refusals are summed by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Octets 1 to 3 of an IPv4 address, the first 56 bits of an IPv6 one: what a provider gives to one customer or to
/// neighbours of one line, whose address may be another tomorrow.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network(IpAddr);

/// Bits of a [`Network`] of IPv4.
const BITS_V4: u8 = 24;
/// Bits of a [`Network`] of IPv6 (RFC 6177: what a home or small site is given).
const BITS_V6: u8 = 56;

impl Network {
    /// The network of an address; IPv4 in IPv6 is IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => {
                Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - BITS_V4))).into()
            }
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - BITS_V6))).into()
            }
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.0.is_ipv4() { BITS_V4 } else { BITS_V6 };
        write!(f, "{}/{bits}", self.0)
    }
}

impl FromStr for Network {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::of(text.parse::<IpNet>()?.network()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_of_one_network() {
        for (address, expected) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.0/24"),
            ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
            ("2001:db8:1:300::1", "2001:db8:1:300::/56"),
        ] {
            let network = Network::of(address.parse().unwrap());
            assert_eq!(network.to_string(), expected);
            assert_eq!(expected.parse::<Network>().unwrap(), network);
        }
    }
}
