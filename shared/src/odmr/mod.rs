//! On-Demand Mail Relay (RFC 2645) up to the reversal, without sockets: who provides and who asks.
//!
//! [`provider::Provider`] and [`customer::Customer`] end where `ATRN` is answered `250`; from there on the connection belongs to
//! [`crate::smtp::client`] on the provider's side and to [`crate::smtp::server`] on the customer's. Neither machine here has an event
//! that carries mail, so neither can take any.

pub mod customer;
pub mod provider;

use std::fmt;
use std::time::Duration;

use crate::smtp::address::Domain;

/// The port of RFC 2645 §7.
pub const PORT: u16 = 366;

/// How long a customer waits at least for the reply to ATRN (RFC 2645 §5.2.1, R2645-15).
pub const ATRN_TIMEOUT_MIN: Duration = Duration::from_secs(10 * 60);

/// What a reply may take beyond the wait that was asked for, before a customer takes the provider for lost.
const WAIT_GRACE: Duration = Duration::from_secs(60);

/// The longest wait that XWAIT can ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// How long a customer waits for the reply to an ATRN that asked for this wait (XWAIT), or for none.
#[must_use]
pub fn atrn_timeout(wait: Option<Duration>) -> Duration {
    wait.map_or(ATRN_TIMEOUT_MIN, |wait| {
        ATRN_TIMEOUT_MIN.max(wait + WAIT_GRACE)
    })
}

/// Labels that a domain in ATRN has at least (RFC 2645 §5.2.1: `domain = sub-domain 1*("." sub-domain)`).
const LABELS_MIN: usize = 2;

/// The argument of `ATRN [SP domain *("," domain)] [SP "XWAIT=" seconds]`; the latter is ours (docs/protocol.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Atrn {
    /// The domains, each once, in the order given; none means all of the account's.
    pub domains: Vec<Domain>,
    /// The longest silence that the customer wants, in whole seconds: of the reply while there is no mail, and of the
    /// reversed session while there is no more.
    pub wait: Option<Duration>,
}

/// An argument of ATRN is not of its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the argument of ATRN is not a list of domains, or not a wait")]
pub struct AtrnSyntax;

impl Atrn {
    /// Reads what follows the verb.
    ///
    /// The grammar is taken to the letter: no blanks but one before XWAIT, at least two labels, A-labels only, no trailing dot, no
    /// literal (R2645-7). Whether XWAIT is offered, the caller knows.
    ///
    /// # Errors
    /// [`AtrnSyntax`], which earns a `501`.
    pub fn parse(argument: &str) -> Result<Self, AtrnSyntax> {
        let (names, wait) = match argument.rsplit_once(' ') {
            Some((names, wait)) => (Some(names), Some(parse_wait(wait).ok_or(AtrnSyntax)?)),
            None => match parse_wait(argument) {
                Some(wait) => (None, Some(wait)),
                None => (Some(argument).filter(|names| !names.is_empty()), None),
            },
        };
        let mut domains = Vec::new();
        for name in names.iter().flat_map(|names| names.split(',')) {
            let domain = parse_domain(name).ok_or(AtrnSyntax)?;
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        Ok(Self { domains, wait })
    }
}

/// Prints the whole command, without its line end.
impl fmt::Display for Atrn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ATRN")?;
        for (position, domain) in self.domains.iter().enumerate() {
            let separator = if position == 0 { ' ' } else { ',' };
            write!(formatter, "{separator}{domain}")?;
        }
        if let Some(wait) = self.wait {
            write!(formatter, " XWAIT={}", wait.as_secs())?;
        }
        Ok(())
    }
}

/// U-labels are other people's extension, so they are refused before [`Domain::parse`] would turn them into A-labels.
fn parse_domain(name: &str) -> Option<Domain> {
    let is_grammar = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.');
    if !name.bytes().all(is_grammar) {
        return None;
    }
    Domain::parse(name)
        .ok()
        .filter(|domain| domain.labels() >= LABELS_MIN)
}

/// `"XWAIT=" %x31-39 *4DIGIT`, the keyword in any case, up to [`WAIT_MAX`].
fn parse_wait(parameter: &str) -> Option<Duration> {
    let (keyword, digits) = parameter.split_once('=')?;
    let is_grammar = keyword.eq_ignore_ascii_case("XWAIT")
        && (1..=5).contains(&digits.len())
        && digits.bytes().all(|octet| octet.is_ascii_digit())
        && !digits.starts_with('0');
    let wait = Duration::from_secs(digits.parse().ok().filter(|_| is_grammar)?);
    Some(wait).filter(|wait| *wait <= WAIT_MAX)
}

#[cfg(test)]
mod tests;
