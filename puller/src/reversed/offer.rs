//! What the relay is offered: our EHLO keywords and our limits.

use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::limits::{HEADER_OCTETS, RECEIVED_FIELDS};
use atrn_shared::smtp::server::Config;

use super::Terms;
use crate::handover::Handover;

/// Room for the relay's own trace header: with the same limit on both sides, what a sender was allowed to send comes in.
const RELAY_TRACE_OCTETS: usize = 4096;

/// What a relay is offered does not depend on the target: what the target cannot take is refused message by message,
/// and its keywords stay inside. DSN alone does, for it moves a duty: to pass on what a sender asked of a server that
/// knows nothing of it would leave the sender without his report (RFC 3461 §5.2.2), which is the relay's to make then.
pub(super) fn machine(terms: &Terms, handover: &Handover) -> Config {
    let extensions = Extensions {
        chunking: true,
        delivery_id: true,
        dsn: handover.offers_dsn(),
        eight_bit_mime: true,
        enhanced_status_codes: true,
        pipelining: true,
        size: Some(
            terms
                .limits
                .max_message_size
                .saturating_add(RELAY_TRACE_OCTETS as u64),
        ),
        smtputf8: true,
        ..Extensions::default()
    };
    let config = Config::new(&terms.hostname, extensions);
    let limits = &terms.limits;
    // The largest transaction that is allowed is possible.
    let commands_max = limits.max_commands.max(limits.max_recipients + 100);
    Config {
        recipients_max: limits.max_recipients,
        errors_max: u32::try_from(limits.max_errors).unwrap_or(u32::MAX),
        commands_max: u32::try_from(commands_max).unwrap_or(u32::MAX),
        // What a relay with the same limits took has its trace field on top.
        header_octets_max: HEADER_OCTETS + RELAY_TRACE_OCTETS,
        received_max: RECEIVED_FIELDS + 1,
        ..config
    }
}
