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

/// Labels that a domain in ATRN has at least (RFC 2645 §5.2.1: `domain = sub-domain 1*("." sub-domain)`).
const LABELS_MIN: usize = 2;

/// The argument of `ATRN [SP domain *("," domain)]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Atrn {
    /// The domains, each once, in the order given; none means all of the account's.
    pub domains: Vec<Domain>,
}

/// An argument of ATRN is not of its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the argument of ATRN is not a list of domains")]
pub struct AtrnSyntax;

impl Atrn {
    /// Reads what follows the verb.
    ///
    /// The grammar is taken to the letter: no blanks, at least two labels, A-labels only, no trailing dot, no literal (R2645-7).
    ///
    /// # Errors
    /// [`AtrnSyntax`], which earns a `501`.
    pub fn parse(argument: &str) -> Result<Self, AtrnSyntax> {
        let mut domains = Vec::new();
        if argument.is_empty() {
            return Ok(Self { domains });
        }
        for name in argument.split(',') {
            let domain = parse_domain(name).ok_or(AtrnSyntax)?;
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        Ok(Self { domains })
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

#[cfg(test)]
mod tests;
