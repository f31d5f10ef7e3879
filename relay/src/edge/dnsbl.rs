//! Lists of hosts that nobody wants mail from (DNSBL, RFC 5782): asked when a client connects, all at once, beside the dialogue.
//!
//! A host is listed when a list answers with an address of 127.0.0.0/8. A list that cannot be asked lists nobody, and so does one
//! that answers with an address of 127.255.255.0/24, by which the large ones say that they do not answer this resolver.

use std::net::{IpAddr, Ipv4Addr};

use atrn_shared::smtp::address::Domain;
use atrn_shared::smtp::reply::Reply;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::names::{Answer, Names};

/// Characters of a list's reason that a client is told.
const REASON_CHARACTERS: usize = 200;

/// The look-ups about one client, under way.
#[derive(Debug)]
pub(super) struct Listings {
    until: Instant,
    asked: JoinSet<Option<Listing>>,
    address: IpAddr,
    found: Option<Listing>,
}

/// Who lists a client, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Listing {
    zone: Domain,
    reason: Option<String>,
}

impl Listings {
    /// Asks every list. Must be called within a runtime.
    pub(super) fn look_up(names: &Names, zones: &[Domain], address: IpAddr) -> Self {
        let address = address.to_canonical();
        let mut asked = JoinSet::new();
        if !names.is_off() {
            for zone in zones {
                asked.spawn(listing(names.clone(), zone.clone(), address));
            }
        }
        Self {
            until: Instant::now() + names.limit(),
            asked,
            address,
            found: None,
        }
    }

    /// The refusal of a client that is listed. It is waited for as long as look-ups may take since it connected.
    pub(super) async fn refusal(&mut self) -> Option<Reply> {
        while self.found.is_none()
            && let Ok(Some(answer)) = timeout_at(self.until, self.asked.join_next()).await
        {
            // A task that was lost lists nobody.
            self.found = answer.ok().flatten();
        }
        // Nobody waits for the others.
        self.asked.abort_all();
        self.found
            .as_ref()
            .map(|listing| listing.refusal(self.address))
    }
}

impl Listing {
    fn refusal(&self, address: IpAddr) -> Reply {
        let zone = &self.zone;
        let text = match &self.reason {
            Some(reason) => format!("Your address {address} is listed by {zone}: {reason}"),
            None => format!("Your address {address} is listed by {zone}"),
        };
        Reply::new(554, "5.7.1", text)
    }
}

async fn listing(names: Names, zone: Domain, address: IpAddr) -> Option<Listing> {
    let name = name_in(&zone, address);
    let Answer::Found(addresses) = names.addresses(&name).await else {
        return None;
    };
    if !is_listing(&addresses) {
        if addresses.iter().any(|address| is_error(*address)) {
            warn!(%zone, "the list does not answer this resolver; it lists nobody until it does");
        }
        return None;
    }
    let reason = match names.txt(&name).await {
        Answer::Found(texts) => texts.first().map(|text| plain(text)),
        Answer::Absent | Answer::Trouble(_) => None,
    };
    Some(Listing { zone, reason })
}

/// RFC 5782 §2.1.
fn is_listing(addresses: &[IpAddr]) -> bool {
    let mut addresses = addresses.iter();
    addresses.any(|address| address.is_loopback() && address.is_ipv4() && !is_error(*address))
}

fn is_error(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..3] == [127, 255, 255])
}

/// The octets of the address, or the half octets of one of IPv6, the last one first (RFC 5782 §2.1, §2.4).
fn name_in(zone: &Domain, address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = Ipv4Addr::octets(&address);
            format!("{d}.{c}.{b}.{a}.{zone}")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let halves = octets
                .iter()
                .rev()
                .flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: Vec<_> = halves.map(|half| format!("{half:x}")).collect();
            format!("{}.{zone}", labels.join("."))
        }
    }
}

/// What stands in a reply: printable ASCII, in one line.
fn plain(text: &[u8]) -> String {
    let text = text.iter().take(REASON_CHARACTERS);
    text.map(|octet| match octet {
        b' '..=b'~' => char::from(*octet),
        _ => '?',
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_list_do() {
        for (answer, expected) in [
            (&["127.0.0.2"][..], true),
            (&["127.0.0.1"], true),
            (&["192.0.2.1", "127.1.2.3"], true),
            (&["192.0.2.1"], false),
            (&["::1"], false),
            (&["127.255.255.254"], false),
            (&["127.255.255.254", "127.0.0.4"], true),
            (&[], false),
        ] {
            let addresses: Vec<IpAddr> = answer.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(is_listing(&addresses), expected, "{answer:?}");
        }
    }

    #[test]
    fn addresses_are_asked_for_backwards() {
        let zone = Domain::parse("zen.example").unwrap();
        let name = |address: &str| name_in(&zone, address.parse().unwrap());
        assert_eq!(name("192.0.2.99"), "99.2.0.192.zen.example");
        assert_eq!(
            name("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.zen.example"
        );
    }

    #[test]
    fn a_reason_is_one_plain_line() {
        let listing = Listing {
            zone: Domain::parse("zen.example").unwrap(),
            reason: Some(plain(b"see\r\n250 ok \xff \x1b[2J")),
        };
        let reply = listing.refusal("192.0.2.1".parse().unwrap());
        assert_eq!(
            reply.to_string(),
            "554 5.7.1 Your address 192.0.2.1 is listed by zen.example: see??250 ok ? ?[2J"
        );
        assert!(plain(&[b'x'; 5_000]).len() <= REASON_CHARACTERS);
    }
}
