//! Whether a recipient is ours: a pure decision on the settings in force.

use atrn_shared::smtp::address::{Domain, ForwardPath};
use atrn_shared::smtp::reply::Reply;

use crate::config::RelayConfig;

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

    // covers: R5321-9
    #[test]
    fn postmaster_without_domain_reaches_who_runs_the_host() {
        assert_eq!(decide("Postmaster"), Ok("b.example".into()));
        assert_eq!(decide("POSTMASTER@a.example"), Ok("a.example".into()));
    }
}
