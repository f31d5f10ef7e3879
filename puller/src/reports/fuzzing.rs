//! The way of a report as one function of octets, for the fuzz target.

use atrn_shared::smtp::address::{Domain, Mailbox};
use jiff::Zoned;

use super::rebuild::{Stamp, rebuild};
use super::rule::Report;

/// What would go outside for this content; `None` where it would not.
#[must_use]
pub fn rebuilt_report(content: &[u8], asked: &[Domain]) -> Option<Vec<u8>> {
    let report = Report::read(content, asked).ok()?;
    let stamp = Stamp {
        to: &Mailbox::parse("sender@outside.example").ok()?,
        id: "4KQ9",
        now: &Zoned::default(),
    };
    Some(rebuild(&report, &stamp))
}
