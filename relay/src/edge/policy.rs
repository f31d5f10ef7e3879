//! Whether a recipient is ours: a pure decision on the settings in force.

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::reply::Reply;

use crate::config::{Authentication, DomainConfig, RelayConfig};
use crate::queue::Found;

/// The configured domain that mail for this recipient is held for.
///
/// `<Postmaster>` without a domain is for whoever runs this host (RFC 5321 §4.5.1): it goes to the domain
/// that the host's own name lies in, else to the first one.
///
/// # Errors
/// The refusal. It is permanent, and the same for a foreign domain, a subdomain and an address literal:
/// a relay that is not open never says "later" to them (R5321-8).
pub(crate) fn recipient(config: &RelayConfig, path: &ForwardPath) -> Result<Domain, Reply> {
    let denied = || {
        Reply::new(
            550,
            "5.7.1",
            "Relaying denied: this host takes mail for its own domains only",
        )
    };
    match path {
        ForwardPath::Postmaster => postmaster_domain(config).ok_or_else(denied),
        ForwardPath::Mailbox(mailbox) => {
            let domain = mailbox.domain().ok_or_else(denied)?;
            config
                .domain(domain)
                .map(|domain| domain.name.clone())
                .ok_or_else(denied)
        }
    }
}

/// Whether a domain that has so much in the queue may get a message of so many octets more.
///
/// # Errors
/// The refusal: the sender keeps the message and comes back.
pub(crate) fn room(domain: &DomainConfig, held: Found, octets: u64) -> Result<(), Reply> {
    let fits = held.bytes.saturating_add(octets) <= domain.max_queue_size
        && held.messages < domain.max_queue_messages;
    let refusal = || {
        Reply::new(
            452,
            "4.2.2",
            "Too much mail waits for this domain, try again later",
        )
    };
    fits.then_some(()).ok_or_else(refusal)
}

/// Whether a message for `others` may also be for `domain`. There is one reply to a message, so a domain that refuses what
/// its sender disowns shares none with a domain that wants to have it all.
///
/// # Errors
/// As for too many recipients: the sender makes a message of its own of it (RFC 5321 §4.5.3.1.10).
pub(crate) fn may_share<'d>(
    config: &RelayConfig,
    domain: &Domain,
    mut others: impl Iterator<Item = &'d Domain>,
) -> Result<(), Reply> {
    let refuses = |domain: &Domain| {
        let domain = config.domain(domain);
        domain.is_some_and(|domain| domain.authentication == Authentication::Enforce)
    };
    let is_same = others
        .next()
        .is_none_or(|other| refuses(other) == refuses(domain));
    let refusal = || {
        Reply::new(
            452,
            "4.5.3",
            "This recipient needs a message of its own, send it again",
        )
    };
    is_same.then_some(()).ok_or_else(refusal)
}

/// The domain of the sender, if it has one.
pub(crate) fn sender(path: &ReversePath) -> Option<&Domain> {
    match path {
        ReversePath::Mailbox(mailbox) => mailbox.domain(),
        ReversePath::Null => None,
    }
}

/// How far a quota is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fill {
    /// A message that does not fit is a big one.
    Roomy,
    /// More than nine tenths: what is refused is refused because much waits.
    Full,
}

/// Tells a quota that is used up from a message that would not fit into most: only the first is news, and small mail
/// that still fits between refusals is none.
pub(crate) fn fill(domain: &DomainConfig, held: Found) -> Fill {
    let is_high = |part: u64, whole: u64| u128::from(part) * 10 > u128::from(whole) * 9;
    let is_full = is_high(held.bytes, domain.max_queue_size)
        || is_high(held.messages, domain.max_queue_messages);
    if is_full { Fill::Full } else { Fill::Roomy }
}

