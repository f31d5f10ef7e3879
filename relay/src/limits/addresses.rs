//! Whom a limit is counted for: one IPv4 address, or one network of 64 bits of IPv6, as providers give them to one
//! customer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Of an IPv6 address, what tells one customer from another.
const IPV6_MASK: u128 = !0 << 64;

/// The well-known prefix of addresses that stand for an IPv4 address (RFC 6052 §2.1): behind it is not one customer
/// but all of IPv4.
const TRANSLATED: u128 = 0x0064_ff9b << 96;

/// Where connections come from, as far as limits tell them apart.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// Of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) if address.to_bits() >> 32 == TRANSLATED >> 32 => {
                let [.., a, b, c, d] = address.octets();
                Ipv4Addr::new(a, b, c, d).into()
            }
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_MASK).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(formatter),
            IpAddr::V6(address) => write!(formatter, "{address}/64"),
        }
    }
}

/// Whether one of the networks has the address, however it is written.
pub(crate) fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_an_ipv4_address_or_a_network_of_ipv6() {
        for (address, origin) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("64:ff9b::c000:201", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Origin::of(address).to_string(), origin);
        }
    }

    #[test]
    fn networks_hold_mapped_addresses_too() {
        let networks = ["192.0.2.0/24".parse().unwrap(), "::1/128".parse().unwrap()];
        for (address, expected) in [
            ("192.0.2.77", true),
            ("::ffff:192.0.2.77", true),
            ("192.0.3.1", false),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(is_within(&networks, address.parse().unwrap()), expected);
        }
        assert!(!is_within(&[], "::1".parse().unwrap()));
    }
}