fn postmaster_domain(config: &RelayConfig) -> Option<Domain> {
    let host = config.hostname.as_str();
    let is_around_host = |domain: &Domain| {
        host.strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let mut domains = config.domains.iter().map(|domain| &domain.name);
    let own = domains.clone().find(|domain| is_around_host(domain));
    own.or_else(|| domains.next()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[track_caller]
    fn decide(path: &str) -> Result<String, u16> {
        let config = config(
            "hostname = \"mx.b.example\"\n[[domain]]\nname = \"a.example\"\n[[domain]]\nname = \"b.example\"\n[[domain]]\nname = \"xn--bcher-kva.example\"\n",
        );
        let path = ForwardPath::from_address(path).unwrap();
        recipient(&config, &path)
            .map(|domain| domain.to_string())
            .map_err(|reply| reply.code())
    }

    // covers: R5321-8, R6531-1
    #[test]
    fn only_configured_domains_are_ours() {
        for (path, expected) in [
            ("user@a.example", Ok("a.example")),
            ("user@A.EXAMPLE", Ok("a.example")),
            ("user@bücher.example", Ok("xn--bcher-kva.example")),
            ("user@sub.a.example", Err(550)),
            ("user@example", Err(550)),
            ("user@aa.example", Err(550)),
            ("user@[192.0.2.1]", Err(550)),
            ("postmaster@c.example", Err(550)),
        ] {
            assert_eq!(decide(path), expected.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn a_domain_holds_so_much_and_no_more() {
        let config = config(
            "hostname = \"mx.example\"\n[[domain]]\nname = \"a.example\"\nmax_queue_size = \"1000B\"\nmax_queue_messages = 3\n",
        );
        for (messages, bytes, octets, fits) in [
            (0, 0, 0, true),
            (0, 0, 1_000, true),
            (0, 0, 1_001, false),
            (2, 990, 10, true),
            (2, 990, 11, false),
            (3, 0, 0, false),
            (0, 1_001, 0, false),
            (0, 0, u64::MAX, false),
        ] {
            let held = Found { messages, bytes };
            let answer = room(&config.domains[0], held, octets);
            assert_eq!(answer.is_ok(), fits, "{messages} {bytes} {octets}");
            assert!(answer.err().is_none_or(|reply| reply.code() == 452));
        }
    }

    #[test]
    fn a_quota_is_full_when_little_of_it_is_left() {
        let config = config(
            "hostname = \"mx.example\"\n[[domain]]\nname = \"a.example\"\nmax_queue_size = \"1000B\"\nmax_queue_messages = 3\n",
        );
        for (messages, bytes, expected) in [
            (0, 0, Fill::Roomy),
            (2, 900, Fill::Roomy),
            (2, 901, Fill::Full),
            (3, 0, Fill::Full),
            (u64::MAX, u64::MAX, Fill::Full),
        ] {
            let held = Found { messages, bytes };
            assert_eq!(
                fill(&config.domains[0], held),
                expected,
                "{messages} {bytes}"
            );
        }
    }

    #[test]
    fn who_refuses_shares_no_message_with_who_does_not() {
        let config = config(
            "hostname = \"mx.example\"\n\
             [[domain]]\nname = \"a.example\"\n[[domain]]\nname = \"o.example\"\nauthentication = \"off\"\n\
             [[domain]]\nname = \"e.example\"\nauthentication = \"enforce\"\n\
             [[domain]]\nname = \"f.example\"\nauthentication = \"enforce\"\n",
        );
        let domain = |name: &str| Domain::parse(name).unwrap();
        for (others, name, may) in [
            (&[][..], "e.example", true),
            (&["a.example"], "o.example", true),
            (&["e.example"], "f.example", true),
            (&["e.example"], "e.example", true),
            (&["a.example"], "e.example", false),
            (&["e.example", "f.example"], "o.example", false),
        ] {
            let others: Vec<_> = others.iter().map(|name| domain(name)).collect();
            let answer = may_share(&config, &domain(name), others.iter());
            assert_eq!(answer.is_ok(), may, "{others:?} {name}");
            assert!(answer.err().is_none_or(|reply| reply.code() == 452));
        }
    }

    // covers: R5321-9
    #[test]
    fn postmaster_without_domain_reaches_who_runs_the_host() {
        assert_eq!(decide("Postmaster"), Ok("b.example".into()));
        assert_eq!(decide("POSTMASTER@a.example"), Ok("a.example".into()));
    }
}
